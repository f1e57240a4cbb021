"""From copies of weights at some steps to rows of spectra and angles, in tiles of steps."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from neurocollapse.dynamics.layout import Layout
from neurocollapse.dynamics.leading import gaussian, leading_svd, leading_values
from neurocollapse.dynamics.reference import Frame, frame_of
from neurocollapse.dynamics.spectra import estimated_imbalance, imbalance, stable_rank, weight_effective_rank

NUM_PROBES = 32
"""Random vectors that estimate the imbalance of large weights, to within a quarter (√(2/32)) of its square."""

PADDING = -1
"""The step number of copies that only fill up a tile; it lies before every real step."""

Rows = dict[str, np.ndarray]
Sides = tuple[Tensor, Tensor]
"""Left and right singular vectors, (steps, features, components) each."""


@dataclass(eq=False)
class Memory:
    """What later rows are compared to.

    Attributes
    ----------
    start
        The weights W(0), one matrix a layer; empty until they are known.
    frames
        Left and right singular vectors of each layer at the reference step; empty until it has come.
    reference_step
        Which step that was.
    start_is_given
        Whether the start was handed over, rather than taken from the first row; then it outlives that row.
    first_step
        The first step that the run saw, recorded or not; None until it has come.
    """

    start: list[Tensor] = field(default_factory=list)
    frames: list[tuple[Frame, Frame]] = field(default_factory=list)
    reference_step: int | None = None
    start_is_given: bool = False
    first_step: int | None = None


@torch.no_grad()
def analyse(
    steps: Sequence[int], stacks: Sequence[Tensor], layout: Layout, memory: Memory, *, num_before: int = 0
) -> Rows:
    """Measure every layer at every step; remembers the reference's singular vectors when it comes by.

    The last bits of a batched decomposition depend on the size of the batch and on the place in it. Which steps are
    analysed together depends on the clock and on interruptions, so the batches are tiles of a fixed size, in which the
    n-th row of a run always has the same place: an interrupted run ends with the bits of an unbroken one.

    Parameters
    ----------
    steps
        Ascending.
    stacks
        One tensor (steps, rows, columns) a layer.
    num_before
        Rows of the run before these.
    """
    rows = layout.rows(len(steps))
    done = 0
    with ExitStack() as in_full_precision:
        for device in {stack.device.type for stack in stacks}:
            in_full_precision.enter_context(torch.autocast(device, enabled=False))
        while done < len(steps):
            place = (num_before + done) % layout.tile
            part = slice(done, min(len(steps), done + layout.tile - place))
            filled = [*steps[part], *[steps[part][-1]] * layout.tile][: layout.tile - place]
            tiles = [_tile(stack[part], place, layout.tile) for stack in stacks]
            found = _analysed([PADDING] * place + filled, tiles, layout, memory)
            for name, values in found.items():
                rows[name][part] = values[place : place + part.stop - done]
            done = part.stop
    return rows


def _tile(stack: Tensor, place: int, size: int) -> Tensor:
    """A tile that holds some matrices from a place on, and copies of the first elsewhere."""
    tile = stack[:1].repeat(size, 1, 1)
    tile[place : place + len(stack)] = stack
    return tile


def _analysed(steps: Sequence[int], stacks: Sequence[Tensor], layout: Layout, memory: Memory) -> Rows:
    """The rows of one tile."""
    rows = layout.rows(len(steps))
    first = _first_compared(steps, layout, memory)
    frames = list(memory.frames)
    for layer, stack in enumerate(stacks):
        done = _spectra(layer, steps, stack, layout, memory.start[layer], rows, first)
        if done is None:
            continue
        left, right = done
        if len(frames) == layer:
            known = 1.0 if _has_directions(rows, layer)[first] else torch.nan
            frames.append((frame_of(known * left[first], layer, layout), frame_of(known * right[first], layer, layout)))
        _angles(layer, (left, right), frames[layer], layout, rows, first)
    _imbalances(steps, stacks, layout, rows)
    if first < len(steps) and not memory.frames:
        memory.frames, memory.reference_step = frames, steps[first]
    return rows


def _first_compared(steps: Sequence[int], layout: Layout, memory: Memory) -> int:
    """The first row that is compared to the reference, which may be the reference itself; len(steps) if none is."""
    wanted = layout.options.reference if memory.reference_step is None else memory.reference_step
    if wanted is None:
        return len(steps)
    return next((row for row, step in enumerate(steps) if step >= wanted), len(steps))


def _spectra(
    layer: int, steps: Sequence[int], stack: Tensor, layout: Layout, start: Tensor, rows: Rows, first: int
) -> Sides | None:
    """Fill in singular values, ranks and drift; return the singular vectors if any row from `first` on wants them."""
    finite = stack.isfinite().all(dim=2).all(dim=1)
    stack = torch.where(finite[:, None, None], stack, 0.0)
    counts = bool(start.isfinite().all())
    measure = _sketched if layout.sketched[layer] else _full
    found, sides = measure(layer, steps, stack, layout, start if counts else torch.zeros_like(start), first)
    if not counts:
        found["drift_singular_values"].fill_(torch.nan)
    absent = ~finite.cpu().numpy()
    for name, values in found.items():
        filled = values.double().cpu().numpy()
        filled[absent] = np.nan
        rows[name][:, layer, ...][(slice(None), *map(slice, filled.shape[1:]))] = filled
    return sides


def _full(
    layer: int, steps: Sequence[int], stack: Tensor, layout: Layout, start: Tensor, first: int
) -> tuple[dict[str, Tensor], Sides | None]:
    """Decompose every step in full, in float64; where vectors come along, the values have other last bits."""
    stack, start = stack.cpu().double(), start.cpu().double()
    vectors = first < len(steps)
    if vectors:
        left, values, right = torch.linalg.svd(stack, full_matrices=False)
    if not vectors or first > steps.count(PADDING):
        alone = torch.linalg.svdvals(stack)
        values = torch.cat([alone[:first], values[first:]]) if vectors else alone
    kept = layout.kept[layer]
    found = {
        "singular_values": values[:, :kept],
        "singular_value_error": torch.zeros_like(values[:, :kept]),
        "drift_singular_values": torch.linalg.svdvals(stack - start)[:, :kept],
        "range_error": values.new_zeros(len(steps)),
        "weight_effective_rank": weight_effective_rank(values),
        "stable_rank": stable_rank(values),
    }
    return found, (left, right.mT) if vectors else None


def _sketched(
    layer: int, steps: Sequence[int], stack: Tensor, layout: Layout, start: Tensor, first: int
) -> tuple[dict[str, Tensor], Sides | None]:
    """Find the leading components of every step from a sketch, in the weights' own precision."""
    dtype = torch.float64 if stack.dtype == torch.float64 else torch.float32
    kept, change = layout.kept[layer], stack.to(dtype) - start.to(stack.device, dtype)
    own = [leading_svd(stack[row].to(dtype), kept, seed=_seed(layout, step, layer)) for row, step in enumerate(steps)]
    drift = [leading_values(change[row], kept, seed=_seed(layout, step, layer)) for row, step in enumerate(steps)]
    values = torch.stack([one.values for one in own])
    found = {
        "singular_values": values,
        "singular_value_error": torch.stack([one.value_error for one in own]),
        "drift_singular_values": torch.stack(drift),
        "range_error": torch.stack([one.range_error for one in own]),
        "weight_effective_rank": torch.full_like(values[:, 0], torch.nan),
        "stable_rank": stable_rank(values, torch.linalg.matrix_norm(stack.to(dtype)).square()),
    }
    sides = torch.stack([one.left for one in own]), torch.stack([one.right for one in own])
    return found, sides if first < len(steps) else None


def _has_directions(rows: Rows, layer: int) -> np.ndarray:
    """Which matrices are neither zero nor infinite, so that their singular vectors mean something."""
    has: np.ndarray = rows["singular_values"][:, layer, 0] > 0
    return has


def _angles(layer: int, sides: Sides, frames: tuple[Frame, Frame], layout: Layout, rows: Rows, first: int) -> None:
    """Fill in the angles of the rows from `first` on; a sketch knows no trailing vectors and no middle."""
    if not all(frame.is_known for frame in frames):
        return
    edge = layout.edges[layer]
    absent = ~_has_directions(rows, layer)
    absent[:first] = True
    for side, (vectors, frame) in enumerate(zip(sides, frames, strict=True)):
        leading, trailing = frame.edge_angles(vectors, edge)
        found = {"top_angle": leading}
        if not layout.sketched[layer]:
            found |= {"bottom_angle": trailing, "middle_angle": frame.middle_angle(vectors, edge)}
        for name, angles in found.items():
            filled = angles.double().cpu().numpy()
            filled[absent] = np.nan
            target = rows[name][:, layer, side]
            target[(slice(None), *map(slice, filled.shape[1:]))] = filled


def _imbalances(steps: Sequence[int], stacks: Sequence[Tensor], layout: Layout, rows: Rows) -> None:
    """Fill in how far each matrix is from balance with the next one, where the two can be multiplied."""
    for layer, (weight, following) in enumerate(pairwise(stacks)):
        if layout.shapes[layer + 1][1] != layout.shapes[layer][0]:
            continue
        if not (layout.sketched[layer] or layout.sketched[layer + 1]):
            found = imbalance(weight.cpu().double(), following.cpu().double()).numpy()
        else:
            found = np.array([
                _estimate(weight[row], following[row], _seed(layout, step, layer)) for row, step in enumerate(steps)
            ])  # fmt: skip
        rows["imbalance"][:, layer] = found


def _estimate(weight: Tensor, following: Tensor, seed: int) -> float:
    """The imbalance of two large matrices."""
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    weight, following = weight.to(dtype), following.to(weight.device, dtype)
    probes = gaussian(weight.shape[0], NUM_PROBES, weight, torch.Generator().manual_seed(seed))
    return float(estimated_imbalance(weight, following, probes))


def _seed(layout: Layout, step: int, layer: int) -> int:
    """The seed of one layer at one step, so that a continued run draws what an unbroken one does."""
    return int((layout.options.seed * 1_000_003 + step) * 10_007 + layer) % 2**63

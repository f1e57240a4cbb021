"""Tensor arithmetic of the running sums: in place, in scratch memory, without temporaries of the batch's size."""

import threading
from typing import NamedTuple

import torch
from torch import Tensor

from neurocollapse.statistics.class_batch import ClassBatch
from neurocollapse.statistics.ledger import FLUSH_COUNT
from neurocollapse.statistics.matmul import full_matmul_precision
from neurocollapse.statistics.sums import Sums
from neurocollapse.support.transfer import sent

NORM_BLOCK = 128
"""Features summed in float32 before a squared norm continues in float64: relative error ≤ 3e-8 per row, no bias."""
ALL_FINITE = -1
"""In place of the first row that is not finite, where there is none."""
BLOCK_ELEMENTS = 2**18
"""Elements converted to float64 at once: temporaries of 2 MiB are reused, those of 32 MiB come as fresh pages."""
COVARIANCE_BLOCKS = 8
"""Column blocks of δᵀδ: eight upper blocks cost 0.55–0.6 of the full product."""


class AtOnce(NamedTuple):
    """Elements that are worked on together.

    Attributes
    ----------
    rows : int
        Elements of shifted rows: 2 MiB of float32 on a CPU; 1 GiB elsewhere, and 2 GiB more where they go to float64.
    classes : int
        Elements of references and class sums, of which several float64 temporaries are made.
    """

    rows: int
    classes: int


class _Scratch(threading.local):
    """The buffers of one thread: torch lets another thread run between two operations on them."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}


_scratch = _Scratch()


def at_once(device: torch.device) -> AtOnce:
    """How much is worked on together: what a cache holds on a CPU; elsewhere more, as each further part is launches."""
    return AtOnce(2**19, 2**20) if device.type == "cpu" else AtOnce(2**28, 2**24)


def scratch_like(state: Tensor, shape: torch.Size) -> Tensor:
    """A buffer of `shape`, cut from one that a thread's layers of a device share and that only ever grows."""
    buffer = _scratch.buffers.get((state.device, state.dtype))
    if buffer is None or buffer.numel() < shape.numel():
        with torch.inference_mode(False):
            buffer = torch.empty(shape.numel(), dtype=state.dtype, device=state.device)
        _scratch.buffers[state.device, state.dtype] = buffer
    return buffer.as_strided(shape, (shape[1], 1))


def medians(samples: Tensor) -> Tensor:
    """The sample nearest to the other two, of every three in shape (classes, 3, features)."""
    sides = torch.linalg.vector_norm(samples - samples.roll(1, dims=1), dim=2)  # 0–2, 1–0, 2–1
    chosen = (sides + sides.roll(-1, dims=1)).argmin(dim=1)
    return samples[torch.arange(len(samples), device=samples.device), chosen]


def add_rows(
    features: Tensor, batch: ClassBatch, sums: Sums, *, settle: bool, keep_shifted: bool
) -> tuple[int, Tensor | None]:
    """Add the features of some samples, shifted by their classes' references, to the running sums.

    Parameters
    ----------
    features : Tensor of shape (samples, features)
    batch : ClassBatch
        Their labels.
    sums : Sums
        What they are added to.
    settle : bool
        Leave nothing in the partial sums: the batch has too many samples of a class for them.
    keep_shifted : bool
        Whether the shifted samples are asked for.

    Returns
    -------
    spoilt : int or Tensor of shape (classes,)
        The first sample that is not finite, or whose squares overflow, and is not left out; ALL_FINITE where none is.
        Where the kernel never waits, the sums of squares by class.
    shifted : Tensor of shape (samples, features), or None
        In scratch memory; zeros for one that is left out.
    """
    labels = batch.on(features.device)
    shifted = scratch_like(sums.reference, features.shape)
    torch.index_select(sums.reference, 0, labels, out=shifted)
    torch.sub(features, shifted, out=shifted)
    if sums.kept is not None:
        finite = shifted.isfinite().all(dim=1)
        shifted.masked_fill_(~finite.unsqueeze(1), 0.0)
        sums.kept.index_add_(0, labels, finite.to(sums.kept.dtype))
    if settle and sums.are_apart:
        for run in batch.runs(FLUSH_COUNT):
            sums.partial.index_add_(0, labels[run.rows], shifted[run.rows])
            move_sums(sums.partial, sums.total, some_of(run.classes, sums.partial))
    else:
        _add_to_classes(sums.partial, labels, shifted)
    norms = squared_norms(shifted)
    sums.square.index_add_(0, labels, norms)
    return _first_not_finite(norms), shifted if keep_shifted else None


def _first_not_finite(norms: Tensor) -> int:
    """The first of some numbers that is not finite; ALL_FINITE where they are."""
    places = (~norms.isfinite()).nonzero()
    return int(places[0]) if len(places) else ALL_FINITE


def _add_to_classes(target: Tensor, labels: Tensor, rows: Tensor) -> None:
    """Add each row to that of `target` with its label; float32 rows to float64 ones a block at a time."""
    if rows.dtype == target.dtype:
        target.index_add_(0, labels, rows)
        return
    height = max(1, BLOCK_ELEMENTS // max(1, rows.shape[1]))
    for some, part in zip(labels.split(height), rows.split(height), strict=True):
        target.index_add_(0, some, part.to(target.dtype))


def squared_norms(rows: Tensor) -> Tensor:
    """‖row‖² in float64, by blocks of NORM_BLOCK features where the rows are float32."""
    if rows.dtype == torch.float64:
        return torch.linalg.vector_norm(rows, dim=1).square_()
    blocks, rest = divmod(rows.shape[1], NORM_BLOCK)
    inner = rows[:, : blocks * NORM_BLOCK] if rest else rows
    lengths = torch.linalg.vector_norm(inner.view(rows.shape[0], blocks, NORM_BLOCK), dim=2)
    norms = torch.linalg.vector_norm(lengths, dim=1, dtype=torch.float64).square_()
    if rest:
        norms += torch.linalg.vector_norm(rows[:, -rest:], dim=1).double().square_()
    return norms


def move_sums(source: Tensor, target: Tensor, rows: Tensor | None = None) -> None:
    """Add the float32 `source` to the float64 `target` and clear it, in all rows or in those given."""
    if rows is None and (source.numel() <= BLOCK_ELEMENTS or source.device.type != "cpu"):
        target += source
        source.zero_()
        return
    height = max(1, BLOCK_ELEMENTS // max(1, source.shape[1]))
    if rows is None:
        for part, total in zip(source.split(height), target.split(height), strict=True):
            total += part
            part.zero_()
        return
    for chosen in rows.split(height):
        target.index_add_(0, chosen, source.index_select(0, chosen).double())
        source.index_fill_(0, chosen, 0.0)


def some_of(classes: Tensor, state: Tensor) -> Tensor | None:
    """Classes as rows of a state, on its device; None for all rows where there is little to save."""
    return sent(classes, state.device) if 2 * len(classes) < len(state) else None


def add_upper_products(products: Tensor, rows: Tensor) -> None:
    """Add the upper blocks of rowsᵀ rows to `products`; what lies below the block diagonal is never read."""
    with full_matmul_precision():
        for block in _upper_blocks(products.shape[0]):
            products[block].addmm_(rows[:, block[0]].T, rows[:, block[1]])


def move_upper_products(source: Tensor, target: Tensor) -> None:
    """Add the upper blocks of the float32 `source` to the float64 `target` and clear them."""
    for block in _upper_blocks(source.shape[0]):
        move_sums(source[block], target[block])


def mirrored(upper: Tensor) -> Tensor:
    """The symmetric matrix with this upper triangle."""
    return upper.triu() + upper.triu(1).T


def _upper_blocks(size: int) -> list[tuple[slice, slice]]:
    """Row and column slices that cover the upper triangle of a square matrix."""
    width = max(1, -(-size // COVARIANCE_BLOCKS))
    return [(slice(start, start + width), slice(start, size)) for start in range(0, size, width)]

"""The running sums on a GPU by kernels for Triton: two launches that read the features once.

With the reference C of each class, over the rows i of every class k, or over those of them that are finite:

    δ_i = z_i − C_k,    total_k += Σ_i δ_i,    square_k += Σ_i ‖δ_i‖²,    kept_k += Σ_i 1.

δ is rounded to the type of C, and everything behind it is float64. One program adds the rows of one class over one
block of features, in one order, so that two runs agree to the last bit; squares of the blocks are then added up, class
by class, by another kernel. Where rows may be left out, a third reads the features first and finds which are finite.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from neurocollapse.statistics.class_batch import ClassBatch
from neurocollapse.statistics.kernels import scratch_like
from neurocollapse.statistics.sums import Sums

MOST_ROWS, COLUMNS = 8, tl.constexpr(128)
"""Rows of a class, at most, and features that a program works on at once: it has registers for two sums of each."""
WIDE = tl.constexpr(1024)
"""Features of a row, or squares of a class, that are looked at together."""
FUSED = {"enable_fp_fusion": True}
"""A square is added with one rounding, as Triton does up to 3.9; later versions have to be told."""


def add_rows(
    features: Tensor, batch: ClassBatch, sums: Sums, *, settle: bool, keep_shifted: bool
) -> tuple[Tensor, Tensor | None]:
    """Add features to the running sums; see `neurocollapse.statistics.kernels.add_rows`.

    Nothing goes to the partial sums. In place of the first bad row it returns the sums of squares, which are not finite
    from the first batch on whose features are not.
    """
    if not len(features):
        return sums.square, None
    if batch.num_classes > len(sums.reference):
        raise ValueError(f"the batch has {batch.num_classes} classes, the sums have {len(sums.reference)}")
    device, (num_rows, width) = features.device, features.shape
    if features.dtype not in (torch.float32, torch.float64):
        features = features.float()
    features = features.resolve_neg()
    order, starts, classes = (batch.sent(part, device) for part in (batch.order, batch.starts, batch.present))
    shifted = scratch_like(sums.reference, features.shape) if keep_shifted else None
    finite, kept_step = None, 0
    num_blocks = max(1, triton.cdiv(width, COLUMNS.value))  # rows without features are counted, too
    squares = torch.empty(len(classes), num_blocks, dtype=torch.float64, device=device)
    with torch.cuda.device_of(features):  # Triton launches on the device at hand
        if sums.kept is not None:
            finite, kept_step = torch.empty(num_rows, dtype=torch.int8, device=device), sums.kept.stride(0)
            find_finite[(num_rows,)](features, *features.stride(), width, finite)
        add_classes[(len(classes) * num_blocks,)](
            *(features, *features.stride(), width, order, starts, classes, finite, sums.reference, shifted),
            *(sums.total, sums.total.stride(0), sums.kept, kept_step, squares, num_blocks),
            ROWS=min(MOST_ROWS, triton.next_power_of_2(batch.largest)),
            **FUSED,
        )
        add_squares[(len(classes),)](squares, num_blocks, classes, sums.square, sums.square.stride(0), **FUSED)
    return sums.square, shifted


@triton.jit
def find_finite(features, row_step, column_step, num_features, finite):
    """Whether a row is finite, 1 or 0: a program for each row."""
    row = tl.program_id(0).to(tl.int64)
    bad = tl.full([WIDE], 0, tl.int32)
    for first in range(0, num_features, WIDE):
        column = (first + tl.arange(0, WIDE)).to(tl.int64)
        z = tl.load(features + row * row_step + column * column_step, mask=column < num_features, other=0.0)
        bad |= (tl.abs(z) < float("inf")).to(tl.int32) ^ 1  # false of NaN, too
    tl.store(finite + row, (1 - tl.max(bad)).to(tl.int8))


@triton.jit
def add_classes(
    features,
    row_step,
    column_step,
    num_features,
    order,
    starts,
    classes,
    finite,
    reference,
    shifted,
    total,
    total_step,
    kept,
    kept_step,
    squares,
    num_blocks,
    ROWS: tl.constexpr,
):
    """Add the rows of one class over one block of features: a program for each block of each class that occurs."""
    present, block = tl.program_id(0) // num_blocks, tl.program_id(0) % num_blocks
    start, end, k = tl.load(starts + present), tl.load(starts + present + 1), tl.load(classes + present)
    column = (block * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    inside = column < num_features
    c = tl.load(reference + k * num_features + column, mask=inside, other=0.0)
    zeros = tl.full([ROWS, COLUMNS], 0.0, tl.float64)
    sums, norms, number = zeros, zeros, tl.full([ROWS], 0.0, tl.float64)
    for first in range(start, end, ROWS):
        place = first + tl.arange(0, ROWS)
        counts = place < end
        row = tl.load(order + place, mask=counts, other=0)
        asked = counts[:, None] & inside[None, :]
        if finite is not None:
            counts = tl.load(finite + row, mask=counts, other=0) != 0
        there = counts[:, None] & inside[None, :]
        z = tl.load(features + row[:, None] * row_step + column[None, :] * column_step, mask=there, other=0.0)
        delta = tl.where(there, z.to(c.dtype) - c[None, :], 0.0)
        if shifted is not None:
            tl.store(shifted + row[:, None] * num_features + column[None, :], delta, mask=asked)
        wide = delta.to(tl.float64)
        sums += wide
        norms += wide * wide
        number += counts.to(tl.float64)
    cell = total + k * total_step + column
    before = tl.load(cell, mask=inside, other=0.0)
    tl.store(cell, (before + tl.sum(sums, axis=0)).to(before.dtype), mask=inside)
    tl.store(squares + tl.program_id(0), tl.sum(norms))
    if kept is not None:  # noqa: SIM102 - decided when it is compiled, the other when it runs
        if block == 0:
            tl.store(kept + k * kept_step, tl.load(kept + k * kept_step) + tl.sum(number))


@triton.jit
def add_squares(squares, num_blocks, classes, square, square_step):
    """Add the squares of all blocks of a class: a program for each class that occurs."""
    present = tl.program_id(0).to(tl.int64)
    norms = tl.full([WIDE], 0.0, tl.float64)
    for first in range(0, num_blocks, WIDE):
        block = first + tl.arange(0, WIDE)
        norms += tl.load(squares + present * num_blocks + block, mask=block < num_blocks, other=0.0)
    cell = square + tl.load(classes + present) * square_step
    tl.store(cell, tl.load(cell) + tl.sum(norms))

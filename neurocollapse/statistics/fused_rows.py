"""The running sums on a GPU by kernels for Triton, which read the features once, or twice where rows may be left out.

With the reference C of each class, over the rows i of every class k, or over those of them that are finite:

    δ_i = z_i − C_k,    total_k += Σ_i δ_i,    square_k += Σ_i ‖δ_i‖²,    kept_k += Σ_i 1.

δ is rounded to the type of C, and summed in float64. A program adds a bag of rows, some of one class, over one block of
features: to the total, or where a class has several bags to a part of it, and the parts are then added in their order.
Squares of all bags and blocks of a class are added in the same way. No two programs add to one number, so that two runs
agree to the last bit.
"""

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from neurocollapse.statistics.class_batch import ClassBatch
from neurocollapse.statistics.kernels import scratch_like
from neurocollapse.statistics.sums import Sums

MOST_IN_TURN = 64
"""Rows of a class that one program goes through, before there are more programs for it."""
MOST_ROWS, COLUMNS = 8, tl.constexpr(128)
"""Rows, at most, and features that a program works on at once: it has registers for two float64 sums of each."""
WIDE = tl.constexpr(1024)
"""Features of a row, or squares of a class, that are looked at together."""
FUSED = {"enable_fp_fusion": True}
"""A float64 square is added with one rounding, as Triton does up to 3.9; later versions have to be told."""
READABLE = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Types of features that the kernels take as they are."""


def add_rows(
    features: Tensor, batch: ClassBatch, sums: Sums, *, settle: bool, keep_shifted: bool
) -> tuple[Tensor, Tensor | None]:
    """Add features to the running sums; see `neurocollapse.statistics.kernels.add_rows`.

    Nothing goes to the partial sums. In place of the first bad row it returns the sums of squares, which are not finite
    from the first batch on whose features are not.

    Raises
    ------
    ValueError
        If a label may be none of the classes of the sums: the kernels would write elsewhere.
    """
    if not len(features):
        return sums.square, None
    if batch.num_classes > len(sums.reference):
        raise ValueError(f"the batch has {batch.num_classes} classes, the sums have {len(sums.reference)}")
    device, (num_rows, width) = features.device, features.shape
    features = _readable(features)
    bags = batch.bags(device, MOST_IN_TURN)
    num_bags, num_blocks = len(bags.starts) - 1, max(1, triton.cdiv(width, COLUMNS.value))  # also without features
    num_classes, empty = num_bags // bags.per_class, partial(torch.empty, dtype=torch.float64, device=device)
    shifted = scratch_like(sums.reference, features.shape) if keep_shifted else None
    parts = None if bags.per_class == 1 else empty(num_bags, width)
    squares = empty(num_bags, num_blocks)
    finite = numbers = None
    with torch.cuda.device_of(features):  # Triton launches on the device at hand
        if sums.kept is not None:
            finite, numbers = torch.ones(num_rows, dtype=torch.int8, device=device), empty(num_bags)
            num_pieces = triton.cdiv(width, WIDE.value)
            find_finite[(num_rows * num_pieces,)](features, *features.stride(), width, num_pieces, finite)
        add_bags[(num_bags * num_blocks,)](
            *(features, *features.stride(), width, num_blocks, bags.order, bags.starts, bags.classes, bags.per_class),
            *(finite, sums.reference, shifted, sums.total, sums.total.stride(0), parts, squares, numbers),
            ROWS=min(MOST_ROWS, triton.next_power_of_2(triton.cdiv(batch.largest, bags.per_class))),
            **FUSED,
        )
        if parts is not None:
            add_parts[(num_classes * num_blocks,)](
                *(parts, width, num_blocks, bags.classes, bags.per_class, sums.total, sums.total.stride(0)), **FUSED
            )
        kept_step = 0 if sums.kept is None else sums.kept.stride(0)
        add_squares[(num_classes,)](
            *(squares, num_blocks, numbers, bags.classes, bags.per_class),
            *(sums.square, sums.square.stride(0), sums.kept, kept_step),
            **FUSED,
        )
    return sums.square, shifted


def _readable(features: Tensor) -> Tensor:
    """The features in a type that the kernels can be compiled for: NVIDIA's older processors know no bfloat16."""
    is_bfloat16 = features.dtype == torch.bfloat16 and features.is_cuda
    if features.dtype not in READABLE or (is_bfloat16 and torch.cuda.get_device_capability(features.device) < (8, 0)):
        features = features.float()
    return features.resolve_neg()


@triton.jit
def find_finite(features, row_step, column_step, num_features, num_pieces, finite):
    """Put 0 where a row is not finite: a program for each piece of each row."""
    row, piece = (tl.program_id(0) // num_pieces).to(tl.int64), tl.program_id(0) % num_pieces
    column = (piece * WIDE + tl.arange(0, WIDE)).to(tl.int64)
    z = tl.load(features + row * row_step + column * column_step, mask=column < num_features, other=0.0)
    bad = 1 - (tl.abs(z) < float("inf")).to(tl.int8)  # NaN is not below infinity either
    tl.store(finite + row, 0, mask=tl.max(bad) == 1)  # of several programs all store the same


@triton.jit
def add_bags(
    features,
    row_step,
    column_step,
    num_features,
    num_blocks,
    order,
    starts,
    classes,
    per_class,
    finite,
    reference,
    shifted,
    total,
    total_step,
    parts,
    squares,
    numbers,
    ROWS: tl.constexpr,
):
    """Add the rows of one bag over one block of features: a program for each block of each bag."""
    bag, block = (tl.program_id(0) // num_blocks).to(tl.int64), tl.program_id(0) % num_blocks
    start, end, k = tl.load(starts + bag), tl.load(starts + bag + 1), bag // per_class
    if classes is not None:
        k = tl.load(classes + k)
    column = (block * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    inside = column < num_features
    c = tl.load(reference + k * num_features + column, mask=inside, other=0.0)
    zeros = tl.full([ROWS, COLUMNS], 0.0, tl.float64)
    sums, norms, number = zeros, zeros, tl.full([ROWS], 0.0, tl.float64)
    for first in range(start, end, ROWS):
        place = first + tl.arange(0, ROWS)
        in_bag = place < end
        row = tl.load(order + place, mask=in_bag, other=0)
        counts = in_bag
        if finite is not None:
            counts = tl.load(finite + row, mask=in_bag, other=0) != 0
        taken = counts[:, None] & inside[None, :]
        z = tl.load(features + row[:, None] * row_step + column[None, :] * column_step, mask=taken, other=0.0)
        delta = tl.where(taken, (z - c[None, :]).to(c.dtype), 0.0)
        if shifted is not None:  # zeros for rows that are left out
            cells = shifted + row[:, None] * num_features + column[None, :]
            tl.store(cells, delta, mask=in_bag[:, None] & inside[None, :])
        exact = delta.to(tl.float64)
        sums += exact
        norms += exact * exact
        number += counts.to(tl.float64)
    tl.store(squares + bag * num_blocks + block, tl.sum(norms))
    if numbers is not None:
        tl.store(numbers + bag, tl.sum(number), mask=block == 0)
    if parts is not None:
        tl.store(parts + bag * num_features + column, tl.sum(sums, axis=0), mask=inside)
    else:
        cell, occurs = total + k * total_step + column, inside & (start < end)
        before = tl.load(cell, mask=occurs, other=0.0)
        tl.store(cell, (before + tl.sum(sums, axis=0)).to(before.dtype), mask=occurs)


@triton.jit
def add_parts(parts, num_features, num_blocks, classes, per_class, total, total_step):
    """Add the parts of a class over one block of features: a program for each block of each class."""
    present, block = (tl.program_id(0) // num_blocks).to(tl.int64), tl.program_id(0) % num_blocks
    column = (block * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    inside = column < num_features
    sums = tl.full([COLUMNS], 0.0, tl.float64)
    for bag in range(per_class):
        sums += tl.load(parts + (present * per_class + bag) * num_features + column, mask=inside, other=0.0)
    k = present
    if classes is not None:
        k = tl.load(classes + present)
    cell = total + k * total_step + column
    before = tl.load(cell, mask=inside, other=0.0)
    tl.store(cell, (before + sums).to(before.dtype), mask=inside)


@triton.jit
def add_squares(squares, num_blocks, numbers, classes, per_class, square, square_step, kept, kept_step):
    """Add the squares of all bags and blocks of a class, and count its rows: a program for each class."""
    present = tl.program_id(0).to(tl.int64)
    size = per_class * num_blocks
    norms = tl.full([WIDE], 0.0, tl.float64)
    for first in range(0, size, WIDE):
        place = first + tl.arange(0, WIDE)
        norms += tl.load(squares + present * size + place, mask=place < size, other=0.0)
    k = present
    if classes is not None:
        k = tl.load(classes + present)
    cell = square + k * square_step
    tl.store(cell, tl.load(cell) + tl.sum(norms))
    if kept is not None:
        number = tl.full([WIDE], 0.0, tl.float64)
        for first in range(0, per_class, WIDE):
            bag = first + tl.arange(0, WIDE)
            number += tl.load(numbers + present * per_class + bag, mask=bag < per_class, other=0.0)
        cell = kept + k * kept_step
        tl.store(cell, tl.load(cell) + tl.sum(number))

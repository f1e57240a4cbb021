"""The running sums on a GPU: few launches, nothing read back, and every sum made by one thread in one order.

Each row is shifted by its class's reference, δ = z − C; the rows of a class are then summed one by one, in the order
of the batch (`ClassBatch.bags` says which they are), to S += Σδ and q += Σ‖δ‖². So two runs agree to the last bit.
`index_add_` does not promise that on a GPU: it adds in the order in which threads arrive.

Float32 rows stay so where every class has one bag and the features can be parted into equal blocks. Everywhere else
they are shifted into float64, with their squares in a column behind them, so that one sum by class is that of both:
launches stay few, and half as many bytes again come and go.
"""

from functools import cache

import torch
from torch import Tensor

from neurocollapse.statistics.class_batch import Bags, ClassBatch
from neurocollapse.statistics.kernels import Sums, scratch_like
from neurocollapse.statistics.ledger import FLUSH_COUNT

LEAST_BLOCK, MOST_BLOCK, FEW_BLOCKS = 4, 128, 16
"""Features of a block whose squares float32 adds up; and how many blocks are too few to average their roundings out."""


def add_rows(
    features: Tensor, batch: ClassBatch, sums: Sums, *, settle: bool, keep_shifted: bool
) -> tuple[Tensor, Tensor | None]:
    """Add features to the running sums; see `neurocollapse.statistics.kernels.add_rows`.

    Nothing goes to the partial sums. In place of the samples' norms it returns the sums of squares, which are not
    finite from the first batch on whose features are not.
    """
    if not len(features):
        return sums.square, None
    reference, bags = sums.reference, batch.bags(features.device, FLUSH_COUNT)
    block = None if reference.dtype == torch.float64 else equal_block(features.shape[1])
    if block is None or sums.dropped is not None or bags.classes is not None or bags.numbers is not None:
        shifted = _add_in_double(features, batch, bags, sums)
    else:
        shifted = _shifted(features, batch, reference, scratch_like(reference, features.shape))
        sums.total.add_(_bag_sums(shifted, bags.order, bags.starts))
        squares = _bag_sums(_block_squares(shifted, block), bags.order, bags.starts)
        sums.square.addmv_(squares, _filled(1.0, squares.shape[1], features.device))
    return sums.square, shifted.to(reference.dtype) if keep_shifted else None


def not_finite(features: Tensor) -> Tensor:
    """Which rows are not finite, shape (samples,), 0 or 1 in int64."""
    return _beyond(torch.linalg.vector_norm(features, torch.inf, dim=1))


def equal_block(width: int) -> int | None:
    """Features of the blocks that some features can be parted into; None where no fitting number divides them."""
    most = max(LEAST_BLOCK, min(MOST_BLOCK, width // FEW_BLOCKS))
    return next((size for size in range(most, LEAST_BLOCK - 1, -1) if width % size == 0), None)


def _add_in_double(features: Tensor, batch: ClassBatch, bags: Bags, sums: Sums) -> Tensor:
    """Add rows and their squares as float64 rows with one more column; returns the shifted rows, in scratch memory."""
    rows = scratch_like(sums.square, torch.Size((len(features), features.shape[1] + 1)))
    shifted = _shifted(features, batch, sums.reference, rows[:, :-1])
    lengths = torch.linalg.vector_norm(shifted, dim=1)
    torch.mul(lengths, lengths, out=rows[:, -1])
    if sums.dropped is not None:
        # In float64 the length of float32 numbers is finite wherever they are; that of float64 ones may not be.
        left_out = not_finite(features) if features.dtype == torch.float64 else _beyond(lengths)
        rows.masked_fill_(left_out.bool().unsqueeze(1), 0.0)
        sums.dropped.index_add_(0, batch.on(features.device), left_out)  # of integers, the order does not matter
    added = _by_class(rows, bags)
    if bags.classes is None:
        sums.total.add_(added[:, :-1])
        sums.square.add_(added[:, -1])
    else:  # no class is there twice, so that no two threads add to one number
        sums.total.index_add_(0, bags.classes, added[:, :-1].to(sums.total.dtype))
        sums.square.index_add_(0, bags.classes, added[:, -1])
    return shifted


def _shifted(features: Tensor, batch: ClassBatch, reference: Tensor, out: Tensor) -> Tensor:
    """Features less the references of their classes, in the precision of these, as numbers of the dtype of `out`."""
    labels = batch.on(features.device)
    references = out if out.dtype == reference.dtype else scratch_like(reference, features.shape)
    torch.index_select(reference, 0, labels, out=references)
    return torch.sub(features, references, out=out)


def _by_class(rows: Tensor, bags: Bags) -> Tensor:
    """Sums of float64 rows by class: those of its bags, where it has several."""
    sums = _bag_sums(rows, bags.order, bags.starts)
    if bags.numbers is None or bags.of_classes is None:
        return sums
    return _bag_sums(sums, bags.numbers, bags.of_classes)


def _bag_sums(rows: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Σ rows[order[i]] for starts[j] ≤ i < starts[j + 1], one after the other: one launch, which copies no rows."""
    return torch.embedding_bag(rows, order, starts, False, 0, False, None, True)[0]  # mode 0: sums


def _block_squares(rows: Tensor, block: int) -> Tensor:
    """Squared norms of the float32 rows' blocks of some features, shape (samples, blocks), in float64."""
    lengths = torch.linalg.vector_norm(rows.view(len(rows), -1, block), dim=2)
    return torch.addcmul(_filled(0.0, 1, rows.device), lengths, lengths)  # squares in float64, in one launch


def _beyond(values: Tensor) -> Tensor:
    """Which numbers, none negative, are infinite or NaN: 0 or 1 in int64, in one launch."""
    return torch.bucketize(values, _filled(torch.finfo(values.dtype).max, 1, values.device, values.dtype))


@cache
def _filled(value: float, size: int, device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
    """A vector of one number, made once."""
    with torch.inference_mode(False):
        return torch.full((size,), value, dtype=dtype, device=device)

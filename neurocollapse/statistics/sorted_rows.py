"""The running sums on a GPU: few launches, nothing read back, and every sum made by one thread in one order.

Each row is shifted by its class's reference, δ = z − C; the rows of a class are then summed one by one, in the order
of the batch (`ClassBatch.bags` says which they are), to S += Σδ and q += Σ‖δ‖². So two runs agree to the last bit.
`index_add_` does not promise that on a GPU: it adds in the order in which threads arrive.
"""

from functools import cache

import torch
from torch import Tensor

from neurocollapse.statistics.kernels import scratch_like
from neurocollapse.statistics.labels import Bags, ClassBatch
from neurocollapse.statistics.ledger import FLUSH_COUNT

LEAST_BLOCK, MOST_BLOCK, FEW_BLOCKS = 4, 128, 16
"""Features of a block whose squares float32 adds up; and how many blocks are too few to average their roundings out."""


def add_rows(
    features: Tensor,
    batch: ClassBatch,
    *,
    reference: Tensor,
    partial: Tensor,
    total: Tensor,
    square: Tensor,
    dropped: Tensor | None,
    settle: bool,
    keep_shifted: bool,
) -> tuple[Tensor, Tensor | None]:
    """Add features to the running sums; see `neurocollapse.statistics.kernels.add_rows`.

    Nothing goes to `partial`. In place of the samples' norms it returns `square` itself, which is not finite from the
    first batch on whose features are not.
    """
    if not len(features):
        return square, None
    device = features.device
    labels, bags = batch.on(device), batch.bags(device, FLUSH_COUNT)
    shifted = scratch_like(reference, features.shape)
    torch.index_select(reference, 0, labels, out=shifted)
    torch.sub(features, shifted, out=shifted)
    if dropped is not None:
        left_out = not_finite(features)
        shifted.masked_fill_(left_out.unsqueeze(1), 0.0)
        dropped.index_add_(0, labels, left_out.long())  # of integers, the order does not matter
    sums, squares = _by_class(shifted, bags), _by_class(_block_squares(shifted), bags)
    ones = _filled(1.0, squares.shape[1], device)
    if bags.classes is None:
        total.add_(sums)
        square.addmv_(squares, ones)
    else:  # no class is there twice, so that no two threads add to one number
        total.index_add_(0, bags.classes, sums.to(total.dtype))
        square.index_add_(0, bags.classes, squares.mv(ones))
    return square, shifted if keep_shifted else None


def not_finite(features: Tensor) -> Tensor:
    """Which rows are not finite, shape (samples,), bool: largest − largest is 0 for numbers, and NaN for all else."""
    largest = torch.linalg.vector_norm(features, torch.inf, dim=1)
    return largest.sub(largest).ne(0.0)


def _by_class(rows: Tensor, bags: Bags) -> Tensor:
    """Sums of rows by class: those of each bag in the dtype of the rows, those of a class's bags in float64."""
    sums = _bag_sums(rows, bags.order, bags.starts)
    if bags.numbers is None or bags.of_classes is None:
        return sums
    return _bag_sums(sums.double(), bags.numbers, bags.of_classes)


def _bag_sums(rows: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Σ rows[order[i]] for starts[j] ≤ i < starts[j + 1], one after the other: one launch, which copies no rows."""
    return torch.embedding_bag(rows, order, starts, False, 0, False, None, True)[0]  # mode 0: sums


def _block_squares(rows: Tensor) -> Tensor:
    """Squared norms of the rows' blocks of at most MOST_BLOCK features, shape (samples, blocks), in float64."""
    num_samples, width = rows.shape
    if rows.dtype == torch.float64:
        lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    else:
        most = max(LEAST_BLOCK, min(MOST_BLOCK, width // FEW_BLOCKS))
        block = next((size for size in range(most, LEAST_BLOCK - 1, -1) if width % size == 0), most)
        blocks, rest = divmod(width, block)
        whole = (rows[:, : blocks * block] if rest else rows).view(num_samples, blocks, block)
        lengths = torch.linalg.vector_norm(whole, dim=2)
        if rest:
            last = torch.linalg.vector_norm(rows[:, -rest:], dim=1, keepdim=True)
            lengths = torch.cat([lengths, last], dim=1)
    return torch.addcmul(_filled(0.0, 1, rows.device), lengths, lengths)  # squares in float64, in one launch


@cache
def _filled(value: float, size: int, device: torch.device) -> Tensor:
    """A float64 vector of one number, made once."""
    with torch.inference_mode(False):
        return torch.full((size,), value, dtype=torch.float64, device=device)

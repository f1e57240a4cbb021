"""The running sums on a GPU: few launches, nothing read back, and every sum made by one thread in one order.

Each row is shifted by its class's reference, δ = z − C; the rows of a class are then summed one by one, in the order
of the batch (`ClassBatch.bags` says which they are), to S += Σδ and q += Σ‖δ‖². So two runs agree to the last bit.
`index_add_` does not promise that on a GPU: it adds in the order in which threads arrive.

Float32 rows stay so where every class has one bag and the features can be parted into equal blocks. Everywhere else
they are shifted into float64, with their squares in a column behind them, and with a column of ones where rows may be
left out: one sum by class, added to one matrix, is then that of all three. Launches stay few, and half as many bytes
again come and go.
"""

import threading
from functools import cache

import torch
from torch import Tensor

from neurocollapse.statistics.class_batch import Bags, ClassBatch
from neurocollapse.statistics.kernels import scratch_like
from neurocollapse.statistics.ledger import FLUSH_COUNT
from neurocollapse.statistics.sums import Sums
from neurocollapse.support.transfer import sent

LEAST_BLOCK, MOST_BLOCK, FEW_BLOCKS = 4, 128, 16
"""Features of a block whose squares float32 adds up; and how many blocks are too few to average their roundings out."""

MOST_IN_TURN = 1024
"""Rows of a class that one thread adds up in float64 before there are more threads for it.

So it is where rows may be left out or the totals are float32; FLUSH_COUNT is there for the accuracy of float32 sums.
"""


def add_rows(
    features: Tensor, batch: ClassBatch, sums: Sums, *, settle: bool, keep_shifted: bool
) -> tuple[Tensor, Tensor | None]:
    """Add features to the running sums; see `neurocollapse.statistics.kernels.add_rows`.

    Nothing goes to the partial sums. In place of the first bad row it returns the sums of squares, which are not finite
    from the first batch on whose features are not.
    """
    if not len(features):
        return sums.square, None
    most = FLUSH_COUNT if sums.kept is None and len(sums.matrices) == 1 else MOST_IN_TURN
    reference, bags = sums.reference, batch.bags(features.device, most)
    block = None if reference.dtype == torch.float64 else equal_block(features.shape[1])
    if block is None or sums.kept is not None or bags.classes is not None or batch.largest > FLUSH_COUNT:
        shifted = _add_in_double(features, batch, bags, sums)
    else:
        shifted = _shifted(features, batch, reference, scratch_like(reference, features.shape))
        sums.total.add_(_bag_sums(shifted, bags.order, bags.starts))
        squares = _bag_sums(_block_squares(shifted, block), bags.order, bags.starts)
        sums.square.addmv_(squares, _filled(1.0, squares.shape[1], features.device))
    return sums.square, shifted.to(reference.dtype) if keep_shifted else None


def equal_block(width: int) -> int | None:
    """Features of the blocks that some features can be parted into; None where no fitting number divides them."""
    most = max(LEAST_BLOCK, min(MOST_BLOCK, width // FEW_BLOCKS))
    return next((size for size in range(most, LEAST_BLOCK - 1, -1) if width % size == 0), None)


def _add_in_double(features: Tensor, batch: ClassBatch, bags: Bags, sums: Sums) -> Tensor:
    """Add rows, their squares and perhaps ones as float64 rows; returns the shifted features, in scratch memory."""
    width, skips = features.shape[1], sums.kept is not None
    rows = scratch_like(sums.square, torch.Size((len(features), width + (3 if skips else 1))))
    shifted = _shifted(features, batch, sums.reference, rows[:, :width])
    if skips:
        rows = _counted(features, shifted, rows)
    else:
        lengths = torch.linalg.vector_norm(shifted, dim=1)
        torch.mul(lengths, lengths, out=rows[:, width])
    _add_by_class(_bag_sums(rows, bags.order, bags.starts), bags, sums.matrices)
    return shifted


def _counted(features: Tensor, shifted: Tensor, rows: Tensor) -> Tensor:
    """Shifted rows with their squares and ones behind them, and zeros in place of rows that are not finite.

    Which rows are is told by a third column, 0 · length, or 0 · largest number where the length of finite numbers may
    be infinite: it is 0 or NaN. Heaviside's function gives its second argument at 0, and 0 at NaN.
    """
    width = shifted.shape[1]
    counted, behind = rows[:, : width + 2], rows[:, width:]
    room = _room(len(rows), rows.device)
    lengths, beside_zeros = room[:, :1], room[:, ::3]  # (ℓ) and (ℓ, 0, 0)
    torch.linalg.vector_norm(shifted, dim=1, out=room[:, 0])
    if features.dtype == torch.float64 and width:
        torch.linalg.vector_norm(features, torch.inf, dim=1, out=room[:, 2])
        lengths = room[:, :3]  # (ℓ, 0, largest)
    torch.addcmul(_vector((0.0, 1.0, 0.0), rows.device), lengths, beside_zeros, out=behind)
    return torch.heaviside(behind[:, 2:], counted, out=counted)


def _shifted(features: Tensor, batch: ClassBatch, reference: Tensor, out: Tensor) -> Tensor:
    """Features less the references of their classes, in the precision of these, as numbers of the dtype of `out`."""
    labels = batch.on(features.device)
    references = out if out.dtype == reference.dtype else scratch_like(reference, features.shape)
    torch.index_select(reference, 0, labels, out=references)
    return torch.sub(features, references, out=out)


def _add_by_class(added: Tensor, bags: Bags, matrices: tuple[Tensor, ...]) -> None:
    """Add the float64 sums of bags to the rows of their classes, in matrices that have their columns side by side."""
    if bags.per_class > 1:
        added = added.view(-1, bags.per_class, added.shape[1])
        if bags.classes is None and len(matrices) == 1:  # a product with ones sums and adds in one launch
            most = 2 ** (bags.per_class - 1).bit_length()  # of few sizes, as each is kept
            ones = _filled(1.0, most, added.device)[: bags.per_class].view(1, 1, -1)
            matrices[0].unsqueeze(1).baddbmm_(ones.expand(len(added), 1, -1), added)
            return
        added = added.sum(dim=1)
    widths = [matrix.shape[1] for matrix in matrices]
    for matrix, part in zip(matrices, added.split(widths, dim=1), strict=True):
        if bags.classes is None:
            matrix.add_(part)
        else:  # no class is there twice, so that no two threads add to one number
            matrix.index_add_(0, bags.classes, part.to(matrix.dtype))


def _bag_sums(rows: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Σ rows[order[i]] for starts[j] ≤ i < starts[j + 1], one after the other: one launch, which copies no rows."""
    return torch.embedding_bag(rows, order, starts, False, 0, False, None, True)[0]  # mode 0: sums


def _block_squares(rows: Tensor, block: int) -> Tensor:
    """Squared norms of the float32 rows' blocks of some features, shape (samples, blocks), in float64."""
    lengths = torch.linalg.vector_norm(rows.view(len(rows), -1, block), dim=2)
    return torch.addcmul(_filled(0.0, 1, rows.device), lengths, lengths)  # squares in float64, in one launch


@cache
def _filled(value: float, size: int, device: torch.device) -> Tensor:
    """A vector of one number, made once."""
    with torch.inference_mode(False):
        return torch.full((size,), value, dtype=torch.float64, device=device)


@cache
def _vector(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A vector of a few numbers, made once."""
    with torch.inference_mode(False):
        return sent(torch.tensor(values, dtype=torch.float64, device="cpu"), device)


class _Rooms(threading.local):
    """Room for a few numbers of each row, of one thread; it only ever grows."""

    def __init__(self) -> None:
        self.of: dict[torch.device, Tensor] = {}


_rooms = _Rooms()


def _room(size: int, device: torch.device) -> Tensor:
    """Room for numbers of as many rows, shape (size, 7), in columns 0 and 2; the others are zeros, and stay so."""
    room = _rooms.of.get(device)
    if room is None or len(room) < size:
        with torch.inference_mode(False):
            room = _rooms.of[device] = torch.zeros(size, 7, dtype=torch.float64, device=device)
    return room[:size]

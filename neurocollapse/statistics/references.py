"""Reference points of classes moved to where their samples are, by exact algebra on the sums about them."""

import torch
from torch import Tensor

from neurocollapse.statistics.sums import Sums

REBASE_RATIO = 3.0
"""A class moves its reference when ‖mean − reference‖² exceeds this many times its variance.

A usual sample lies at about 1; a far outlier that came first at n − 1, after n samples. Rounding counts that often.
"""


def move_references(
    sums: Sums, classes: Tensor, count: Tensor, *, ratio: float = REBASE_RATIO
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Move the references of those of some classes whose mean lies far from it, in place.

    Parameters
    ----------
    sums : Sums
        References and the sums about them, whose partial sums of these classes are in the totals.
    classes, count : Tensor of shape (some,), int64 and float64
        Which classes, and how many samples they have.
    ratio : float
        What counts as far; 0 to move all.

    Returns
    -------
    tuple of Tensor or None
        Former sums, shifts and counts of the classes that may have moved, in float64; None where none has.
    """
    reference, total, square = sums.reference, sums.total, sums.square
    former = total.index_select(0, classes).double()
    sum_square = torch.linalg.vector_norm(former, dim=1).square_()
    far = sum_square > ratio * (count * square.index_select(0, classes) - sum_square)
    if far.device.type == "cpu":  # other devices would have to be waited for, to know which classes these are
        chosen = far.nonzero().flatten()
        if not chosen.numel():
            return None
        classes, former, count, far = classes[chosen], former[chosen], count[chosen], far[chosen]
    before = reference.index_select(0, classes)
    moved = (before + former / count.clamp(min=1).unsqueeze(1)).to(before.dtype)
    moved = torch.where(far.unsqueeze(1), moved, before)
    shift = moved.double() - before
    change = count * shift.square().sum(dim=1) - 2 * (former * shift).sum(dim=1)
    square.index_add_(0, classes, change)
    total.index_copy_(0, classes, (former - count.unsqueeze(1) * shift).to(total.dtype))
    reference.index_copy_(0, classes, moved)
    return former, shift, count

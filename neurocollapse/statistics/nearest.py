"""Which of some points is nearest to each row."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neurocollapse.statistics.matmul import full_matmul_precision
from neurocollapse.support.transfer import Readback

SCORE_ELEMENTS = 2**22
"""Rows times points that are compared at once."""
PAIR_ELEMENTS = 2**20
"""Float64 elements of the differences that decide close calls, at once (8 MiB)."""


class NearestMean:
    """The nearest of some points in Euclidean distance; the first of those that are equally near.

    Distances come from one matrix product about the mean of the points, in the dtype of the rows. Where more than one
    point lies within its rounding of the nearest, the differences to those decide, in float64.

    Parameters
    ----------
    points : Tensor of shape (points, features), float64
    like : Tensor
        Rows to come are on its device and in its dtype, float32 or float64.

    Examples
    --------
    >>> points, rows = torch.tensor([[0.0], [4.0]]).double(), torch.tensor([[1.0], [3.0], [2.0]])
    >>> NearestMean(points, like=rows)(rows).tolist()
    [0, 1, 0]
    """

    def __init__(self, points: Tensor, *, like: Tensor) -> None:
        origin = points.mean(dim=0).to(like.dtype)
        centred = points - origin
        self.coincide = bool((points == points[:1]).all())  # as in a layer whose units are all dead
        self.radius = float(centred.square().sum(dim=1).max().sqrt())
        self.points, self.origin = points.to(like.device), origin.to(like.device)
        self.half_square = (centred.square().sum(dim=1) / 2).to(like)
        self.directions = centred.to(like).T
        self.rounding = 4 * torch.finfo(like.dtype).eps * (math.sqrt(points.shape[1]) + 8)

    def __call__(self, rows: Tensor) -> Tensor:
        """Index of the nearest point for each row, shape (rows,), int64."""
        if self.coincide:
            return torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        with full_matmul_precision():
            return torch.cat([self._nearest(part) for part in self._parts(rows)])

    def later(self, rows: Tensor) -> Callable[[], Tensor]:
        """What gives the same when it is called: a batch later, it waits for nothing on a device.

        Parameters
        ----------
        rows : Tensor of shape (rows, features)
            Copied, as they may change until then.
        """
        if self.coincide:
            nearest = self(rows)
            return lambda: nearest
        with full_matmul_precision():
            asked = [self._asked(part) for part in self._parts(rows.clone())]
        return lambda: torch.cat([self._answered(*one) for one in asked])

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Rows whose distances to all points fit in memory."""
        return rows.split(max(1, SCORE_ELEMENTS // len(self.points)))

    def _nearest(self, rows: Tensor) -> Tensor:
        """The nearest point, at once."""
        scored = self._scored(rows)
        unclear = scored.unclear.nonzero().flatten()
        if unclear.numel():
            row, point = scored.candidates[unclear].nonzero(as_tuple=True)
            scored.nearest[unclear] = self._decided(rows[unclear].double(), row, point)
        return scored.nearest

    def _asked(self, rows: Tensor) -> tuple[Tensor, "_Scored", Readback]:
        """Scores, and on its way to the CPU how many rows are unclear, and how many candidates these have."""
        scored = self._scored(rows)
        numbers = torch.stack([scored.unclear.sum(), torch.where(scored.unclear, scored.number, 0).sum()])
        return rows, scored, Readback(numbers)

    def _answered(self, rows: Tensor, scored: "_Scored", numbers: Readback) -> Tensor:
        """The nearest point, once it is known how many rows are unclear: then shapes are known as well."""
        num_unclear, num_pairs = numbers.numbers().tolist()
        if not num_unclear:
            return scored.nearest
        unclear = _true_places(scored.unclear, num_unclear)
        pairs = _true_places(scored.candidates[unclear].flatten(), num_pairs)
        row, point = pairs // len(self.points), pairs % len(self.points)
        return scored.nearest.index_copy(0, unclear, self._decided(rows[unclear].double(), row, point))

    def _scored(self, rows: Tensor) -> "_Scored":
        """Distances from one product, and what they cannot tell."""
        offsets = rows - self.origin
        scores = torch.addmm(self.half_square, offsets, self.directions, alpha=-1)  # (‖z − p‖² − ‖z‖²)/2
        least, nearest = scores.min(dim=1)
        reach = torch.linalg.vector_norm(offsets, dim=1).add_(self.radius).mul_(self.radius * self.rounding)
        candidates = scores <= (least + reach).unsqueeze(1)
        return _Scored(nearest, candidates, candidates.sum(dim=1))

    def _decided(self, rows: Tensor, row: Tensor, point: Tensor) -> Tensor:
        """The nearest of each row's candidates, from differences; candidates are pairs of a row and a point."""
        height = max(1, PAIR_ELEMENTS // rows.shape[1])
        square = torch.cat(
            [
                (rows[one] - self.points[two]).square_().sum(dim=1)
                for one, two in zip(row.split(height), point.split(height), strict=True)
            ]
        )
        least = square.new_full((len(rows),), torch.inf).scatter_reduce(0, row, square, "amin")
        first = torch.where(square == least[row], point, len(self.points))
        return point.new_full((len(rows),), len(self.points)).scatter_reduce(0, row, first, "amin")


class _Scored(NamedTuple):
    """What scores say of some rows: the nearest point, which points may be as near, and how many these are."""

    nearest: Tensor
    candidates: Tensor
    number: Tensor

    @property
    def unclear(self) -> Tensor:
        """Which rows have more than one candidate."""
        return self.number > 1


def _true_places(mask: Tensor, number: int) -> Tensor:
    """What `nonzero` gives for a vector with this number of true entries, without asking a device for it."""
    return torch.searchsorted(mask.cumsum(dim=0), torch.arange(1, number + 1, device=mask.device))

"""Which of some points is nearest to each row."""

import math

import torch
from torch import Tensor

from neurocollapse.statistics.matmul import full_matmul_precision

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
        self.points = points.to(like.device)
        self.coincide = bool((self.points == self.points[:1]).all())  # as in a layer whose units are all dead
        self.origin = self.points.mean(dim=0).to(like.dtype)
        centred = self.points - self.origin
        self.half_square = (centred.square().sum(dim=1) / 2).to(like.dtype)
        self.directions = centred.to(like.dtype).T
        self.radius = float(centred.square().sum(dim=1).max().sqrt())
        self.rounding = 4 * torch.finfo(like.dtype).eps * (math.sqrt(points.shape[1]) + 8)

    def __call__(self, rows: Tensor) -> Tensor:
        """Index of the nearest point for each row, shape (rows,), int64."""
        if self.coincide:
            return torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        height = max(1, SCORE_ELEMENTS // len(self.points))
        with full_matmul_precision():
            return torch.cat([self._nearest(part) for part in rows.split(height)])

    def _nearest(self, rows: Tensor) -> Tensor:
        """The same for rows whose distances to all points fit in memory."""
        offsets = rows - self.origin
        scores = torch.addmm(self.half_square, offsets, self.directions, alpha=-1)  # (‖z − p‖² − ‖z‖²)/2
        least, nearest = scores.min(dim=1)
        reach = torch.linalg.vector_norm(offsets, dim=1).add_(self.radius).mul_(self.radius * self.rounding)
        candidates = scores <= (least + reach).unsqueeze(1)
        unclear = (candidates.sum(dim=1) > 1).nonzero().flatten()
        if unclear.numel():
            nearest[unclear] = self._decided(rows[unclear].double(), candidates[unclear])
        return nearest

    def _decided(self, rows: Tensor, candidates: Tensor) -> Tensor:
        """The nearest of each row's candidates, from differences."""
        row, point = candidates.nonzero(as_tuple=True)
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

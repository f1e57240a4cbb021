"""Lemma 4: bounds on an energy-weighted mean of squared gains from a few quantiles of the energy."""

from typing import NamedTuple

import torch
from torch import Tensor

QUANTILE_ROOM = 1e-12
"""How far rounding may move a cumulated share of the energy."""


class Gains(NamedTuple):
    """Squared singular values in descending order, and the directions that they belong to.

    Attributes
    ----------
    low, high : Tensors of shape (directions,)
        Bounds of each squared value within rounding.
    right : Tensor of shape (features, directions)
    """

    low: Tensor
    high: Tensor
    right: Tensor

    def energies(self, features: Tensor) -> Tensor:
        """Squared coordinates of every column, shape (directions, columns)."""
        return (self.right.T @ features).square()


def band_bounds(gains: Gains, energies: Tensor, bands: int) -> tuple[Tensor, Tensor]:
    r"""Bound Σ e_i σ_i² from B quantiles of the energy.

    .. math:: \frac EB \sum_{b=1}^{B} S(b/B) \le \sum_i e_i \sigma_i^2 \le \frac EB \sum_{b=0}^{B-1} S(b/B)

    with S the non-increasing quantile function of σ_i² under the shares e_i/E, S(0) the largest σ² and S(1) the
    smallest. One band uses no shares at all.

    Parameters
    ----------
    energies : Tensor of shape (directions, families)
        Not negative; E is the sum of a column.
    bands
        B ≥ 1.

    Returns
    -------
    (Tensor, Tensor) of shape (families,)

    Examples
    --------
    >>> squares = torch.tensor([4.0, 2.0, 1.0, 0.0])
    >>> low, high = band_bounds(Gains(squares, squares, torch.eye(4)), torch.ones(4, 1), 2)
    >>> low.tolist(), high.tolist()
    ([4.0], [10.0])
    """
    total = energies.sum(0)
    shares = (energies.cumsum(0) / total.clamp(min=torch.finfo(energies.dtype).tiny)).T.contiguous()
    inner = torch.arange(1, bands, dtype=energies.dtype, device="cpu") / bands
    grid = inner.expand(len(shares), -1).contiguous()
    last = len(gains.low) - 1
    above = torch.searchsorted(shares, grid - QUANTILE_ROOM, right=True).clamp(max=last)
    below = torch.searchsorted(shares, grid + QUANTILE_ROOM).clamp(max=last)
    high = (gains.high[above].sum(1) + gains.high[0]) / bands
    low = (gains.low[below].sum(1) + gains.low[-1]) / bands
    return total * low, total * high


def resolved_bounds(gains: Gains, energies: Tensor, leading: int, bands: int) -> tuple[Tensor, Tensor]:
    """The same with the first directions taken one by one and the bands for the rest only."""
    rest = Gains(gains.low[leading:], gains.high[leading:], gains.right[:, leading:])
    low, high = band_bounds(rest, energies[leading:], bands)
    return low + gains.low[:leading] @ energies[:leading], high + gains.high[:leading] @ energies[:leading]

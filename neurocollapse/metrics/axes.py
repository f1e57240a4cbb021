"""The directions in which the class means of one layer differ."""

from typing import NamedTuple

import torch
from torch import Tensor

from neurocollapse.metrics.arguments import check_moments
from neurocollapse.metrics.weighting import Weighting, between_weights, centred_blocks
from neurocollapse.statistics import ClassMoments


class BetweenAxes(NamedTuple):
    r"""Eigenvectors of the between-class covariance whose eigenvalues are not zero.

    Attributes
    ----------
    directions : Tensor of shape (rank, features), float64
    deviations : Tensor of shape (rank,), float64
        Standard deviation of the class means along each, the root of the eigenvalue; descending.
    cutoff : float
        Deviations at or below it count as zero; NaN with fewer than two classes.
    """

    directions: Tensor
    deviations: Tensor
    cutoff: float

    def inverted(self, spread: Tensor) -> float:
        r"""tr(Σ_W Σ_B⁺), given the within-class variance along each direction; NaN without directions."""
        return float((spread / self.deviations.square()).sum()) if len(self.deviations) else float("nan")


def between_axes(moments: ClassMoments, weighting: Weighting) -> BetweenAxes:
    r"""Singular value decomposition of the centred class means with rows :math:`\sqrt{p_k} (m_k - m_G)`.

    The between-class covariance is never formed: its condition number is the square of theirs, and a float32
    pseudo-inverse of it is 43 % off at 1,000 classes and 1,024 features.
    """
    check_moments(moments)
    nothing = moments.offset_sum[:0].double()
    if moments.present.numel() < 2:
        return BetweenAxes(nothing, nothing[:, 0], float("nan"))
    weights = between_weights(moments, weighting)
    means = torch.cat(list(centred_blocks(moments, weights)), dim=1).mul_(weights.sqrt().unsqueeze(1))
    if means.shape[0] >= means.shape[1]:
        _, values, directions = torch.linalg.svd(torch.linalg.qr(means, mode="r").R)
    else:
        basis, triangle = torch.linalg.qr(means.T)
        _, values, inner = torch.linalg.svd(triangle.T)
        directions = inner @ basis.T
    cutoff = max(means.shape) * torch.finfo(torch.float64).eps * float(values[0])
    rank = int((values > cutoff).sum())
    return BetweenAxes(directions[:rank], values[:rank], cutoff)

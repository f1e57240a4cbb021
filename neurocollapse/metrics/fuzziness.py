"""Within-class variability measured in the metric of the class means."""

from typing import NamedTuple

import torch

from neurocollapse.metrics.variability import within_class_covariance
from neurocollapse.metrics.weighting import Weighting, centred_blocks, class_weights
from neurocollapse.statistics import ClassMoments


class Fuzziness(NamedTuple):
    """tr(Σ_W Σ_B⁺), and what the pseudo-inverse took as zero.

    Attributes
    ----------
    value : float
    rank : int
        Directions of Σ_B that were inverted, K − 1 at most.
    cutoff : float
        Singular values of the centred, weighted class means at or below it count as zero.
    """

    value: float
    rank: int
    cutoff: float


def fuzziness(moments: ClassMoments, *, weighting: Weighting = "equal") -> Fuzziness:
    r"""Separation fuzziness: within-class variability in the directions of the class means, each on its own scale.

    .. math:: \operatorname{tr} (\Sigma_W \Sigma_B^+) = \sum_j \frac{v_j^\top \Sigma_W v_j}{s_j^2}

    with the singular values :math:`s_j` and right singular vectors :math:`v_j` of the centred class means with rows
    :math:`\sqrt{p_k} (\mu_k - \mu_G)`; :math:`\Sigma_B`, whose condition number is the square of theirs, is not formed.
    Unlike :math:`\operatorname{tr} \Sigma_W / \operatorname{tr} \Sigma_B` it does not change under invertible linear
    maps of the features if the class means span them, and does not see variability orthogonal to the class means.

    Parameters
    ----------
    moments : ClassMoments
        Collected with `covariance=True`.
    weighting : {"equal", "frequency"}
        Convention of :math:`\Sigma_B`, see `between_trace`.

    Returns
    -------
    Fuzziness
        Its `value` is non-negative, exactly 0 at full collapse; NaN with fewer than two classes present, or where all
        class means coincide.

    Raises
    ------
    ValueError
        If the moments were collected without `covariance=True`.

    References
    ----------
    He and Su, A law of data separation in deep learning, PNAS 120(36), 2023, eq. (1); Papyan, Han, Donoho, PNAS
    117(40), 2020, NC1, which divides it by the number of classes.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1], covariance=True)
    >>> round(fuzziness(moments).value, 12), fuzziness(moments).rank
    (0.055555555556, 1)
    """
    within = within_class_covariance(moments).double()
    if moments.present.numel() < 2:
        return Fuzziness(float("nan"), 0, float("nan"))
    weights = class_weights(moments, weighting)
    centred = torch.cat(list(centred_blocks(moments, weights)), dim=1).double()
    _, values, directions = torch.linalg.svd(centred * weights.sqrt().unsqueeze(1), full_matrices=False)
    cutoff = max(centred.shape) * torch.finfo(torch.float64).eps * float(values[0])
    kept = values > cutoff
    rank = int(kept.sum())
    if rank == 0:
        return Fuzziness(float("nan"), 0, cutoff)
    directions, values = directions[kept], values[kept]
    spread = ((directions @ within) * directions).sum(dim=1)
    return Fuzziness(float((spread / values.square()).sum()), rank, cutoff)

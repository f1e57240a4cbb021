"""How well classes can be told apart in features: scores of what a linear probe can reach, and a few-shot bound."""

import math

import torch

from neurocollapse.metrics.means import ClassMeans
from neurocollapse.metrics.quantity import Quantity
from neurocollapse.metrics.spectrum import ROUNDING
from neurocollapse.metrics.variability import within_class_covariance
from neurocollapse.metrics.weighting import between_weights, centred_blocks
from neurocollapse.statistics import ClassMoments
from neurocollapse.support.checks import integer

ROWS = 256
"""Classes whose distances to all others are taken together."""


def h_score(moments: ClassMoments) -> float:
    r"""H-score: between-class variability in the metric of all samples, :math:`\operatorname{tr}(\Sigma_T^+ \Sigma_B)`.

    It is the sum of the squared canonical correlations between features and classes, so that it does not change under
    invertible linear maps of the features.

    Parameters
    ----------
    moments : ClassMoments
        Collected with `covariance=True`, on the data that a network is to be transferred to.

    Returns
    -------
    float
        In [0, rank Σ_B], which is K − 1 at most; rank Σ_B at full collapse, 0 where all class means coincide. NaN with
        fewer than two classes, or where the features do not vary. Samples count alike in both covariances. With few
        samples per feature it is too large: of N ≤ d samples it says nothing.

    Raises
    ------
    ValueError
        If the moments were collected without `covariance=True`.

    References
    ----------
    Bao et al., An information-theoretic approach to transferability in task transfer learning, ICIP 2019, Definition 2.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1], covariance=True)
    >>> round(h_score(moments), 12)
    0.947368421053
    """
    explained = _explained(moments)
    return explained[0]


def vci(moments: ClassMoments) -> float:
    r"""Variability collapse index, :math:`1 - \operatorname{tr}(\Sigma_T^+ \Sigma_B) / \operatorname{rank} \Sigma_B`.

    Parameters
    ----------
    moments : ClassMoments
        Collected with `covariance=True`.

    Returns
    -------
    float
        In [0, 1]: 0 at full collapse, near 1 where the class means explain nothing; NaN where `h_score` is, or where
        all class means coincide.

    Raises
    ------
    ValueError
        If the moments were collected without `covariance=True`.

    References
    ----------
    Xu and Liu, Quantifying the variability collapse of neural networks, ICML 2023.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1], covariance=True)
    >>> round(vci(moments), 12)
    0.052631578947
    """
    value, rank = _explained(moments)
    return max(0.0, 1.0 - value / rank) if rank else math.nan


def few_shot_bound(moments: ClassMoments, shots: int) -> float:
    r"""Bound on the error of nearest class means that are made of a few samples of every class.

    .. math:: \frac1K \sum_k \min\Bigl(1, \sum_{k' \neq k}
        \frac{\bigl((2 + n^{-1/2})\, \sigma_k + n^{-1/2} \sigma_{k'}\bigr)^2}{\|m_k - m_{k'}\|^2}\Bigr),
        \qquad \sigma_k^2 = \frac1{n_k} \sum_i \|z_{k,i} - m_k\|^2

    A sample at distance a from its class's mean is taken for class k' only if 2 ‖a‖ and the errors of the two means
    together reach ‖m_k − m_{k'}‖. Minkowski's inequality bounds the second moment of that sum, Markov's the
    probability, and the sum over k' that of any mistake. It holds where n samples per class, and the one to classify,
    are drawn with replacement from those at hand; it says little unless CDNV is far below 1 / (8 K).

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer, on the data that a network is to be transferred to.
    shots : int
        n, samples of each class from which its mean is made.

    Returns
    -------
    float
        In [0, 1], the mean over the classes: 0 at full collapse, 1 where nothing is said. NaN with fewer than two
        classes present.

    Raises
    ------
    ValueError
        If `shots` is no positive integer.

    References
    ----------
    In the manner of Galanti, György, Hutter, On the role of neural collapse in transfer learning, ICLR 2022, whose
    bound is of the order of CDNV as well; the constants here are those of the proof above.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[0.0], [2.0], [97.0], [99.0]], [0, 0, 1, 1])
    >>> round(few_shot_bound(moments, shots=1), 6)
    0.0017
    """
    share = integer("shots", shots, least=1) ** -0.5
    means = ClassMeans(moments)
    if means.num_classes < 2:
        return math.nan
    points, spread, missed = means.centred, means.spread.sqrt(), 0.0
    for rows in torch.arange(len(points), device="cpu").split(ROWS):
        distance = torch.cdist(points[rows], points, compute_mode="donot_use_mm_for_euclid_dist")
        reach = (2 + share) * spread[rows].unsqueeze(1) + share * spread
        ratio = torch.where(reach > 0, (reach / distance).square(), torch.where(distance > 0, 0.0, math.inf))
        ratio[torch.arange(len(rows), device="cpu"), rows] = 0.0
        missed += float(ratio.sum(dim=1).clamp(max=1.0).sum())
    return missed / len(points)


def _explained(moments: ClassMoments) -> tuple[float, int]:
    """tr(Σ_T⁺ Σ_B), and the rank of Σ_B, from the class means without forming Σ_B⁺."""
    within = within_class_covariance(moments)
    if moments.present.numel() < 2:
        return math.nan, 0
    weights = between_weights(moments, "frequency")
    means = torch.cat(list(centred_blocks(moments, weights)), dim=1) * weights.sqrt().unsqueeze(1)
    values, vectors = torch.linalg.eigh(within + means.T @ means)
    used = values > ROUNDING[str(moments.reference.dtype).removeprefix("torch.")] * len(values) * values[-1]
    if not bool(used.any()):
        return math.nan, 0
    correlations = torch.linalg.svdvals((means @ vectors[:, used]) / values[used].sqrt())
    spread = torch.linalg.svdvals(means)
    rank = int((spread > max(means.shape) * torch.finfo(torch.float64).eps * values[-1].sqrt()).sum())
    return float(correlations[:rank].clamp(max=1.0).square().sum()), rank


QUANTITIES = (
    Quantity(
        name="h_score",
        of=lambda layer: h_score(layer.moments),
        long_name="H-score",
        symbol=r"\mathrm{tr}(\Sigma_T^{+} \Sigma_B)",
        convention="1/N over samples in both; eigenvalues of Σ_T above its rounding",
        reference="Bao et al., ICIP 2019",
        needs=("covariance",),
        heading="H-score",
        better="higher",
        bounds=(0.0, math.inf),
        family="transfer",
    ),
    Quantity(
        name="vci",
        of=lambda layer: vci(layer.moments),
        long_name="variability collapse index",
        symbol=r"1 - \mathrm{tr}(\Sigma_T^{+} \Sigma_B) / \mathrm{rank}\,\Sigma_B",
        convention="1/N over samples in both; eigenvalues of Σ_T above its rounding",
        reference="Xu and Liu, ICML 2023",
        needs=("covariance",),
        heading="VCI",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, 1.0),
        family="transfer",
    ),
)

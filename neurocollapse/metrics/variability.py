"""Within-class and between-class variability of one layer, from its class moments."""

import math

import torch
from torch import Tensor

from neurocollapse.metrics.arguments import check_moments
from neurocollapse.metrics.layer import Layer
from neurocollapse.metrics.quantity import Quantity
from neurocollapse.metrics.weighting import Weighting, between_weights, centred_blocks, check_weighting, within_weights
from neurocollapse.statistics import ClassMoments
from neurocollapse.statistics.kernels import mirrored

PRECISION_FLOOR = {"bfloat16": 1e-4, "float16": 1e-6, "float32": 1e-12, "float64": 1e-28}
"""D below which the rounding of the features themselves shows."""


def within_trace(moments: ClassMoments, *, weighting: Weighting = "equal") -> float:
    r"""Within-class variability: the trace of the within-class covariance.

    .. math:: \operatorname{tr} \Sigma_W = \sum_k \frac{w_k}{n_k} \sum_i \|z_{k,i} - \mu_k\|^2

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    weighting : {"equal", "frequency", "papers"}, default "equal"
        :math:`w_k = 1/K`, or :math:`w_k = n_k/N`, which is 1/N a sample; "papers" means the latter here.

    Returns
    -------
    float
        Non-negative; exactly 0 at full collapse and with one sample per class; NaN without samples.

    References
    ----------
    Papyan, Han, Donoho, PNAS 117(40), 2020.

    Examples
    --------
    >>> within_trace(ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1]))
    0.5
    """
    check_moments(moments)
    if moments.num_samples == 0:
        return float("nan")
    if weighting == "equal":
        return float(within_weights(moments, weighting) @ _spread(moments)[moments.present])
    check_weighting(weighting)
    return float(moments.scatter.sum()) / moments.num_samples


def between_trace(moments: ClassMoments, *, weighting: Weighting = "equal") -> float:
    r"""Between-class variability: the trace of the between-class covariance.

    .. math:: \operatorname{tr} \Sigma_B = \sum_k p_k \|\mu_k - \mu_G\|^2, \qquad \mu_G = \sum_k p_k \mu_k

    Classes without samples are left out: K counts the classes that are present.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    weighting : {"equal", "frequency", "papers"}, default "equal"
        :math:`p_k = 1/K`, or :math:`p_k = n_k/N`; with the latter the within and between traces add up to the total.
        "papers" means the former here.

    Returns
    -------
    float
        Non-negative; exactly 0 when all class means are equal or one class is present; NaN without samples.

    Examples
    --------
    >>> between_trace(ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1]))
    9.0
    """
    weights = between_weights(moments, weighting)
    if moments.num_samples == 0:
        return float("nan")
    return sum(float((weights @ block.square()).sum()) for block in centred_blocks(moments, weights))


def total_trace(moments: ClassMoments) -> float:
    r"""Total variability :math:`\frac1N \sum_i \|z_i - \bar z\|^2` about the mean of all samples.

    Equal to the within-class plus the between-class trace, both weighted by frequency; NaN without samples.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    Examples
    --------
    >>> total_trace(ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1]))
    9.5
    """
    return within_trace(moments, weighting="frequency") + between_trace(moments, weighting="frequency")


def compression(moments: ClassMoments, *, weighting: Weighting = "equal") -> float:
    r"""Compression: within-class variability divided by between-class variability.

    .. math:: D = \operatorname{tr} \Sigma_W / \operatorname{tr} \Sigma_B

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    weighting : {"equal", "frequency", "papers"}, default "equal"
        Weights of the classes in both traces, see `within_trace` and `between_trace`. "papers" pairs 1/N within with
        1/K between, as publications on balanced classes do; only classes of different size tell the three apart.

    Returns
    -------
    float
        In [0, ∞]; exactly 0 at full collapse. Infinite when class means coincide but samples do not; NaN when both
        vanish (constant features) and with fewer than two classes present.

    References
    ----------
    Wang et al., JMLR 26(220), 2025, eq. (3), there called C_l; He and Su, PNAS 120(36), 2023.

    Examples
    --------
    >>> compression(ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1]))
    0.05555555555555555
    """
    return _ratio(moments, weighting, between_trace(moments, weighting=weighting))


def _ratio(moments: ClassMoments, weighting: Weighting, between: float) -> float:
    """tr Σ_W by the between-class trace."""
    within = within_trace(moments, weighting=weighting)
    if moments.present.numel() < 2 or between == within == 0.0:
        return float("nan")
    return within / between if between else float("inf")


def within_class_covariance(moments: ClassMoments) -> Tensor:
    r"""Within-class covariance :math:`\Sigma_W`, shape (features, features), float64; zero at full collapse.

    .. math:: \Sigma_W = \frac1N \sum_k \sum_i (z_{k,i} - \mu_k)(z_{k,i} - \mu_k)^\top

    Every sample counts the same: the scatter is kept of all classes together.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    Raises
    ------
    ValueError
        If the moments were collected without `covariance=True`.

    Examples
    --------
    >>> features = [[0.0, 0.0], [2.0, 2.0]]
    >>> within_class_covariance(ClassMoments.from_features(features, [0, 0], covariance=True)).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    check_moments(moments)
    if moments.within_scatter is None:
        raise ValueError("these moments hold no within-class scatter matrix; collect them with covariance=True")
    return moments.within_scatter / moments.num_samples if moments.num_samples else moments.within_scatter * torch.nan


def between_class_covariance(moments: ClassMoments, *, weighting: Weighting = "equal") -> Tensor:
    r"""Between-class covariance :math:`\Sigma_B`, shape (features, features), float64, of rank at most K − 1.

    .. math:: \Sigma_B = \sum_k p_k (\mu_k - \mu_G)(\mu_k - \mu_G)^\top

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    weighting : {"equal", "frequency", "papers"}, default "equal"
        See `between_trace`.

    Returns
    -------
    Tensor
        Zero when all class means are equal or one class is present; NaN without samples.

    Examples
    --------
    >>> between_class_covariance(ClassMoments.from_features([[-1.0, 1.0], [1.0, -1.0]], [0, 1])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    weights = between_weights(moments, weighting)
    if moments.num_samples == 0:
        return weights.new_full((moments.num_features, moments.num_features), torch.nan)
    centred = torch.cat(list(centred_blocks(moments, weights)), dim=1)
    return mirrored(centred.T @ (centred * weights.unsqueeze(1)))


_PAPYAN = "Papyan, Han, Donoho, PNAS 117(40), 2020"
_SPREAD = "mean squared distance to the class mean, 1/n_k; NaN for absent classes"
_COUNT = "samples that were counted, or rows where each position has one; skipped ones are not"


def layer_between_trace(layer: Layer) -> float:
    """tr Σ_B in the layer's weighting, from the means that it shares where they are centred in the same way."""
    if layer.weighting != "frequency":
        return float(layer.means.square.mean())
    return between_trace(layer.moments, weighting=layer.weighting)


def _spread(moments: ClassMoments) -> Tensor:
    """tr Σ_W of each class, shape (classes,); NaN for absent ones."""
    return moments.scatter / moments.count.double()


QUANTITIES = (
    Quantity(
        name="within_trace",
        of=lambda layer: within_trace(layer.moments, weighting=layer.weighting),
        long_name="within-class variability",
        symbol=r"\mathrm{tr}\,\Sigma_W",
        units="feature units squared",
        convention="{within}",
        reference=_PAPYAN,
        heading="tr Σ_W",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.inf),
        family="variability",
    ),
    Quantity(
        name="between_trace",
        of=lambda layer: layer_between_trace(layer),
        long_name="between-class variability",
        symbol=r"\mathrm{tr}\,\Sigma_B",
        units="feature units squared",
        convention="{between}",
        reference=_PAPYAN,
        heading="tr Σ_B",
        bounds=(0.0, math.inf),
        family="variability",
    ),
    Quantity(
        name="compression",
        of=lambda layer: _ratio(layer.moments, layer.weighting, layer_between_trace(layer)),
        symbol=r"D_\ell",
        convention="tr Σ_W / tr Σ_B; Σ_W: {within}; Σ_B: {between}",
        reference="Wang et al., JMLR 26(220), 2025",
        heading="D",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.inf),
        family="variability",
    ),
    Quantity(
        name="class_count",
        of=lambda layer: layer.moments.count,
        long_name="samples",
        symbol="n_k",
        convention=_COUNT,
        reference=_PAPYAN,
        bounds=(0.0, math.inf),
        family="variability",
        dims=("layer", "class"),
    ),
    Quantity(
        name="class_scatter",
        of=lambda layer: _spread(layer.moments),
        long_name="per-class spread",
        symbol=r"\mathrm{tr}\,\Sigma_{W,k}",
        units="feature units squared",
        convention=_SPREAD,
        reference=_PAPYAN,
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.inf),
        family="variability",
        dims=("layer", "class"),
    ),
)

"""Variability without the bias of few samples: what the traces and D would be at the true class means."""

import math
from typing import Any

from torch import Tensor

from neurocollapse.metrics.arguments import check_moments
from neurocollapse.metrics.layer import Layer
from neurocollapse.metrics.means import ClassMeans
from neurocollapse.metrics.quantity import Quantity
from neurocollapse.metrics.unbiased_pairs import unbiased_pairs
from neurocollapse.metrics.variability import between_trace, layer_between_trace
from neurocollapse.metrics.weighting import Weighting, between_weights, within_weights
from neurocollapse.statistics import ClassMoments


def class_traces(moments: ClassMoments) -> Tensor:
    r"""Unbiased trace of the covariance of each class that is present, shape (present classes,), float64.

    .. math:: \hat t_k = \frac1{n_k - 1} \sum_i \|z_{k,i} - m_k\|^2

    Non-negative; NaN for classes of one sample, which say nothing of their spread.

    Examples
    --------
    >>> class_traces(ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0], [1.0]], [0, 0, 1, 1, 2])).tolist()
    [2.0, 0.0, nan]
    """
    check_moments(moments)
    present = moments.present
    return moments.scatter[present] / (moments.count[present] - 1)


def within_trace_unbiased(moments: ClassMoments, *, weighting: Weighting = "equal") -> float:
    r"""Unbiased within-class variability: :math:`\sum_k w_k \hat t_k`.

    `within_trace` is smaller by the share :math:`1/n_k` of each class, because a class mean is drawn towards its own
    samples.

    Returns
    -------
    float
        Non-negative; exactly 0 at full collapse; NaN where a class has one sample, and without samples.

    Examples
    --------
    >>> within_trace_unbiased(ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1]))
    1.0
    """
    check_moments(moments)
    if moments.num_samples == 0:
        return math.nan
    return float(within_weights(moments, weighting) @ class_traces(moments))


def between_trace_unbiased(moments: ClassMoments, *, weighting: Weighting = "equal") -> float:
    r"""Unbiased between-class variability: the trace of :math:`\Sigma_B` less what the noise of the class means adds.

    .. math:: \operatorname{tr} \hat\Sigma_B = \operatorname{tr} \Sigma_B - \sum_k p_k (1 - p_k) \hat t_k / n_k

    since :math:`E \|m_k - E m_k\|^2 = t_k / n_k` and the centre shares the samples of each class with weight
    :math:`p_k`.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    weighting : {"equal", "frequency", "papers"}
        Weights :math:`p_k`, see `between_trace`.

    Returns
    -------
    float
        Negative where the class means differ by less than their noise; NaN where a class has one sample, and without
        samples.

    Examples
    --------
    >>> between_trace_unbiased(ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1]))
    8.75
    """
    return between_trace(moments, weighting=weighting) - between_noise(moments, weighting)


def compression_unbiased(moments: ClassMoments, *, weighting: Weighting = "equal") -> float:
    r"""Compression of the population: the ratio of the unbiased traces.

    With few samples per class D is far too small: at 64 features, 10 classes and a true D of 10 it reads 0.9 with 2
    samples per class, 6.6 with 20, and 0 ("collapsed") with one. This ratio is consistent, and from 10 samples per
    class on it is right on average to within a few per cent. Where classes are as few as samples it is too large, as
    any ratio with a noisy divisor: the quantity `compression_corrected` undoes that, with `uncertainty=True`.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    weighting : {"equal", "frequency", "papers"}, default "equal"
        Weights of the classes in both traces, see `compression`.

    Returns
    -------
    float
        In [0, ∞); exactly 0 at full collapse. NaN with fewer than two classes, where a class has one sample, and where
        the unbiased between-class trace is not positive: then the classes cannot be told from noise.

    Examples
    --------
    >>> round(compression_unbiased(ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1])), 6)
    0.114286
    """
    return _ratio(
        within_trace_unbiased(moments, weighting=weighting), between_trace_unbiased(moments, weighting=weighting)
    )


def cdnv_unbiased(moments: ClassMoments) -> float:
    r"""Class-distance normalised variance of the population, mean over the pairs of classes.

    .. math:: \frac{\hat t_k + \hat t_{k'}}{2 (\|m_k - m_{k'}\|^2 - \hat t_k/n_k - \hat t_{k'}/n_{k'})}

    With few samples the spread about the class means is too small and the distance between them too large, see
    `neurocollapse.metrics.cdnv`.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    Returns
    -------
    float
        Non-negative, 0 at full collapse; NaN with fewer than two classes, where a class has one sample, and where two
        classes cannot be told from noise.

    Examples
    --------
    >>> round(cdnv_unbiased(ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1])), 6)
    0.028571
    """
    return unbiased_pairs(ClassMeans(moments)).cdnv


def separation_unbiased(moments: ClassMoments) -> float:
    """Separation, one minus the largest absolute cosine between centred class means, from unbiased inner products.

    Noise of the class means makes their lengths too large, and with them all angles too near to those of a simplex,
    which random directions have. The largest of many cosines that are right on average is still somewhat too large.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    Returns
    -------
    float
        In [0, 1]; NaN where `cdnv_unbiased` is because of its classes, and where one is not told from noise.

    Examples
    --------
    >>> separation_unbiased(ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1]))
    0.0
    """
    return unbiased_pairs(ClassMeans(moments)).separation


def discrimination_unbiased(moments: ClassMoments) -> float:
    """Discrimination, one minus the largest cosine between uncentred class means, without the noise in their lengths.

    In [0, 2]; NaN where `separation_unbiased` is.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    Examples
    --------
    >>> round(discrimination_unbiased(ClassMoments.from_features([[4.0, 1], [4, -1], [0, 2], [0, 2]], [0, 0, 1, 1])), 6)
    1.0
    """
    return unbiased_pairs(ClassMeans(moments)).discrimination


def between_noise(moments: ClassMoments, weighting: Weighting) -> float:
    """What the noise of the class means adds to tr Σ_B, on average; NaN where a class has one sample."""
    weights, count = between_weights(moments, weighting), moments.count[moments.present]
    return float((weights * (1 - weights) * class_traces(moments) / count).sum()) if moments.num_samples else math.nan


def _ratio(within: float, between: float) -> float:
    """The former by the latter; NaN where that is not positive."""
    return within / between if between > 0 else math.nan


def _within(layer: Layer) -> float:
    """The unbiased trace of Σ_W; NaN where rows are positions of a sample, which are no independent draws."""
    if layer.record.positions > 1:
        return math.nan
    return within_trace_unbiased(layer.moments, weighting=layer.weighting)


def _between(layer: Layer) -> float:
    """The unbiased trace of Σ_B, from the biased one that the layer shares; NaN where `_within` is."""
    if layer.record.positions > 1:
        return math.nan
    return layer_between_trace(layer) - between_noise(layer.moments, layer.weighting)


_DRAWN = 'samples are draws from their classes; NaN for pool="positions"'
_EXPECTED = "E Σ‖z − m_k‖² = (n_k − 1) t_k; E ‖m_k − E m_k‖² = t_k/n_k"


def _of_pairs(name: str, **words: Any) -> Quantity:
    """A number of the pairs of classes, whose sweep doubles the time of a measurement: only where it is asked for."""
    return Quantity(
        name=f"{name}_unbiased",
        of=lambda layer: getattr(layer.unbiased_pairs, name),
        reference=_EXPECTED,
        family="unbiased",
        default=False,
        **words,
    )


QUANTITIES = (
    Quantity(
        name="within_trace_unbiased",
        of=_within,
        long_name="within-class variability, unbiased",
        symbol=r"\mathrm{tr}\,\hat\Sigma_W",
        units="feature units squared",
        convention=f"tr Σ_W with 1/(n_k − 1) for 1/n_k; {_DRAWN}; NaN where a class has one; Σ_W: {{within}}",
        reference=_EXPECTED,
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.inf),
        family="unbiased",
    ),
    Quantity(
        name="between_trace_unbiased",
        of=_between,
        long_name="between-class variability, unbiased",
        symbol=r"\mathrm{tr}\,\hat\Sigma_B",
        units="feature units squared",
        convention=f"tr Σ_B less Σ_k p_k (1 − p_k) t_k/n_k; {_DRAWN}; Σ_B: {{between}}",
        reference=_EXPECTED,
        family="unbiased",
    ),
    Quantity(
        name="compression_unbiased",
        of=lambda layer: _ratio(_within(layer), _between(layer)),
        long_name="compression, unbiased",
        symbol=r"\hat D_\ell",
        convention=f"ratio of the unbiased traces; {_DRAWN}; NaN where classes cannot be told from noise",
        reference=_EXPECTED,
        heading="D, unbiased",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.inf),
        family="unbiased",
    ),
    _of_pairs(
        "cdnv",
        long_name="class-distance normalised variance, unbiased",
        symbol=r"\widehat{\mathrm{CDNV}}",
        convention=f"(t_k + t_k')/(2(‖m_k − m_k'‖² − t_k/n_k − t_k'/n_k')); mean over the pairs; {_DRAWN}",
        heading="CDNV, unbiased",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.inf),
    ),
    _of_pairs(
        "separation",
        long_name="separation, unbiased",
        symbol=r"\hat S_\ell",
        convention=f"class means centred, absolute cosine, noise taken out of all products; {_DRAWN}",
        heading="S, unbiased",
        better="higher",
        bounds=(0.0, 1.0),
    ),
    _of_pairs(
        "discrimination",
        long_name="discrimination, unbiased",
        symbol=r"\hat S_\ell^{\mathrm{unc}}",
        convention=f"class means uncentred, signed cosine, noise taken out of their lengths; {_DRAWN}",
        heading="discrimination, unbiased",
        better="higher",
        bounds=(0.0, 2.0),
    ),
)

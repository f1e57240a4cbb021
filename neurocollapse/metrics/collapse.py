"""Neural collapse of the class means: NC2, its generalisations, and distances between classes."""

import math
from typing import Any

from neurocollapse.metrics.means import ClassMeans
from neurocollapse.metrics.pairs import PairStatistics, pair_statistics
from neurocollapse.metrics.quantity import Quantity
from neurocollapse.statistics import ClassMoments


def pairs_of(moments: ClassMoments) -> PairStatistics:
    """What all pairs of class means say together."""
    return pair_statistics(ClassMeans(moments))


def cdnv(moments: ClassMoments) -> float:
    r"""Class-distance normalised variance, mean over the pairs of classes.

    .. math:: \frac{v_k + v_{k'}}{2 \|m_k - m_{k'}\|^2}, \qquad v_k = \frac1{n_k} \sum_i \|z_{k,i} - m_k\|^2

    Non-negative, exactly 0 at collapse. Infinite where two class means coincide but the samples of one of the two do
    not; NaN where both vanish, and with fewer than two classes present.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    References
    ----------
    Galanti, György, Hutter, On the role of neural collapse in transfer learning, ICLR 2022.

    Examples
    --------
    >>> cdnv(ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1]))
    0.013888888888888888
    """
    return pairs_of(moments).cdnv


def cdnv_max(moments: ClassMoments) -> float:
    """The largest CDNV of two classes, that of the pair that is hardest to tell apart. See `cdnv`.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    """
    return pairs_of(moments).cdnv_max


def nc2_norms(moments: ClassMoments) -> float:
    r"""NC2, equal norms: :math:`\mathrm{std}_k \|\mu_k\| / \mathrm{mean}_k \|\mu_k\|`, about the mean of the means.

    Non-negative, 0 at collapse; NaN with fewer than two classes present, and where all class means coincide.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    References
    ----------
    Papyan, Han, Donoho, PNAS 117(40), 2020.
    """
    return _norm_variation(ClassMeans(moments))


def nc2_angles(moments: ClassMoments) -> float:
    r"""NC2, equal angles: standard deviation over the pairs of :math:`\cos(\mu_k, \mu_{k'})`.

    In [0, 1], 0 at collapse. NaN with fewer than two classes present, and where a class mean is at the mean of all.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    References
    ----------
    Papyan, Han, Donoho, PNAS 117(40), 2020.
    """
    return pairs_of(moments).nc2_angles


def nc2_simplex(moments: ClassMoments) -> float:
    r"""NC2, widest angles: mean over the pairs of :math:`| \cos(\mu_k, \mu_{k'}) + 1/(K - 1) |`.

    In [0, 2], 0 at collapse. NaN where `nc2_angles` is.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    References
    ----------
    Papyan, Han, Donoho, PNAS 117(40), 2020.
    """
    return pairs_of(moments).nc2_simplex


def nc2_distance(moments: ClassMoments) -> float:
    r"""NC2 in one number: distance of the normalised Gram matrix of the class means from that of a simplex.

    .. math:: \bigl\| M M^\top / \|M M^\top\|_F - (I - \tfrac1K 1 1^\top) / \sqrt{K - 1} \bigr\|_F

    In [0, √2], 0 at collapse. NaN with fewer than two classes present, and where all class means coincide.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    References
    ----------
    Zhu et al., A geometric analysis of neural collapse with unconstrained features, NeurIPS 2021.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0, 1, 2])
    >>> round(nc2_distance(moments), 12)
    0.0
    """
    return pairs_of(moments).nc2_distance


def nc2_orthogonal(moments: ClassMoments) -> float:
    r"""Distance of the normalised Gram matrix of uncentred class means from that of orthogonal ones.

    .. math:: \bigl\| \bar M \bar M^\top / \|\bar M \bar M^\top\|_F - I / \sqrt K \bigr\|_F, \qquad
        \bar M = (m_1, \dots, m_K)^\top

    In [0, √2], 0 for orthogonal class means of equal length. NaN with fewer than two classes present, and where all
    class means are zero.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    References
    ----------
    Wang et al., JMLR 26(220), 2025.
    """
    return pairs_of(moments).nc2_orthogonal


def gnc2(moments: ClassMoments) -> float:
    r"""GNC2, hyperspherical energy: mean over the pairs of :math:`\log (1 / \|\hat\mu_k - \hat\mu_{k'}\|)`.

    With :math:`\hat\mu = \mu / \|\mu\|`. The smallest value that K ≤ d + 1 classes allow, that of a simplex, is
    :math:`-\frac12 \log (2K / (K - 1))`; it says how evenly more classes than that are spread, too. Infinite where two
    directions coincide; NaN where `nc2_angles` is.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    References
    ----------
    Liu et al., Generalizing and decoupling neural collapse via hyperspherical uniformity gap, ICLR 2023.
    """
    return pairs_of(moments).gnc2


def gnc2_variation(moments: ClassMoments) -> float:
    """Standard deviation over the pairs of the logarithms in `gnc2`, by the absolute value of their mean.

    Non-negative, 0 for a simplex; NaN where `gnc2` is not finite.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    References
    ----------
    Wu and Papyan, Linguistic collapse: neural collapse in (large) language models, NeurIPS 2024.
    """
    return pairs_of(moments).gnc2_variation


def _norm_variation(means: ClassMeans) -> float:
    """Standard deviation of ‖μ_k‖ by the mean."""
    length = means.square.sqrt()
    return float(length.std(correction=0) / length.mean()) if means.num_classes > 1 else math.nan


_PAPYAN = "Papyan, Han, Donoho, PNAS 117(40), 2020"
_ZHU = "Zhu et al., NeurIPS 2021"
_GALANTI = "Galanti, György, Hutter, ICLR 2022"
CENTRED = "class means about their mean, each class with equal weight"
_PAIRS = f"{CENTRED}; over the pairs of different classes"


def of_pairs(name: str, **words: Any) -> Quantity:
    """A number that the sweep over the pairs gives."""
    return Quantity(name=name, of=lambda layer: getattr(layer.pairs, name), family="collapse", **words)


QUANTITIES = (
    of_pairs(
        "cdnv",
        long_name="class-distance normalised variance",
        symbol=r"\mathrm{CDNV}",
        convention="(v_k + v_k')/(2‖m_k − m_k'‖²), v_k with 1/n_k; mean over the pairs of different classes",
        reference=_GALANTI,
        heading="CDNV",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.inf),
    ),
    of_pairs(
        "cdnv_max",
        long_name="class-distance normalised variance, largest",
        symbol=r"\mathrm{CDNV}_{\max}",
        convention="(v_k + v_k')/(2‖m_k − m_k'‖²), v_k with 1/n_k; largest of all pairs",
        reference=_GALANTI,
        heading="CDNV, largest",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.inf),
    ),
    Quantity(
        name="cdnv_max_pair",
        of=lambda layer: _classes(layer.means, layer.pairs),
        long_name="the two classes with the largest CDNV",
        symbol=r"\arg\max \mathrm{CDNV}",
        convention="class indices; NaN where undefined",
        reference=_GALANTI,
        bounds=(0.0, math.inf),
        family="collapse",
        dims=("layer", "pair"),
    ),
    Quantity(
        name="nc2_norms",
        of=lambda layer: _norm_variation(layer.means),
        long_name="NC2, variation of the norms",
        symbol=r"\mathrm{std}_k \|\mu_k\| / \mathrm{mean}_k \|\mu_k\|",
        convention=f"{CENTRED}; standard deviation with 1/K",
        reference=_PAPYAN,
        heading="NC2 norms",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.inf),
        family="collapse",
    ),
    of_pairs(
        "nc2_angles",
        long_name="NC2, deviation of the angles",
        symbol=r"\mathrm{std}_{k \ne k'} \cos(\mu_k, \mu_{k'})",
        convention=_PAIRS,
        reference=_PAPYAN,
        heading="NC2 angles",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, 1.0),
    ),
    of_pairs(
        "nc2_simplex",
        long_name="NC2, angles from those of a simplex",
        symbol=r"\mathrm{mean}_{k \ne k'} |\cos(\mu_k, \mu_{k'}) + \frac1{K-1}|",
        convention=_PAIRS,
        reference=_PAPYAN,
        heading="NC2 simplex",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, 2.0),
    ),
    of_pairs(
        "nc2_distance",
        long_name="NC2, distance from a simplex",
        symbol=r"\left\| \frac{M M^\top}{\|M M^\top\|} - \frac{I - 1 1^\top / K}{\sqrt{K - 1}} \right\|_F",
        convention=f"{CENTRED}; Gram matrix of Frobenius norm one",
        reference=_ZHU,
        heading="NC2 distance",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.sqrt(2)),
    ),
    of_pairs(
        "nc2_orthogonal",
        long_name="distance from orthogonal class means",
        symbol=r"\left\| \frac{\bar M \bar M^\top}{\|\bar M \bar M^\top\|} - \frac{I}{\sqrt K} \right\|_F",
        convention="class means about the origin; Gram matrix of Frobenius norm one",
        reference="Wang et al., JMLR 26(220), 2025",
        heading="orthogonal",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.sqrt(2)),
    ),
    of_pairs(
        "gnc2",
        long_name="GNC2, hyperspherical energy",
        symbol=r"\mathrm{mean}_{k \ne k'} \log \|\hat\mu_k - \hat\mu_{k'}\|^{-1}",
        convention=f"{_PAIRS}; natural logarithm; a simplex has −log(2K/(K−1))/2",
        reference="Liu et al., ICLR 2023",
        heading="GNC2",
        better="lower",
        bounds=(-math.log(2), math.inf),
    ),
    of_pairs(
        "gnc2_variation",
        long_name="GNC2, variation of the logarithms",
        symbol=r"\mathrm{std} / |\mathrm{mean}|\, \log \|\hat\mu_k - \hat\mu_{k'}\|^{-1}",
        convention=f"{_PAIRS}; natural logarithm",
        reference="Wu and Papyan, NeurIPS 2024",
        heading="GNC2 variation",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.inf),
    ),
)


def _classes(means: ClassMeans, pairs: PairStatistics) -> list[float]:
    """The classes of the largest CDNV, counting absent ones."""
    if math.isnan(pairs.cdnv_max_pair[0]):
        return [math.nan, math.nan]
    return [float(means.present[int(position)]) for position in pairs.cdnv_max_pair]

"""Neural collapse of classes of different size: minority collapse, and the geometry that their counts lead to."""

import math

from neurocollapse.metrics.collapse import CENTRED, of_pairs, pairs_of
from neurocollapse.statistics import ClassMoments


def minority_angle(moments: ClassMoments) -> float:
    r"""Minority collapse: the largest :math:`\cos(\mu_k, \mu_{k'})` between two of the rarest third of the classes.

    These are the ⌊K/3⌋ classes with the fewest samples, at least two, and all that have as many as the last of them. In
    [−1, 1], 1 where two rare classes have collapsed into one; NaN where `nc2_angles` is.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    References
    ----------
    Fang et al., Exploring deep neural networks via layer-peeled model: minority collapse, PNAS 118(43), 2021.
    """
    return pairs_of(moments).minority_angle


def seli_distance(moments: ClassMoments) -> float:
    """Distance of the normalised Gram matrix of the class means from the one that unequal class counts lead to.

    That is simplex-encoded-labels interpolation; for equal counts it is the simplex, and this is `nc2_distance`. In
    [0, √2]; NaN where that is, and with more than 2,048 different class counts.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    References
    ----------
    Thrampoulidis, Kini, Vakilian, Behnia, Imbalance trouble: revisiting neural-collapse geometry, NeurIPS 2022.
    """
    return pairs_of(moments).seli_distance


QUANTITIES = (
    of_pairs(
        "minority_angle",
        long_name="largest cosine between rare classes",
        symbol=r"\max \cos(\mu_k, \mu_{k'})",
        convention=f"{CENTRED}; the rarest third of the classes, at least two, and those as rare as its last",
        reference="Fang et al., PNAS 118(43), 2021",
        heading="minority",
        better="lower",
        bounds=(-1.0, 1.0),
    ),
    of_pairs(
        "seli_distance",
        long_name="distance from the geometry of these class counts",
        symbol=r"\left\| \frac{M M^\top}{\|M M^\top\|} - \frac{G}{\|G\|} \right\|_F",
        convention=f"{CENTRED}; G of simplex-encoded labels; Frobenius norm one; NaN for over 2,048 different counts",
        reference="Thrampoulidis et al., NeurIPS 2022",
        heading="SELI",
        better="lower",
        bounds=(0.0, math.sqrt(2)),
    ),
)

"""Angles between the class means of one layer."""

import numpy as np

from neurocollapse.metrics.means import ClassMeans
from neurocollapse.metrics.pairs import pair_statistics
from neurocollapse.metrics.quantity import Quantity
from neurocollapse.statistics import ClassMoments


def separation(moments: ClassMoments, *, centred: bool = True, absolute: bool = True) -> float:
    r"""Separation: one minus the largest cosine between two class means.

    .. math:: S = 1 - \max_{k \ne k'} c(k, k'), \qquad
        c = |\cos| \text{ or } \cos \text{ of the angle between class means, centred at their mean or not}

    Three of the four variants are in use, and they tend to different limits:

    ======================  ========  ========  ==========================  =====================================
    variant                 centred   absolute  class means orthogonal      centred class means a simplex ETF
    ======================  ========  ========  ==========================  =====================================
    Qu 2023 (the default)   yes       yes       1 − 1/(K−1)                 1 − 1/(K−1)
    Wang et al. 2025        no        no        1                           depends on the mean of the means
    simplex ETF             yes       no        1 + 1/(K−1)                 1 + 1/(K−1), the largest value there is
    ======================  ========  ========  ==========================  =====================================

    Parameters
    ----------
    moments : ClassMoments
        Classes without samples are left out.
    centred : bool, default True
        Subtract the mean of the class means (each class with equal weight) first.
    absolute : bool, default True
        Use the absolute value of the cosine.

    Returns
    -------
    float
        In [0, 1] with `absolute`, in [0, 2] without; of the centred means of two classes always 0, or 2. NaN with fewer
        than two classes present, and when a class mean coincides with the centre, which leaves its direction undefined.

    References
    ----------
    Qu, slides of 7 September 2023; Wang et al., JMLR 26(220), 2025, eq. (4), there called D_l.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[2.0, 0.0], [0.0, 3.0]], [0, 1])
    >>> round(separation(moments, centred=False), 12)
    1.0
    """
    pairs = pair_statistics(ClassMeans(moments))
    return _separation(pairs.cosine if centred else pairs.raw_cosine, absolute=absolute)


def discrimination(moments: ClassMoments) -> float:
    r"""Discrimination of Wang et al.: one minus the largest signed cosine between uncentred class means.

    .. math:: 1 - \max_{k \ne k'} \frac{\langle \mu_k, \mu_{k'} \rangle}{\|\mu_k\| \|\mu_{k'}\|}

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    Returns
    -------
    float
        In [0, 2]; 1 when the class means are orthogonal, which is where a deep linear network drives them.
        NaN with fewer than two classes present or a class mean at the origin.

    References
    ----------
    Wang et al., JMLR 26(220), 2025, eq. (4), there called D_l.

    Examples
    --------
    >>> discrimination(ClassMoments.from_features([[1.0, 0.0], [-1.0, 0.0]], [0, 1]))
    2.0
    """
    return separation(moments, centred=False, absolute=False)


def _separation(cosine: tuple[float, float], *, absolute: bool) -> float:
    """One minus the largest cosine, given the largest and the smallest."""
    largest, smallest = cosine
    return 1.0 - float(np.clip(max(largest, -smallest) if absolute else largest, -1.0, 1.0))


QUANTITIES = (
    Quantity(
        name="separation",
        of=lambda layer: _separation(layer.pairs.cosine, absolute=True),
        symbol=r"S_\ell",
        convention="class means centred, absolute cosine; always 0 for two classes",
        reference="Qu, slides of 7 September 2023",
        heading="S",
        better="higher",
        bounds=(0.0, 1.0),
        family="geometry",
    ),
    Quantity(
        name="separation_etf",
        of=lambda layer: _separation(layer.pairs.cosine, absolute=False),
        long_name="separation, signed",
        symbol=r"S_\ell^{\pm}",
        convention="class means centred, signed cosine; always 2 for two classes",
        reference="Papyan, Han, Donoho, PNAS 117(40), 2020",
        better="higher",
        bounds=(0.0, 2.0),
        family="geometry",
    ),
    Quantity(
        name="discrimination",
        of=lambda layer: _separation(layer.pairs.raw_cosine, absolute=False),
        symbol=r"S_\ell^{\mathrm{unc}}",
        convention="class means uncentred, signed cosine",
        reference="Wang et al., JMLR 26(220), 2025",
        heading="discrimination",
        better="higher",
        bounds=(0.0, 2.0),
        family="geometry",
    ),
)

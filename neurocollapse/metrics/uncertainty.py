"""How sure D, its decay ratios and its slope are, given these samples: intervals by the jackknife, and D corrected."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from neurocollapse.metrics.layer import Network
from neurocollapse.metrics.quantity import Quantity

NORMAL = 1.959963984540054
"""97.5 % quantile of the standard normal distribution: two-sided intervals of 95 %."""
LEAST_SURE = 1.0
"""Relative variance of the unbiased trace of Σ_B above which D has no corrected value: one standard error from 0."""


def log_deviation(covariance: NDArray[np.float64], combination: Sequence[float] | NDArray[np.float64]) -> float:
    """Standard error of a linear combination of the log D of all layers, given their covariance (layers, layers)."""
    used = np.asarray(combination, dtype=np.float64)
    chosen = np.flatnonzero(used)
    variance = float(used[chosen] @ covariance[np.ix_(chosen, chosen)] @ used[chosen])
    return math.sqrt(max(0.0, variance)) if not math.isnan(variance) else math.nan


def compression_corrected(network: Network) -> NDArray[np.float64]:
    r"""Unbiased compression without the bias of a ratio, shape (layers,).

    .. math:: \hat D_\ell \, \frac{1 + c / (A B)}{1 + v / B^2}

    The mean of a ratio :math:`\hat D_\ell = A/B` is not the ratio of the means: a noisy divisor makes it too large by
    the share :math:`v/B^2 - c/(AB)`, with v the variance of B and c its covariance with A. Both are sums over the
    influences of the samples, see `neurocollapse.metrics.influence.influences`, each with the weight
    :math:`(n_k - 2)/(n_k - 1)`: the jackknife makes them too large.

    Parameters
    ----------
    network : Network
        With the influence of every sample.

    Returns
    -------
    ndarray of shape (layers,)
        In [0, ∞); exactly 0 at full collapse; close to `compression_unbiased` with many samples. NaN where that is
        NaN, where a class has fewer than three samples, and where B is within one of its standard errors of 0.

    References
    ----------
    Beale, Some use of computers in operational research, Industrielle Organisation 31, 1962; Tin, Comparison of some
    ratio estimators, Journal of the American Statistical Association 60, 1965.
    """
    plain, sums = network.values("compression_unbiased"), network.influence
    sure = sums.between <= LEAST_SURE
    corrected = plain * (1 + sums.together) / (1 + sums.between)
    return np.where(plain == 0, 0.0, np.where(sure, corrected, np.nan))


def _compression_interval(network: Network) -> NDArray[np.float64]:
    """Interval of every D, shape (layers, 2), from Student's t with as many degrees of freedom as effective samples."""
    from scipy.special import stdtrit  # slow import, needed only here

    variance, fourth = network.covariance.diagonal(), network.influence.fourth
    freedom = np.divide(variance**2, fourth, where=fourth > 0, out=np.full(len(fourth), np.inf))
    quantiles = np.where(np.isinf(freedom), NORMAL, stdtrit(freedom, 0.975))
    return np.stack([_interval(network, {index: 1.0}, one) for index, one in enumerate(quantiles.tolist())])


def _ratio_interval(network: Network) -> NDArray[np.float64]:
    """Interval of every decay ratio, shape (layers, 2)."""
    steps = [_interval(network, {index: 1.0, index - 1: -1.0}) for index in range(1, len(network.layers))]
    return np.stack([np.full(2, np.nan), *steps])


def _slope_interval(network: Network) -> NDArray[np.float64]:
    """Interval of the slope of the straight line through the unbiased log D, shape (2,)."""
    values = network.values("compression_unbiased")
    usable = np.flatnonzero(np.isfinite(values) & (values > 0))
    if len(usable) < 2:
        return np.full(2, np.nan)
    offset = usable - usable.mean()
    return np.log(_interval(network, dict(zip(usable.tolist(), (offset / (offset @ offset)).tolist(), strict=True))))


def _interval(network: Network, combination: dict[int, float], quantile: float = NORMAL) -> NDArray[np.float64]:
    """Lower and upper end of exp(Σ c_l log D_l), D unbiased; NaN where one of these D is, or 0."""
    chosen = network.values("compression_unbiased")[list(combination)]
    factors = np.zeros(len(network.layers))
    factors[list(combination)] = list(combination.values())
    logs = np.log(chosen, where=chosen > 0, out=np.full(len(chosen), np.nan))
    centre = float(logs @ np.fromiter(combination.values(), dtype=np.float64))
    half = quantile * log_deviation(network.covariance, factors)
    return np.exp([centre - half, centre + half])


_FEWEST = "NaN where a class has fewer than three samples"
_JACKKNIFE = "95 %, about the unbiased value: jackknife over the samples"
_LIKE_NORMAL = f"{_JACKKNIFE}, normal in log D; {_FEWEST}"
_LIKE_STUDENT = f"{_JACKKNIFE}, Student's t in log D with (Σψ²)²/Σψ⁴ degrees of freedom for the influences ψ; {_FEWEST}"
_OF_JACKKNIFE = "Tukey, Ann. Math. Statist. 29, 1958; Efron and Stein, Ann. Statist. 9, 1981"
_OF_EFFECTIVE_SAMPLES = f"{_OF_JACKKNIFE}; effective number of samples: Kish, Survey Sampling, 1965"


def _interval_of(
    name: str,
    of: Callable[[Network], NDArray[np.float64]],
    long_name: str,
    symbol: str,
    dims: tuple[str, ...],
    low: float,
    heading: str,
    convention: str = _LIKE_NORMAL,
    reference: str = _OF_JACKKNIFE,
) -> Quantity:
    """An interval that needs every sample's influence at all layers together."""
    return Quantity(
        name=name,
        of=of,
        long_name=long_name,
        symbol=symbol,
        convention=convention,
        reference=reference,
        heading=heading,
        needs=("influence",),
        bounds=(low, math.inf),
        family="uncertainty",
        dims=dims,
        over_layers=True,
    )


QUANTITIES = (
    Quantity(
        name="compression_corrected",
        of=compression_corrected,
        long_name="compression, corrected",
        symbol=r"\hat D_\ell^{\mathrm{c}}",
        convention="ratio of the unbiased traces A/B, times (1 + cov(A, B)/AB)/(1 + var B/B²) by the jackknife; "
        f"{_FEWEST}, or B is within one standard error of 0",
        reference="Beale, Industrielle Organisation 31, 1962; Tin, J. Am. Stat. Assoc. 60, 1965",
        heading="D, corrected",
        needs=("influence",),
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.inf),
        family="uncertainty",
    ),
    _interval_of(
        "compression_interval",
        _compression_interval,
        "compression, 95 % interval",
        r"\hat D_\ell^\pm",
        ("layer", "bound"),
        0.0,
        "D, 95 %",
        _LIKE_STUDENT,
        _OF_EFFECTIVE_SAMPLES,
    ),
    _interval_of(
        "decay_ratio_interval",
        _ratio_interval,
        "decay ratio, 95 % interval",
        r"(\hat D_\ell / \hat D_{\ell-1})^\pm",
        ("layer", "bound"),
        0.0,
        "D / D before, 95 %",
    ),
    _interval_of(
        "decay_slope_interval",
        _slope_interval,
        "slope of log D per layer, 95 % interval over samples",
        r"\hat\beta^\pm",
        ("bound",),
        -math.inf,
        "slope of log D, 95 % over samples",
    ),
)

"""The theorem as it is printed, its constants exposed: c, κ near 1 and an o(1) that the source leaves open."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PrintedBounds:
    """The printed bounds at stated constants.

    Attributes
    ----------
    ratio_lower, ratio_upper, rate
        Of D_{l+1}/D_l, the same for every layer; the rate is ε²/n^{1/L}.
    separation_lower : array of shape (L,)
        Of S_l for l = 0 … L−1, with o(1) taken as zero; the source claims it for 1 ≤ l ≤ L−2. Below 0 it says nothing.
    """

    ratio_lower: float
    ratio_upper: float
    rate: float
    separation_lower: Array


def printed_bounds(
    *,
    samples_per_class: float,
    depth: int,
    theta: float,
    delta: float,
    epsilon: float,
    c: float = 1.0,
    kappa: float = 1.0,
    output_scale: float = 1.0,
) -> PrintedBounds:
    r"""Evaluate the printed bounds.

    .. math:: \frac{c\,\varepsilon^2}{\kappa (4n)^{1/L}} \le \frac{D_{l+1}}{D_l} \le
        \frac{\kappa\,\varepsilon^2}{c\,(n/2)^{1/L}}, \qquad
        S_l \ge 1 - \frac{32(\theta + 4\delta)}{L}(L - l - 1) + o(1)

    Parameters
    ----------
    samples_per_class, depth, epsilon
        n, L, ε.
    theta, delta
        The entrywise θ and the Frobenius δ of the source.
    c, kappa
        The unnamed constants of the source.
    output_scale
        α; n becomes n/α².

    References
    ----------
    Qu, slides of 7 September 2023; Wang et al., JMLR 26(220), 2025, Theorem 4.

    Examples
    --------
    >>> round(printed_bounds(samples_per_class=10, depth=5, theta=0, delta=0.6, epsilon=0.3).rate, 5)
    0.05679
    """
    n, L = samples_per_class / output_scale**2, depth
    slope = 32 * (theta + 4 * delta) / L
    return PrintedBounds(
        ratio_lower=c / kappa * epsilon**2 / (4 * n) ** (1 / L),
        ratio_upper=kappa / c * epsilon**2 / (n / 2) ** (1 / L),
        rate=epsilon**2 / n ** (1 / L),
        separation_lower=1 - slope * (L - 1 - np.arange(L, dtype=np.float64)),
    )

"""The roots between which the leading squared singular values of a layer lie, found in logarithms."""

import math
from collections.abc import Callable

import numpy as np


def leading_roots(low: float, high: float, depth: int, delta: float) -> tuple[float, float]:
    """The roots s₋, s₊ of s^{L−1}(s + δ₂) = low and s^{L−1}(s − δ₂) = high, s₊ > δ₂.

    Parameters
    ----------
    low, high
        Numbers between which the squared singular values of the product lie. NaN, infinite or not positive: no root.
    depth
        Number of factors, L.
    delta
        δ₂ ≥ 0.

    Returns
    -------
    (float, float)
        NaN for a root that does not exist; 0 or infinite for one beyond the range of float64.

    Examples
    --------
    >>> leading_roots(16.0, 16.0, 4, 0.0)
    (2.0, 2.0)
    """
    if not (math.isfinite(delta) and delta >= 0):
        return math.nan, math.nan
    with np.errstate(all="ignore"):
        return _lower(low, depth, delta), _upper(high, depth, delta)


def _lower(low: float, depth: int, delta: float) -> float:
    """Solve (L−1) y + log(e^y + δ) = log low for y = log s."""
    if not 0 < low < math.inf:
        return math.nan
    if delta == 0:
        return float(np.float64(low) ** (1 / depth))
    target, log_delta = math.log(low), math.log(delta)
    # s + δ ≤ 2 max(s, δ) gives the lower end of the interval, s + δ ≥ s the upper one.
    ends = [(target - math.log(2)) / depth]
    if depth > 1:
        ends.append((target - math.log(2) - log_delta) / (depth - 1))
    root = _root(lambda y: (depth - 1) * y + np.logaddexp(y, log_delta) - target, min(ends), target / depth)
    return float(np.exp(root))


def _upper(high: float, depth: int, delta: float) -> float:
    """Solve (L−1) log s + x = log high for x = log(s − δ)."""
    if not 0 < high < math.inf:
        return math.nan
    if delta == 0:
        return float(np.float64(high) ** (1 / depth))
    target, log_delta = math.log(high), math.log(delta)
    ends = (
        (target - (depth - 1) * math.log(2)) / depth,
        target - (depth - 1) * (math.log(2) + log_delta),
    )
    root = _root(lambda x: (depth - 1) * np.logaddexp(x, log_delta) + x - target, min(ends), target / depth)
    return float(np.exp(root)) + delta


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """The zero of an increasing function, the interval widened by what rounding may cost its ends."""
    from scipy.optimize import brentq  # slow import, needed only here

    room = 1e-9 * (1 + abs(low) + abs(high))
    return float(brentq(function, low - room, high + room, xtol=1e-15, rtol=8.9e-16, maxiter=1000))

"""Intervals of means over few repeats."""

import math

import numpy as np
from numpy.typing import ArrayLike

FEWEST = 5
"""Fewest repeats for which resampling is meaningful: without any effect, this many agree in sign once in 16 times."""
DRAWS = 2_000
"""Resamplings of the repeats; the interval's ends scatter by about 2 % of its length."""


def mean_interval(values: ArrayLike, *, seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of the mean over resamplings of independent repeats.

    It allows for skewed values, such as gains of a rate that ends near 1, of which Student's interval reaches across
    zero where all are positive. Of few repeats it is too short: of five or six normal ones it holds their mean 85 times
    in 100, and lies above it 7 times.

    Parameters
    ----------
    values : array of shape (repeats,)
    seed : int, default 0
        Seed of the resampling.

    Returns
    -------
    low, high : float
        NaN of fewer than five repeats, and where one of them is not finite.

    Examples
    --------
    >>> [round(end, 1) for end in mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])]
    [1.8, 4.2]
    """
    known = np.asarray(values, dtype=np.float64).ravel()
    if known.size < FEWEST or not np.isfinite(known).all():
        return math.nan, math.nan
    rows = np.random.default_rng(seed).integers(known.size, size=(DRAWS, known.size))
    low, high = np.percentile(known[rows].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def too_few(num_repeats: int) -> list[str]:
    """Which assumption fails where an interval over repeats is undefined; none with enough of them."""
    return [] if num_repeats >= FEWEST else [f"{num_repeats} repeats are too few for an interval, which needs {FEWEST}"]

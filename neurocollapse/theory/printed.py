"""The theorem as it is printed, its constants exposed: c, κ near 1 and an o(1) that the source leaves open."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurocollapse.support.numbers import short
from neurocollapse.theory.prior import PRIOR
from neurocollapse.theory.theorem import Bracket, Case, Theorem, after_first

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PrintedBounds:
    """The printed bounds at stated constants.

    Attributes
    ----------
    ratio_lower, ratio_upper, rate
        Bounds and rate of D_{l+1}/D_l, the same for every layer; the rate is ε²/n^{1/L}.
    separation_lower : array of shape (L,)
        Bound of S_l for l = 0 … L−1, with o(1) taken as zero; the source claims it for 1 ≤ l ≤ L−2. Below 0 it says
        nothing.
    """

    ratio_lower: float
    ratio_upper: float
    rate: float
    separation_lower: Array


@np.errstate(all="ignore")  # beyond the range of float64, infinity and 0 are right
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
    c, kappa : float, default 1.0
        The unnamed constants of the source.
    output_scale : float, default 1.0
        α; n becomes n/α².

    References
    ----------
    Qu, slides of 7 September 2023; Wang et al., JMLR 26(220), 2025, Theorem 4.

    Examples
    --------
    >>> round(printed_bounds(samples_per_class=10, depth=5, theta=0, delta=0.6, epsilon=0.3).rate, 5)
    0.05679
    """
    n, L = np.float64(samples_per_class / output_scale / output_scale), depth
    epsilon = np.float64(epsilon)
    slope = 32 * (theta + 4 * delta) / L
    return PrintedBounds(
        ratio_lower=float(c / kappa * epsilon**2 / (4 * n) ** (1 / L)),
        ratio_upper=float(kappa / c * epsilon**2 / (n / 2) ** (1 / L)),
        rate=float(epsilon**2 / n ** (1 / L)),
        separation_lower=1 - np.float64(slope) * (L - 1 - np.arange(L, dtype=np.float64)),
    )


def _certify(case: Case) -> PrintedBounds | None:
    """The bounds at the measured numbers; entrywise θ and Frobenius δ enter."""
    problem, measured = case.problem, case.measured
    if measured.balance is None or measured.split is None:
        return None
    return printed_bounds(
        samples_per_class=problem.samples_per_class,
        depth=problem.depth,
        theta=measured.gram.theta,
        delta=measured.balance.last_frobenius,
        epsilon=measured.split.epsilon,
        output_scale=problem.output_scale,
    )


def _brackets(case: Case, bounds: PrintedBounds | None) -> list[Bracket]:
    """Brackets of the decay ratios, which are claimed for 1 ≤ l ≤ L−2 in D_{l+1}/D_l, and of the separations."""
    depth = case.problem.depth
    lower, upper, rate = (math.nan,) * 3 if bounds is None else (bounds.ratio_lower, bounds.ratio_upper, bounds.rate)
    claimed = np.full(depth, math.nan)
    if bounds is not None:
        claimed[1:-1] = bounds.separation_lower[1:-1]
    return [
        Bracket(
            of="decay_ratio",
            claim="D_l/D_{l−1} lies in its bracket",
            prefix="printed",
            lower=after_first(np.full(depth - 1, lower)),
            upper=after_first(np.full(depth - 1, upper)),
            layers=range(2, depth) if bounds is not None else (),
            curve=("rate", after_first(np.full(depth - 1, rate)), "\\varepsilon^2 / n^{1/L}"),
        ),
        Bracket(
            of="separation_uncentred",
            claim="S_l is at least its bound",
            prefix="separation_printed",
            lower=claimed,
            layers=range(1, depth - 1) if bounds is not None else (),
            convention="claimed for 1 ≤ l ≤ L−2, NaN elsewhere; below 0 it says nothing",
        ),
    ]


def _remarks(case: Case, bounds: PrintedBounds | None) -> list[str]:
    """Where the bound of the separation is empty."""
    if bounds is None or case.problem.depth <= 2:
        return []
    claimed = bounds.separation_lower[1:-1]
    vacuous = int((claimed < 0).sum())
    if not vacuous:
        return []
    lowest = short(claimed.min(), 3)
    return [
        f"The printed bound of S_l is vacuous (below 0, down to {lowest}) at {vacuous} of {len(claimed)} "
        "layers: it needs 32(θ + 4δ) ≪ L."
    ]


PRINTED = Theorem(
    name="printed",
    label="printed bound",
    about="The theorem as published, its open constants taken as 1 and its o(1) as 0.",
    reference="Qu, slides of 7 September 2023; Wang et al., JMLR 26(220), 2025, Theorem 4, at c = κ = 1 and o(1) = 0",
    needs=PRIOR.needs,
    certify=_certify,
    brackets=_brackets,
    remarks=_remarks,
    is_open=True,
)

"""The robust a-priori certificate: Theorem 1, with measured deviations in place of what it takes as exact."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocollapse.support.numbers import short
from neurocollapse.theory.assumptions import Assumption, Balance, symmetric_norm
from neurocollapse.theory.conditions import SHAPE, below_one, readout
from neurocollapse.theory.problem import LinearProblem
from neurocollapse.theory.roots import leading_roots
from neurocollapse.theory.spectrum import spectral_norm
from neurocollapse.theory.theorem import Bracket, Case, Theorem, after_first

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RobustCertificate:
    """Bounds for every step, and the numbers whose signs decide whether there are any.

    Attributes
    ----------
    ratio_lower, ratio_upper : arrays of shape (L − 1,)
        Bracket of D_{l+1}/D_l for l = 0 … L−2; NaN unless every root and denominator is positive. The lower side is
        Proposition 5: no layer stretches the spread by less than the one before, but for the imbalance between them.
    s_minus, s_plus
        σ_k(W_{L−1})² of the first K singular values lies between them.
    product_error
        η, how far imbalance may move the squared singular values of the product.
    product_floor
        λ₋, the least of those squared singular values.
    leak
        t, how much of the class means' image comes through the trailing block.
    gap
        s₋ − b_1, the least leading squared singular value of all layers.
    misalignment : array of shape (L − 1,)
        s_l, bounds on the sine of the angle between what layer l writes and layer l+1 reads.
    within_leading, means_trailing : arrays of shape (L,)
        x_l and y_l of Theorem 2, bounded from these numbers alone.
    """

    ratio_lower: Array
    ratio_upper: Array
    s_minus: float
    s_plus: float
    product_error: float
    product_floor: float
    leak: float
    gap: float
    misalignment: Array
    within_leading: Array
    means_trailing: Array


@np.errstate(all="ignore")  # beyond the range of float64, infinity and 0 are right
def robust_certificate(
    *,
    num_classes: int,
    samples_per_class: float,
    depth: int,
    theta: float,
    delta: float,
    epsilon: float,
    rho: float,
    largest: float,
    imbalance: tuple[float, ...] = (),
    trailing_imbalance: tuple[float, ...] = (),
    within_residual: float = 0.0,
    means_residual: float = 0.0,
    fit_residual: float = 0.0,
    num_unknown: int | None = None,
    output_scale: float = 1.0,
) -> RobustCertificate:
    r"""Evaluate the certificate of docs/theory.md, Theorem 1'.

    Parameters
    ----------
    num_classes, samples_per_class, depth
        K ≥ 2, n, and L ≥ 2, the number of weight matrices.
    theta, delta, epsilon, rho
        As in `prior_certificate`.
    largest
        s̄, the largest squared singular value of W_1 … W_{L−1}.
    imbalance, trailing_imbalance : tuple of float, default none
        β_l = ‖W_{l+1}ᵀW_{l+1} − W_lW_lᵀ‖ for l = 1 … L−2, all 0 where none is given, and the same between the trailing
        left directions of W_l.
    within_residual : float, default 0.0
        e = ‖A₁⁻¹W_{L:1}R‖/‖W_{L−1:1}R‖, what the last layer leaves of the within-class spread.
    means_residual : float, default 0.0
        ν = ‖αW_{L:1}M̄ − I‖, how far the class means are from their targets.
    fit_residual : float, default 0.0
        μ = ‖αW_{L:1} − YX⁺‖, how far the network is from the least-norm fit.
    num_unknown
        Number of input directions whose singular value has no lower bound: d₀ − p + K, by default K.
    output_scale : float, default 1.0
        α, if the network's output is α W_{L:1} x.

    Examples
    --------
    >>> given = {"num_classes": 3, "samples_per_class": 10, "depth": 4, "theta": 0, "delta": 0, "largest": 1.8}
    >>> robust_certificate(**given, epsilon=0.1, rho=0, imbalance=(0.0, 0.0)).ratio_upper.round(6).tolist()
    [0.005624, 0.005623, 0.005623]
    """
    K, n, L, alpha = num_classes, np.float64(samples_per_class), depth, output_scale
    unknown = K if num_unknown is None else num_unknown
    eps, top, delta = np.float64(epsilon), np.float64(largest), np.float64(delta)
    # β_0 = 0 stands for the input, before which there is nothing.
    beta, inner = (np.array([0.0, *(given or [0.0] * (L - 2))]) for given in (imbalance, trailing_imbalance))
    later = np.array([*np.cumsum(beta[::-1])[::-1], 0.0])  # b_l = β_l + … + β_{L−2}, b_{L−1} = 0
    if not 0 <= theta < 1:
        n, theta = np.float64(math.nan), np.float64(math.nan)
    root = np.sqrt(n / (1 + theta)) - fit_residual
    low = (root / alpha) ** 2 if root > 0 else np.float64(0)
    high = ((np.sqrt(n / (1 - theta)) + fit_residual) / alpha) ** 2
    error = top ** (L - 2) * (top + delta) * (np.arange(L - 1) * beta).sum()
    s_minus, s_plus = (np.float64(one) for one in leading_roots(float(low - error), float(high + error), L, delta))
    leading = np.sqrt(_positive(s_minus - later))  # at l: a lower bound of σ_{l,K}
    sine = beta / _positive(s_minus - later[1:] - eps**2)  # s_l at l = 0 … L−2
    cosine = np.sqrt(_positive(1 - sine**2))
    within = _within(L, eps, delta, s_minus, within_residual, leading, sine, cosine)
    leak = _leak(L, alpha, eps, delta, s_plus, later, sine) * np.sqrt((1 + theta) / n)
    floor = _positive(1 - means_residual - leak) ** 2 / alpha / alpha / high
    trailing = [np.sqrt(max(0.0, (1 + theta) / n - floor) / floor) if floor > 0 else math.nan]
    gains = []
    for layer in range(L - 1):
        gains.append(_positive(cosine[layer] - sine[layer] * trailing[layer]))
        trailing.append(eps * (trailing[layer] + sine[layer]) / (leading[layer + 1] * gains[layer]))
    y, g = np.array(trailing), np.array(gains)
    upper = (1 + within[1:] ** 2) * (1 + y[:-1] ** 2) * (eps / leading[1:] / g) ** 2
    energy = 1 / (1 + within[0] ** 2) - unknown * (1 + theta) / ((n - 1) * K * (1 - theta))
    least = np.float64(0.0 if math.isnan(rho) else max(epsilon - rho, 0.0))
    inside = np.append(0, within[1:-1])
    loss = np.cumsum(inner + beta * (2 * inside + inside**2))
    lower = np.maximum(0.0, least**2 * energy - loss) / (s_plus + later[1:])
    sound = eps**2 < s_minus - later[1] and bool(np.isfinite(upper).all())
    nothing = np.full(L - 1, math.nan)
    return RobustCertificate(
        ratio_lower=np.where(np.isnan(lower), 0.0, lower) if sound else nothing,
        ratio_upper=upper if sound else nothing,
        s_minus=float(s_minus),
        s_plus=float(s_plus),
        product_error=float(error),
        product_floor=float(low),
        leak=float(leak),
        gap=float(s_minus - later[1]),
        misalignment=sine,
        within_leading=within,
        means_trailing=y,
    )


def _within(
    depth: int,
    epsilon: np.float64,
    delta: np.float64,
    s_minus: np.float64,
    residual: float,
    leading: Array,
    sine: Array,
    cosine: Array,
) -> Array:
    """x_l, backward from the last layer: the leading block's part of the within-class spread relative to the rest."""
    x = np.full(depth, math.nan)
    x[-1] = (delta / _positive(s_minus - delta) + residual) / _positive(np.float64(1 - residual))
    for layer in range(depth - 2, 0, -1):
        carried = x[layer + 1] * epsilon / leading[layer + 1]
        x[layer] = (carried + sine[layer]) / _positive(cosine[layer] - carried * sine[layer])
    x[0] = x[1] * epsilon / leading[1]
    return x


def _leak(
    depth: int, alpha: float, epsilon: np.float64, delta: np.float64, s_plus: np.float64, later: Array, sine: Array
) -> np.float64:
    """How much the output takes from the trailing input directions, relative to them."""
    leading, trailing = np.float64(0), epsilon
    for layer in range(1, depth - 1):
        leading, trailing = (
            np.sqrt(s_plus + later[layer + 1]) * (leading + sine[layer] * trailing),
            epsilon * (trailing + sine[layer] * leading),
        )
    return alpha * (np.sqrt(s_plus + delta) * leading + np.sqrt(epsilon**2 + delta) * trailing)


def _positive(value: Any) -> Any:
    """The value where it is positive, NaN elsewhere: no bound follows from it there."""
    return np.where(value > 0, value, math.nan)


@np.errstate(all="ignore")
def _certify(case: Case) -> RobustCertificate | None:
    """The certificate at the measured numbers."""
    balance, split = case.measured.balance, case.measured.split
    if balance is None or split is None:
        return None
    problem = case.problem.reachable
    alpha, K = problem.output_scale, problem.num_classes
    residual = case.readout[1] if problem is case.problem else readout(problem)[1]
    evaluated = partial(
        robust_certificate,
        num_classes=K,
        samples_per_class=problem.samples_per_class,
        depth=problem.depth,
        theta=case.measured.gram.theta_spectral,
        delta=balance.last_spectral,
        epsilon=split.epsilon,
        rho=split.rho,
        largest=float(np.float64(split.top_largest) * split.top_largest),
        imbalance=balance.interior_spectral,
        within_residual=residual,
        means_residual=_means_residual(problem),
        fit_residual=alpha * spectral_norm(problem.product - problem.least_norm_fit),
        num_unknown=problem.widths[0] - min(problem.widths) + K,
        output_scale=alpha,
    )
    # The norms between trailing directions cost a spectrum each and only move a bound that exists.
    first = evaluated(trailing_imbalance=balance.interior_spectral)
    if not np.isfinite(first.ratio_upper).all():
        return first
    return evaluated(trailing_imbalance=_trailing_imbalance(problem, balance))


def _trailing_imbalance(problem: LinearProblem, balance: Balance) -> tuple[float, ...]:
    """‖U_{l,2}ᵀE_lU_{l,2}‖ for l = 1 … L−2."""
    norms = []
    for difference, spectrum in zip(balance.differences[:-1], problem.spectra, strict=False):
        basis = spectrum.left(problem.num_classes)
        rest = difference - basis @ (basis.T @ difference)
        norms.append(symmetric_norm(rest - (rest @ basis) @ basis.T))
    return tuple(norms)


def _means_residual(problem: LinearProblem) -> float:
    """ν = ‖αW_{L:1}M̄ − I‖ over the classes present."""
    images = problem.output_scale * (problem.product @ problem.class_means)
    present = problem.counts.nonzero().flatten()
    images[present, range(len(present))] -= 1
    return spectral_norm(images)


def _brackets(case: Case, certificate: RobustCertificate | None) -> list[Bracket]:
    """Bracket of every decay ratio."""
    depth, nothing = case.problem.depth, np.full(case.problem.depth, math.nan)
    return [
        Bracket(
            of="decay_ratio",
            claim="D_l/D_{l−1} lies in its bracket",
            prefix="robust",
            lower=nothing if certificate is None else after_first(certificate.ratio_lower),
            upper=nothing if certificate is None else after_first(certificate.ratio_upper),
            layers=range(1, depth),
        )
    ]


def _assume(case: Case, certificate: RobustCertificate | None) -> list[Assumption]:
    """The inequalities between the measured numbers."""
    split = case.measured.split
    if certificate is None or split is None:
        return []
    found, floor = certificate, certificate.product_floor
    product = found.product_error / floor if floor > 0 else math.inf
    gap = split.epsilon / found.gap * split.epsilon if found.gap > 0 else math.inf
    undefined = int(np.isnan(found.ratio_upper).sum())
    return [
        below_one(
            "robust_product",
            found.product_error,
            product,
            f"η, the most that imbalance moves σ(W_{{L:1}})², relative to the least of them, λ₋ = {short(floor)}",
        ),
        below_one(
            "robust_gap",
            found.gap,
            gap,
            "ε²/(s₋ − b_1): the leading singular values stay above the others after the imbalance of all layers",
        ),
        below_one(
            "robust_leak",
            found.leak,
            found.leak + _means_residual(case.problem.reachable),
            "t + ν: the class means reach their targets through the leading block",
        ),
        Assumption(
            "robust_alignment",
            float(np.nanmax(np.append(found.misalignment, 0.0))),
            float(undefined),
            0.0,
            undefined == 0,
            f"largest s_l that imbalance allows; {undefined} of {len(found.ratio_upper)} ratios lack a certificate",
        ),
    ]


ROBUST = Theorem(
    name="robust",
    label="robust a priori certificate",
    about="Theorem 1 with the measured sizes of what it takes as exact: imbalance, loss and distance to least norm.",
    reference="docs/theory.md, Theorem 1' (robust a priori)",
    needs=(
        *SHAPE,
        "balanced_classes",
        "near_orthonormal_data",
        "robust_product",
        "robust_gap",
        "robust_leak",
        "robust_alignment",
    ),
    certify=_certify,
    brackets=_brackets,
    assume=_assume,
)
"""A theorem for real trained networks that are close to those of Theorem 1."""

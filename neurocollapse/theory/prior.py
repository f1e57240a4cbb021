"""The a-priori certificate: two-sided bounds with explicit constants from θ₂, δ₂, ε, ρ, n, K and L alone."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurocollapse.support.numbers import short
from neurocollapse.theory.assumptions import Assumption
from neurocollapse.theory.conditions import EXACT, SHAPE, below_one
from neurocollapse.theory.roots import leading_roots
from neurocollapse.theory.theorem import Bracket, Case, Exactly, Theorem, after_first

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PriorCertificate:
    """Bounds for every layer, and the constants that they are made from.

    Everything is NaN unless θ₂ < 1, δ₂ < s₋, ε² < s₋ and t < 1.

    Attributes
    ----------
    ratio_lower, ratio_upper : arrays of shape (L − 1,)
        Bracket of D_{l+1}/D_l for l = 0 … L−2.
    separation_lower : array of shape (L,)
        Lower bound of S_l (uncentred means, absolute cosine) for l = 0 … L−1.
    s_minus, s_plus
        σ_k(W_l)² of the first K singular values lies between them.
    leak
        t, how much of the class means' image comes through the trailing block.
    within_leak : array of shape (L,)
        τ_l, the leading block's part of the within-class spread relative to the rest.
    gram_lower, gram_upper : arrays of shape (L,)
        g⁻_l, g⁺_l: eigenvalues of the class means' Gram matrix in the leading block.
    gram_rest : array of shape (L,)
        h_l, what the trailing block adds to them.
    middle_share : array of shape (L,)
        c_l, the least share of the trailing block's energy in the directions whose singular values are ≥ ε − ρ.
    """

    ratio_lower: Array
    ratio_upper: Array
    separation_lower: Array
    s_minus: float
    s_plus: float
    leak: float
    within_leak: Array
    gram_lower: Array
    gram_upper: Array
    gram_rest: Array
    middle_share: Array


@np.errstate(all="ignore")  # beyond the range of float64, infinity and 0 are right
def prior_certificate(
    *,
    num_classes: int,
    samples_per_class: float,
    depth: int,
    theta: float,
    delta: float,
    epsilon: float,
    rho: float,
    num_unknown: int | None = None,
    output_scale: float = 1.0,
) -> PriorCertificate:
    r"""Evaluate the certificate of docs/theory.md, Theorem 1.

    .. math:: \frac{c_l (\varepsilon - \rho)^2}{s_+ (1 + \tau_l^2)} \le \frac{D_{l+1}}{D_l}
        \le (1 + \tau_{l+1}^2)\Bigl(1 + \frac{h_l}{g^-_l}\Bigr) \frac{\varepsilon^2}{s_-},
        \qquad S_l \ge \frac{2}{1 + (g^+_l + h_l)/g^-_l}

    Parameters
    ----------
    num_classes, samples_per_class, depth
        K ≥ 2, n, and L ≥ 2, the number of weight matrices.
    theta
        θ₂ = ‖XᵀX − I‖₂.
    delta
        δ₂ = ‖W_LᵀW_L − W_{L−1}W_{L−1}ᵀ‖₂.
    epsilon, rho
        σ_i(W_l) ≤ ε for i > K, and ≥ ε − ρ for i up to p − K; ρ = NaN if nothing is known from below.
    num_unknown
        Number of input directions whose singular value has no lower bound: d₀ − p + K, by default K.
    output_scale : float, default 1.0
        α, if the network's output is α W_{L:1} x.

    Examples
    --------
    >>> exact = prior_certificate(num_classes=3, samples_per_class=10, depth=4, theta=0, delta=0, epsilon=0.1, rho=0)
    >>> exact.ratio_upper.round(6).tolist(), round(0.01 / 10**0.25, 6)
    ([0.005624, 0.005623, 0.005623], 0.005623)
    """
    K, n, L, scale = num_classes, samples_per_class, depth, output_scale
    unknown = K if num_unknown is None else num_unknown
    s_minus, s_plus = (np.float64(root) for root in leading_bounds(n / scale / scale, L, theta, delta))
    epsilon, rho, delta = np.float64(epsilon), np.float64(rho), np.float64(delta)
    layers = np.arange(L, dtype=np.float64)
    remaining = L - 1 - layers
    leak = scale * np.sqrt(epsilon**2 + delta) * epsilon ** (L - 1) * math.sqrt((1 + theta) / n)
    nothing = np.full(L, math.nan)
    if not (theta < 1 and leak < 1 and delta < s_minus and epsilon**2 < s_minus and np.isfinite(s_plus)):
        constants = (float(s_minus), float(s_plus), float(leak))
        return PriorCertificate(
            nothing[1:], nothing[1:], nothing, *constants, nothing, nothing, nothing, nothing, nothing
        )
    within_leak = delta / (s_minus - delta) * (epsilon**2 / s_minus) ** (remaining / 2)
    gram_upper = (1 + leak) ** 2 / scale**2 * s_minus**-remaining / (s_minus - delta)
    gram_lower = (1 - leak) ** 2 / scale**2 * s_plus**-remaining / (s_plus + delta)
    gram_rest = epsilon ** (2 * layers) * max(0.0, (1 + theta) / n - float(gram_lower[0]))
    share = _middle_share(K, n, theta, epsilon, rho, unknown, layers)
    floor = 0.0 if math.isnan(rho) else max(epsilon - rho, 0.0) ** 2
    return PriorCertificate(
        ratio_lower=share[:-1] * floor / (s_plus * (1 + within_leak[:-1] ** 2)),
        ratio_upper=(1 + within_leak[1:] ** 2) * (1 + gram_rest[:-1] / gram_lower[:-1]) * epsilon**2 / s_minus,
        separation_lower=2 / (1 + (gram_upper + gram_rest) / gram_lower),
        s_minus=float(s_minus),
        s_plus=float(s_plus),
        leak=float(leak),
        within_leak=within_leak,
        gram_lower=gram_lower,
        gram_upper=gram_upper,
        gram_rest=gram_rest,
        middle_share=share,
    )


def leading_bounds(samples_per_class: float, depth: int, theta: float, delta: float) -> tuple[float, float]:
    """The roots s₋, s₊ of s^{L−1}(s + δ₂) = n/(1 + θ₂) and s^{L−1}(s − δ₂) = n/(1 − θ₂); (NaN, NaN) unless θ₂ < 1.

    Examples
    --------
    >>> leading_bounds(16.0, 4, 0.0, 0.0)
    (2.0, 2.0)
    """
    if not 0 <= theta < 1:
        return math.nan, math.nan
    return leading_roots(samples_per_class / (1 + theta), samples_per_class / (1 - theta), depth, delta)


def _middle_share(
    num_classes: int, samples_per_class: float, theta: float, epsilon: float, rho: float, unknown: int, layers: Array
) -> Array:
    """c_l: within-class energy outside the K leading and the unknown directions, against theirs at worst."""
    K, n = num_classes, samples_per_class
    energy = max(0.0, (n - 1) * K * (1 - theta) - (K + unknown) * (1 + theta))
    if energy == 0 or math.isnan(rho) or rho >= epsilon:
        return np.zeros_like(layers)
    growth = (epsilon / (epsilon - rho)) ** (2 * layers)
    return energy / (energy + growth * unknown * (1 + theta))


def _certify(case: Case) -> PriorCertificate | None:
    """The certificate at the measured numbers; the spectral norms enter."""
    problem, measured = case.problem, case.measured
    if measured.balance is None or measured.split is None:
        return None
    return prior_certificate(
        num_classes=problem.num_classes,
        samples_per_class=problem.samples_per_class,
        depth=problem.depth,
        theta=measured.gram.theta_spectral,
        delta=measured.balance.last_spectral,
        epsilon=measured.split.epsilon,
        rho=measured.split.rho,
        num_unknown=problem.widths[0] - min(problem.widths) + problem.num_classes,
        output_scale=problem.output_scale,
    )


def _brackets(case: Case, certificate: PriorCertificate | None) -> list[Bracket]:
    """Brackets of every decay ratio, and of every separation from below."""
    depth = case.problem.depth
    nothing = np.full(depth, math.nan)
    return [
        Bracket(
            of="decay_ratio",
            claim="D_l/D_{l−1} lies in its bracket",
            prefix="prior",
            lower=nothing if certificate is None else after_first(certificate.ratio_lower),
            upper=nothing if certificate is None else after_first(certificate.ratio_upper),
            layers=range(1, depth),
        ),
        Bracket(
            of="separation_uncentred",
            claim="S_l is at least its bound",
            prefix="separation_prior",
            lower=nothing if certificate is None else certificate.separation_lower,
            layers=range(depth),
            reasons=dict.fromkeys(range(1, depth), "biases move the class means") if case.problem.has_bias else {},
        ),
    ]


def _assume(case: Case, certificate: PriorCertificate | None) -> list[Assumption]:
    """A4, the last layer's part of A2 and A3, and the inequalities between their constants."""
    balance, split = case.measured.balance, case.measured.split
    if balance is None or split is None or certificate is None:
        return []
    small, delta, e = certificate.s_minus, balance.last_spectral, case.readout[1]
    most = max(case.exactness.fit, float(case.problem.resolution[-1]))
    undefined = _undefined(small, delta)
    return [
        Assumption(
            "zero_loss_within_classes",
            e,
            e,
            most,
            e <= most,
            "e = ‖A₁⁻¹W_{L:1}R‖ / ‖W_{L−1:1}R‖: samples of a class differ in the features but not in the output (A2)",
        ),
        below_one(
            "last_layer_balance",
            balance.last_frobenius,
            delta / small if small > 0 else math.inf,
            f"δ = {short(balance.last_frobenius)} (Frobenius), δ₂ = {short(delta)} (spectral); "
            f"needs δ₂ < s₋ (A3){undefined}",
        ),
        below_one(
            "low_rank",
            split.epsilon,
            split.epsilon / small * split.epsilon if small > 0 else math.inf,
            f"all but K singular values at most ε = {short(split.epsilon)}, the middle ones at least ε − ρ, "
            f"ρ = {short(split.rho)}; needs ε² < s₋ (A4){undefined}",
        ),
        below_one(
            "trailing_leak",
            certificate.leak,
            certificate.leak,
            "t, what the class means send through the trailing block",
        ),
    ]


def _undefined(small: float, delta: float) -> str:
    """Why s₋ is no positive number, in brackets, or nothing."""
    if not math.isfinite(delta):
        return " (δ₂ is beyond the range of float64)"
    if math.isnan(small):
        return " (s₋ is undefined: it needs balanced classes and θ₂ < 1)"
    return "" if 0 < small < math.inf else " (s₋ is beyond the range of float64)"


PRIOR = Theorem(
    name="prior",
    label="a priori certificate",
    about="Explicit constants, from a few numbers of the data and the weights alone.",
    reference="docs/theory.md, Theorem 1 (a priori)",
    needs=(
        *SHAPE,
        "balanced_classes",
        "near_orthonormal_data",
        "zero_loss",
        "zero_loss_within_classes",
        "minimum_norm",
        "interior_balance",
        "last_layer_balance",
        "low_rank",
        "trailing_leak",
    ),
    certify=_certify,
    brackets=_brackets,
    assume=_assume,
    taken_as_exact=(
        Exactly("zero_loss", EXACT.fit),
        Exactly("zero_loss_within_classes", EXACT.fit),
        Exactly("minimum_norm", EXACT.fit),
        Exactly("interior_balance", EXACT.interior_balance, adds_up=True),
    ),
)

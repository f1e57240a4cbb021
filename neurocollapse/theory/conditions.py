"""The assumptions behind each level of bounds, as measured on one network."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from neurocollapse.theory.assumptions import Assumption, interior_balance, minimum_norm, zero_loss
from neurocollapse.theory.measured import Measured
from neurocollapse.theory.problem import LinearProblem

SHAPE = ("depth", "width", "several_samples_per_class")
PRIOR = (
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
)


@dataclass(frozen=True)
class Exactness:
    """How far A2 and A3 may be from holding exactly.

    Attributes
    ----------
    interior_balance
        Of the largest interior imbalance, relative to σ_K².
    fit
        Of zero loss and of minimum norm, both relative.
    """

    interior_balance: float
    fit: float


PRACTICAL = Exactness(interior_balance=0.01, fit=0.10)
"""For trained networks: 1 % of σ_K² and 10 %."""
EXACT = Exactness(interior_balance=1e-8, fit=1e-8)
"""For constructed networks: what float64 leaves."""
TAKEN_AS_EXACT = {
    "zero_loss": EXACT.fit,
    "zero_loss_within_classes": EXACT.fit,
    "minimum_norm": EXACT.fit,
    "interior_balance": EXACT.interior_balance,
}
"""What the a-priori theorem takes as exact (A2, A3), and up to which residual it is."""


def progressive_assumptions(
    problem: LinearProblem, measured: Measured, exactness: Exactness, tolerance: float
) -> dict[str, Assumption]:
    """Measure every assumption of the a-priori and the a-posteriori certificate.

    Returns
    -------
    dict name → Assumption
        The names of `PRIOR`, then "resolution", "readout" and "alignment".
    """
    found = [*_shape(problem), *_data(problem, measured), *_fit(problem, measured, exactness)]
    found += [*_spectrum(problem, measured, exactness), _resolution(problem, tolerance), *_mechanism(problem, measured)]
    return {assumption.name: assumption for assumption in found}


def least_exact(assumptions: Mapping[str, Assumption]) -> Assumption | None:
    """Find which of `TAKEN_AS_EXACT` is furthest from exact, if any is not."""
    named = [(assumptions[name], limit) for name, limit in TAKEN_AS_EXACT.items() if name in assumptions]
    inexact = [assumption for assumption, limit in named if assumption.residual > limit]
    return max(inexact, key=lambda assumption: assumption.residual, default=None)


def _shape(problem: LinearProblem) -> list[Assumption]:
    """Enough layers, features and samples for the claims to say anything."""
    K, narrowest, fewest = problem.num_classes, min(problem.widths), int(problem.counts[problem.counts > 0].min())
    most = int(problem.counts.max())
    return [
        _at_least("depth", problem.depth, 2, "number of weight matrices L: ratios D_{l+1}/D_l need a hidden layer"),
        _at_least("width", narrowest, K + 1, f"the narrowest feature layer must be wider than the {K} outputs"),
        _at_least("several_samples_per_class", most, 2, "a class of one sample has no within-class spread"),
        Assumption(
            "balanced_classes",
            problem.samples_per_class,
            float(most - int(problem.counts.min())),
            0.0,
            not math.isnan(problem.samples_per_class),
            f"every class has the same number n of samples (here between {int(problem.counts.min())} and {most}; "
            f"the smallest one present has {fewest})",
        ),
    ]


def _data(problem: LinearProblem, measured: Measured) -> list[Assumption]:
    """A1."""
    theta, spectral = measured.gram
    num_samples, num_features = problem.inputs.shape
    why = (
        f"; impossible here, {num_samples} samples have only {num_features} features"
        if num_samples > num_features
        else ""
    )
    meaning = f"θ = N max |XᵀX − I| = {theta:.4g}; the certificate needs θ₂ = ‖XᵀX − I‖₂ < 1 (A1){why}"
    return [Assumption("near_orthonormal_data", theta, spectral, 1.0, spectral < 1, meaning)]


def _fit(problem: LinearProblem, measured: Measured, exactness: Exactness) -> list[Assumption]:
    """A2, in its parts; differences within a class must vanish relative to what is left of them before W_L."""
    product = problem.weights[0]
    for weight in problem.weights[1:]:
        product = weight @ product
    columns = problem.inputs.T
    found = [
        zero_loss(product, columns, problem.targets, exactness.fit),
        minimum_norm(product, columns, problem.targets, exactness.fit),
    ]
    if measured.posterior is not None:
        e, most = measured.posterior.readout_residual, max(exactness.fit, float(problem.resolution[-1]))
        meaning = (
            "e = ‖A₁⁻¹W_{L:1}R‖ / ‖W_{L−1:1}R‖: samples of a class differ in the features but not in the output (A2)"
        )
        found.insert(1, Assumption("zero_loss_within_classes", e, e, most, e <= most, meaning))
    return found


def _spectrum(problem: LinearProblem, measured: Measured, exactness: Exactness) -> list[Assumption]:
    """A3, A4 and the inequalities between their constants."""
    balance, split, prior = measured.balance, measured.split, measured.prior
    if balance is None or split is None or prior is None:
        return []
    small, delta = prior.s_minus, balance.last_spectral
    undefined = " (s₋ is undefined: it needs balanced classes and θ₂ < 1)" if math.isnan(small) else ""
    return [
        interior_balance(balance, split.top_smallest, exactness.interior_balance),
        _below_one(
            "last_layer_balance",
            balance.last_frobenius,
            delta / small,
            f"δ = {balance.last_frobenius:.4g} (Frobenius), δ₂ = {delta:.4g} (spectral); needs δ₂ < s₋ (A3){undefined}",
        ),
        _below_one(
            "low_rank",
            split.epsilon,
            split.epsilon**2 / small,
            f"all but K singular values at most ε = {split.epsilon:.4g}, the middle ones at least ε − ρ, "
            f"ρ = {split.rho:.4g}; needs ε² < s₋ (A4){undefined}",
        ),
        _below_one("trailing_leak", prior.leak, prior.leak, "t, what the class means send through the trailing block"),
    ]


def _resolution(problem: LinearProblem, tolerance: float) -> Assumption:
    """Whether rounding stays below the tolerance; the verdicts ask layer by layer."""
    worst = float(problem.resolution.max())
    meaning = f"squared part of the within-class spread that rounding the {problem.dtype} weights may make up"
    return Assumption("resolution", worst, worst**2, tolerance, worst**2 <= tolerance, meaning)


def _mechanism(problem: LinearProblem, measured: Measured) -> list[Assumption]:
    """What the a-posteriori certificate needs of the weights."""
    posterior = measured.posterior
    if posterior is None:
        return []
    missing = sum(bool(reason) for reason in posterior.reasons)
    e, sine = posterior.readout_residual, float(posterior.misalignment.max())
    return [
        _below_one("readout", e, e, "e = ‖A₁⁻¹W_{L:1}R‖/‖W_{L−1:1}R‖: the last layer removes the within-class spread"),
        Assumption(
            "alignment",
            sine,
            float(missing),
            0.0,
            missing == 0,
            f"largest misalignment s_l between neighbours; {missing} of {problem.depth - 1} ratios lack a certificate",
        ),
    ]


def _at_least(name: str, value: int, least: int, meaning: str) -> Assumption:
    """An integer that must not be smaller than another."""
    return Assumption(name, float(value), float(max(0, least - value)), 0.0, value >= least, meaning)


def _below_one(name: str, value: float, residual: float, meaning: str) -> Assumption:
    """A quotient that must stay below one; NaN does not."""
    return Assumption(name, value, residual, 1.0, residual < 1, meaning)

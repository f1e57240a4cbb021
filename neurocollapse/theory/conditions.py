"""The assumptions that theorems share, as measured on one network."""

import math
from dataclasses import dataclass

import torch

from neurocollapse.support.numbers import short
from neurocollapse.theory.assumptions import Assumption, interior_balance, minimum_norm, zero_loss
from neurocollapse.theory.measured import Measured
from neurocollapse.theory.problem import LinearProblem
from neurocollapse.theory.spectrum import spectral_norm

SHAPE = ("depth", "width", "several_samples_per_class")


@dataclass(frozen=True)
class Exactness:
    """How far A2 and A3 may be from holding exactly.

    Attributes
    ----------
    interior_balance
        Limit of the largest interior imbalance, relative to σ_K².
    fit
        Limit of the loss and of the distance to minimum norm, both relative.
    """

    interior_balance: float
    fit: float


PRACTICAL = Exactness(interior_balance=0.01, fit=0.10)
"""For trained networks: 1 % of σ_K² and 10 %."""
EXACT = Exactness(interior_balance=1e-8, fit=1e-8)
"""For constructed networks: what float64 leaves."""


def shared_assumptions(
    problem: LinearProblem, measured: Measured, exactness: Exactness, tolerance: float
) -> list[Assumption]:
    """Measure what more than one theorem asks for."""
    found = [*_shape(problem), *_data(problem, measured), *_fit(problem, exactness)]
    if measured.balance is not None and measured.split is not None:
        found.append(interior_balance(measured.balance, measured.split.top_smallest, exactness.interior_balance))
    return [*found, _resolution(problem, tolerance)]


def readout(problem: LinearProblem) -> tuple[float, float]:
    """α = ‖A₁⁻¹A₂‖₂ and e = ‖A₁⁻¹W_{L:1}R‖/‖W_{L−1:1}R‖ of the last layer, in the bases of the one before.

    NaN when A₁ is singular or the last features do not vary within the classes.
    """
    basis = problem.spectra[-1].left(problem.num_classes)
    normalised = problem.normalised
    last, spread = normalised.weights[-1], normalised.spreads[-1]
    leading, size = last @ basis, float(spread.norm())
    if not bool(torch.isfinite(leading).all()) or size == 0:
        return math.nan, math.nan
    values = torch.linalg.svdvals(leading)
    if float(values[-1]) <= len(values) * torch.finfo(torch.float64).eps * float(values[0]):
        return math.nan, math.nan
    mixing = torch.linalg.solve(leading, last - leading @ basis.T)
    residual = torch.linalg.solve(leading, last @ spread)
    return spectral_norm(mixing), float(residual.norm()) / size


def below_one(name: str, value: float, residual: float, meaning: str) -> Assumption:
    """A quotient that must stay below one; NaN does not."""
    return Assumption(name, value, residual, 1.0, residual < 1, meaning)


def _shape(problem: LinearProblem) -> list[Assumption]:
    """Enough layers, features and samples for the claims to say anything."""
    K, narrowest, fewest = problem.num_classes, min(problem.widths), int(problem.counts[problem.counts > 0].min())
    most = int(problem.counts.max())
    return [
        _at_least("depth", problem.depth, 2, "number of weight matrices L: ratios D_l/D_{l−1} need a hidden layer"),
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
    num_samples, num_features = problem.num_samples, problem.widths[0]
    why = (
        f"; impossible here, {num_samples} samples have only {num_features} features"
        if num_samples > num_features
        else ""
    )
    meaning = f"θ = N max |XᵀX − I| = {short(theta)}; the certificate needs θ₂ = ‖XᵀX − I‖₂ < 1 (A1){why}"
    return [Assumption("near_orthonormal_data", theta, spectral, 1.0, spectral < 1, meaning)]


def _fit(problem: LinearProblem, exactness: Exactness) -> list[Assumption]:
    """A2, in its parts."""
    columns, targets = problem.equivalent_inputs, problem.equivalent_targets
    product = problem.product
    return [
        zero_loss(product, columns, targets, exactness.fit),
        minimum_norm(product, problem.least_norm_fit, exactness.fit),
    ]


def _resolution(problem: LinearProblem, tolerance: float) -> Assumption:
    """Whether rounding stays below the tolerance; the verdicts ask layer by layer."""
    worst = float(problem.resolution.max())
    meaning = f"squared part of the within-class spread that rounding the {problem.dtype} weights may make up"
    return Assumption("resolution", worst, worst**2, tolerance, worst**2 <= tolerance, meaning)


def _at_least(name: str, value: int, least: int, meaning: str) -> Assumption:
    """An integer that must not be smaller than another."""
    return Assumption(name, float(value), float(max(0, least - value)), 0.0, value >= least, meaning)

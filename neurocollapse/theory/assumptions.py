"""The assumptions of the theorems, each measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_ROWS = 512
"""Rows of the Gram matrix formed at a time: with 60,000 samples all of it would take 29 GB."""


SQUARABLE = 1e-145
"""Largest entry of a matrix below which its square loses digits to underflow."""


@dataclass(frozen=True)
class Assumption:
    """One assumption of a theorem, as measured.

    Attributes
    ----------
    name
        Its key in `Verification.assumptions`.
    value
        The quantity itself.
    residual
        How far it is from holding exactly, in the units of `tolerance`.
    tolerance
        The most the residual may be.
    met
        Whether it counts as holding.
    meaning
        One sentence.
    """

    name: str
    value: float
    residual: float
    tolerance: float
    met: bool
    meaning: str


class DataGram(NamedTuple):
    """How far XᵀX is from the identity: θ = N max |entry|, and θ₂ the spectral norm (θ₂ ≤ θ)."""

    theta: float
    theta_spectral: float


class Balance(NamedTuple):
    """How far neighbouring layers are from balanced.

    interior: one norm ‖W_{l+1}ᵀW_{l+1} − W_lW_lᵀ‖ for l = 1 … L−2; last: the same for l = L−1 (δ, δ₂). last_excess: δ⁺,
    what W_L does not read of W_{L−1}, λ_max(W_{L−1}W_{L−1}ᵀ − W_LᵀW_L) or 0, at most, within rounding; NaN where the
    squares underflow. differences: the matrices themselves.
    """

    interior_frobenius: tuple[float, ...]
    interior_spectral: tuple[float, ...]
    last_frobenius: float
    last_spectral: float
    last_excess: float
    differences: tuple[Tensor, ...]


class SpectrumSplit(NamedTuple):
    """The singular values of W_1 … W_{L−1}: the smallest and largest of the first K, then ε and ε − ρ.

    All of i = K+1 … p−K lie in [ε − ρ, ε] with p the smallest width; ρ is NaN when that range is empty.
    """

    top_smallest: float
    top_largest: float
    epsilon: float
    rho: float


def data_gram(inputs: Tensor) -> DataGram:
    """Measure θ and θ₂ of inputs of shape (samples, features).

    Examples
    --------
    >>> data_gram(2 * torch.eye(3))
    DataGram(theta=9.0, theta_spectral=3.0)
    """
    inputs = inputs.double()
    num_samples, num_features = inputs.shape
    largest = 0.0
    for start in range(0, num_samples, BLOCK_ROWS):
        gram = inputs[start : start + BLOCK_ROWS] @ inputs.T
        gram.diagonal(start).sub_(1)
        largest = max(largest, float(gram.abs().nan_to_num(math.inf).max()))
    values = torch.linalg.svdvals(inputs).square()
    spectral = max(float((values - 1).abs().max()), 1.0 if num_samples > num_features else 0.0)
    return DataGram(num_samples * largest, spectral)


def second_moment_gram(equivalent: Tensor, num_samples: int) -> DataGram:
    """Measure θ₂ from any matrix of shape (features, columns) with the same XXᵀ; θ needs the samples and is NaN.

    Examples
    --------
    >>> second_moment_gram(2 * torch.eye(3), 3)
    DataGram(theta=nan, theta_spectral=3.0)
    """
    num_features = equivalent.shape[0]
    squares = torch.linalg.svdvals(equivalent.double()).square()[: min(num_samples, num_features)]
    spectral = max(float((squares - 1).abs().max()), 1.0 if num_samples > num_features else 0.0)
    return DataGram(math.nan, spectral)


def balance(weights: Sequence[Tensor], grams: Sequence[Tensor] | None = None) -> Balance:
    """Measure the balancedness of a chain of at least two weights.

    Parameters
    ----------
    grams
        W_lᵀW_l for l = 1 … L−1, where they are known already.

    Examples
    --------
    >>> balance([torch.eye(2), torch.eye(2), 2 * torch.eye(2)]).last_spectral
    3.0
    """
    last = weights[-1].T @ weights[-1]
    inner = [one.T @ one for one in weights[1:-1]] if grams is None else grams[1:]
    differences = tuple(gram - before @ before.T for gram, before in zip([*inner, last], weights[:-1], strict=True))
    values = [_eigenvalues(one) for one in differences]
    frobenius = [float(torch.linalg.matrix_norm(one)) for one in differences]
    spectral = [float(one.abs().max()) for one in values]
    rounding = len(values[-1]) * torch.finfo(torch.float64).eps * spectral[-1]
    excess = max(0.0, rounding - float(values[-1].min()))
    if float(weights[-2].abs().max()) < SQUARABLE and bool(weights[-2].any()):
        excess = math.nan
    return Balance(tuple(frobenius[:-1]), tuple(spectral[:-1]), frobenius[-1], spectral[-1], excess, differences)


def _eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues of a symmetric matrix; infinite where an entry is beyond the range of float64."""
    finite = bool(torch.isfinite(matrix).all())
    return torch.linalg.eigvalsh(matrix) if finite else torch.tensor([-math.inf, math.inf], device="cpu")


def symmetric_norm(matrix: Tensor) -> float:
    """The spectral norm of a symmetric matrix; infinite where an entry is beyond the range of float64.

    Examples
    --------
    >>> symmetric_norm(torch.tensor([[0.0, -2.0], [-2.0, 0.0]])), symmetric_norm(torch.tensor([[math.inf]]))
    (2.0, inf)
    """
    return float(_eigenvalues(matrix).abs().max())


def spectrum_split(hidden_values: Sequence[Tensor], num_classes: int) -> SpectrumSplit:
    """Split the singular values of the hidden layers after the first K.

    Parameters
    ----------
    hidden_values
        The singular values of W_1 … W_{L−1} in descending order, at least K+1 of each.

    Examples
    --------
    >>> spectrum_split([torch.tensor([2.0, 1.5, 0.5, 0.4, 0.1, 0.1])], 2)
    SpectrumSplit(top_smallest=1.5, top_largest=2.0, epsilon=0.5, rho=0.09999999403953552)
    """
    shortest = min(len(values) for values in hidden_values)
    epsilon = max(float(values[num_classes]) for values in hidden_values)
    last = shortest - num_classes - 1
    rho = epsilon - min(float(values[last]) for values in hidden_values) if last >= num_classes else math.nan
    return SpectrumSplit(
        min(float(values[num_classes - 1]) for values in hidden_values),
        max(float(values[0]) for values in hidden_values),
        epsilon,
        rho,
    )


def zero_loss(product: Tensor, features: Tensor, targets: Tensor, tolerance: float) -> Assumption:
    """‖W_{L:1}X − Y‖_F relative to ‖Y‖_F; columns are samples."""
    residual = _relative(product @ features - targets, targets)
    meaning = "‖W_{L:1}X − Y‖ / ‖Y‖: the network fits the labels exactly (A2)"
    return Assumption("zero_loss", residual, residual, tolerance, residual <= tolerance, meaning)


def minimum_norm(product: Tensor, best: Tensor, tolerance: float) -> Assumption:
    """‖W_{L:1} − Y X⁺‖_F relative to ‖Y X⁺‖_F, with Y X⁺ = Y (XᵀX)⁻¹Xᵀ for independent samples."""
    residual = _relative(product - best, best)
    meaning = "‖W_{L:1} − Y(XᵀX)⁻¹Xᵀ‖ relative: of all exact fits, the one of least norm (A2)"
    return Assumption("minimum_norm", residual, residual, tolerance, residual <= tolerance, meaning)


def interior_balance(measured: Balance, top_smallest: float, tolerance: float) -> Assumption:
    """The largest interior imbalance, spectral, relative to the smallest leading σ_K²."""
    value = max(measured.interior_spectral, default=0.0)
    residual = value / top_smallest / top_smallest if top_smallest > 0 else math.inf
    meaning = "max_{l} ‖W_{l+1}ᵀW_{l+1} − W_lW_lᵀ‖₂ / σ_K² for l ≤ L−2: hidden layers share one spectrum (A3)"
    return Assumption("interior_balance", value, residual, tolerance, residual <= tolerance, meaning)


def whitened(inputs: Tensor, tolerance: float) -> Assumption:
    """‖Σ_i x_i x_iᵀ − I‖₂ of inputs of shape (samples, features)."""
    second = inputs.T @ inputs
    second.diagonal().sub_(1)
    residual = float(torch.linalg.eigvalsh(second).abs().max())
    meaning = "‖XXᵀ − I‖₂: the inputs are white"
    return Assumption("whitened_inputs", residual, residual, tolerance, residual <= tolerance, meaning)


def orthogonal_initialisation(weights: Sequence[Tensor], tolerance: float) -> Assumption:
    """The largest relative distance of a singular value from the common scale ε; the value is ε.

    Examples
    --------
    >>> round(orthogonal_initialisation([torch.eye(3), 0.5 * torch.eye(3)], 1e-8).residual, 6)
    0.333333
    """
    values = [torch.linalg.svdvals(weight) for weight in weights]
    epsilon = float(torch.cat(values).mean())
    residual = max(float((one / epsilon - 1).abs().max()) for one in values) if epsilon > 0 else math.inf
    meaning = "max |σ_i(W_l(0))/ε − 1|: every initial weight is the same ε times a (semi-)orthogonal matrix"
    return Assumption("orthogonal_initialisation", epsilon, residual, tolerance, residual <= tolerance, meaning)


def _relative(difference: Tensor, reference: Tensor) -> float:
    """Frobenius norm of a difference relative to the reference's."""
    return float(torch.linalg.matrix_norm(difference) / torch.linalg.matrix_norm(reference))

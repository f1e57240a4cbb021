"""Two-layer networks with smooth activations: the few directions in which the first layer's weight moves."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from neurocollapse.theory.assumptions import Assumption, orthogonal_initialisation, whitened

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": functional.gelu,
    "silu": functional.silu,
    "elu": functional.elu,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "relu": functional.relu,
}
"""The activations of the experiment; "relu" is not smooth, and the counterexample."""


@dataclass(frozen=True, eq=False)
class SmoothSubspaces:
    """The directions in which a small initial weight hardly moves, from the first gradient alone.

    Attributes
    ----------
    left : Tensor of shape (width, d − 2K)
        U₂ = W₁(0)V₂/ε.
    right : Tensor of shape (d, d − 2K)
        V₂, orthogonal to the first K right singular vectors of the gradient G(0) and to W₁(0)ᵀU_K/ε.
    epsilon
        The initial scale ε.
    assumptions : dict name → Assumption
        Whitened inputs and W₁(0)ᵀW₁(0) = ε²I.
    """

    left: Tensor
    right: Tensor
    epsilon: float
    assumptions: dict[str, Assumption]

    def drift(self, initial: Tensor, trained: Tensor) -> float:
        r"""Share of the weight's movement in the directions that should not move.

        .. math:: \|U_2^\top \Delta W\, V_2\|_F / \|\Delta W\|_F

        Parameters
        ----------
        initial, trained : Tensor of shape (out, in)
            The weight before and after training.

        Returns
        -------
        float
            In [0, 1], of order ε for smooth activations; NaN if nothing moved.
        """
        moved = (trained - initial).detach().double()
        return float(torch.linalg.matrix_norm(self.left.T @ moved @ self.right) / torch.linalg.matrix_norm(moved))


def smooth_subspaces(
    first: Tensor, second: Tensor, inputs: Tensor, targets: Tensor, *, activation: str | Activation
) -> SmoothSubspaces:
    r"""Construct the subspaces for f(x) = W₂ φ(W₁x) and the loss ½ Σ ‖f(x) − y‖², W₂ fixed.

    Parameters
    ----------
    first : Tensor of shape (width, d)
        W₁(0), width ≥ d.
    second : Tensor of shape (K, width)
        W₂.
    inputs, targets : Tensors of shape (samples, d) and (samples, K)
    activation
        φ: a name of `ACTIVATIONS` or a function.

    Raises
    ------
    ValueError
        If shapes do not fit, the activation is unknown or d ≤ 2K leaves no direction.

    References
    ----------
    Xu et al., arXiv 2602.06208.

    Examples
    --------
    >>> eye = torch.eye(6, dtype=torch.float64)
    >>> found = smooth_subspaces(0.1 * eye, eye[:2], eye, eye[:, :2], activation="tanh")
    >>> found.right.shape, round(found.epsilon, 3)
    (torch.Size([6, 2]), 0.1)
    """
    first, second, inputs, targets = (tensor.detach().double() for tensor in (first, second, inputs, targets))
    _check(first, second, inputs, targets)
    num_classes = second.shape[0]
    U, _, right = torch.linalg.svd(_gradient(first, second, inputs, targets, _named(activation)), full_matrices=False)
    orthogonal = orthogonal_initialisation([first], 1e-8)
    epsilon = orthogonal.value
    taken = torch.cat([right[:num_classes].T, first.T @ U[:, :num_classes] / epsilon], dim=1)
    V = torch.linalg.svd(taken, full_matrices=True).U[:, 2 * num_classes :]
    assumptions = {one.name: one for one in (whitened(inputs, 1e-8), orthogonal)}
    return SmoothSubspaces(first @ V / epsilon, V, epsilon, assumptions)


def _gradient(first: Tensor, second: Tensor, inputs: Tensor, targets: Tensor, activation: Activation) -> Tensor:
    """∇_{W₁} of ½ Σ ‖W₂φ(W₁x) − y‖²; only φ goes through autograd."""
    with torch.enable_grad():
        hidden = (inputs @ first.T).requires_grad_()
        active = activation(hidden)
        (pulled,) = torch.autograd.grad(active, hidden, (active.detach() @ second.T - targets) @ second)
    gradient: Tensor = pulled.T @ inputs
    return gradient


def _named(activation: str | Activation) -> Activation:
    """Look an activation up by name."""
    if not isinstance(activation, str):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"`activation` must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
    return ACTIVATIONS[activation]


def _check(first: Tensor, second: Tensor, inputs: Tensor, targets: Tensor) -> None:
    """Raise unless the shapes fit and a direction is left over."""
    width, d = first.shape
    K = second.shape[0]
    expected = {"second": (K, width), "inputs": (len(inputs), d), "targets": (len(inputs), K)}
    for name, tensor in (("second", second), ("inputs", inputs), ("targets", targets)):
        if tuple(tensor.shape) != expected[name]:
            raise ValueError(f"`{name}` must have shape {expected[name]}, got {tuple(tensor.shape)}")
    if width < d or d <= 2 * K:
        raise ValueError(f"need width ≥ d > 2K, got width {width}, d = {d} features, K = {K} outputs")

"""The directions of a deep linear network that gradient descent on white data only rescales."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class InvariantSubspaces:
    """The directions that gradient descent only rescales, from the data and the initial weights alone.

    Attributes
    ----------
    right, left : tuples of Tensors of shape (d, m)
        V_{l,2} and U_{l,2} with W_l(t) V_{l,2} = ρ(t) U_{l,2}; for l = 1 … L−1, and L in case 1.
    epsilon
        The initial scale ε.
    rank
        r, of C = YXᵀ.
    case
        1 if d_y = d, 2 if d_y = r, None if neither.
    """

    right: tuple[Tensor, ...]
    left: tuple[Tensor, ...]
    epsilon: float
    rank: int
    case: int | None

    @property
    def num_directions(self) -> int:
        """m, how many directions are invariant."""
        return int(self.right[0].shape[1]) if self.right else 0


def invariant_subspaces(weights: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> InvariantSubspaces:
    r"""Construct the invariant subspaces of a deep linear network at its initial weights.

    V_{1,2} spans the null space of :math:`[C;\; C^\top W_{L:1}(0)]`, C = YXᵀ, and
    V_{l+1,2} = U_{l,2} = W_l(0) V_{l,2} / ε.

    Parameters
    ----------
    weights
        [W_1(0), …, W_L(0)], hidden layers d × d.
    inputs, targets : Tensors of shape (samples, d) and (samples, outputs)

    Examples
    --------
    >>> eye = torch.eye(5, dtype=torch.float64)
    >>> found = invariant_subspaces([0.1 * eye, 0.1 * eye], eye, torch.diag(eye[0]))
    >>> found.case, found.rank, found.num_directions
    (1, 1, 4)
    """
    correlation = targets.T @ inputs
    num_features, num_outputs = inputs.shape[1], targets.shape[1]
    product = weights[0]
    for weight in weights[1:]:
        product = weight @ product
    rank = _rank(correlation)
    epsilon = float(torch.cat([torch.linalg.svdvals(weight) for weight in weights]).mean())
    case = 1 if num_outputs == num_features else 2 if num_outputs == rank else None
    basis = _null_space([correlation, correlation.T @ product], at_least=num_features - 2 * rank)
    right, left = [], []
    for weight in weights if case == 1 else weights[:-1]:
        image = weight @ basis / epsilon
        right.append(basis)
        left.append(image)
        basis = image
    return InvariantSubspaces(tuple(right), tuple(left), epsilon, rank, case)


def predicted_scale(
    epsilon: float, steps: Sequence[int], *, depth: int, case: int, learning_rate: float, weight_decay: float = 0.0
) -> np.ndarray:
    """ρ(t) by its recursion: ρ(1 − ηλ − ηρ^{2(L−1)}) in case 1, ρ(1 − ηλ) in case 2, from ρ(0) = ε.

    Parameters
    ----------
    epsilon : float
        ε, the scale of the orthogonal start.
    steps : sequence of int
        Steps t at which ρ is wanted.
    depth : int
        L, the number of weights.
    case : {1, 2}
        Which of the two recursions.
    learning_rate : float
        η.
    weight_decay : float, default 0.0
        λ.

    Returns
    -------
    ndarray of shape (steps,), float64

    Examples
    --------
    >>> predicted_scale(1.0, [0, 1], depth=2, case=1, learning_rate=0.1).tolist()
    [1.0, 0.9]
    """
    wanted, values, rho = set(steps), {}, epsilon
    for step in range(max(steps) + 1):
        if step in wanted:
            values[step] = rho
        pull = _pull(rho, depth) if case == 1 else 0.0
        rho *= 1 - learning_rate * weight_decay - learning_rate * pull
    return np.array([values[step] for step in steps])


def _pull(rho: float, depth: int) -> float:
    """ρ^{2(L−1)}; infinite where a diverging recursion leaves the range of float64."""
    try:
        return rho ** (2 * (depth - 1))
    except OverflowError:
        return math.inf


def _null_space(rows: Sequence[Tensor], at_least: int) -> Tensor:
    """Orthonormal basis of the common null space; its dimension is known to be at least `at_least`."""
    stacked = torch.cat([row / max(float(torch.linalg.matrix_norm(row, 2)), 1e-300) for row in rows])
    _, values, right = torch.linalg.svd(stacked, full_matrices=True)
    kept = int((values > len(right) * torch.finfo(torch.float64).eps * 10).sum())
    return right[min(kept, right.shape[0] - max(at_least, 0)) :].T


def _rank(matrix: Tensor) -> int:
    """Numerical rank with a margin for rounding in the products behind the matrix."""
    values = torch.linalg.svdvals(matrix)
    return int((values > 1e-10 * values[0]).sum()) if float(values[0]) > 0 else 0

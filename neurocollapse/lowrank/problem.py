"""What the three recovery problems have in common: errors of a product, and their products with thin matrices."""

import math
from typing import Protocol

import torch
from torch import Tensor

REDUCTIONS = ("half_sum", "half_mean", "half_mean_observed")


class Problem(Protocol):
    """A squared error of a matrix that is given as a product A Bᵀ, ½ c Σ e².

    Attributes
    ----------
    shape
        Outputs and inputs of the matrix.
    scale
        The factor c of the gradient.
    reference
        ‖·‖ of the observed values, which relative errors are parts of.
    """

    shape: tuple[int, int]
    scale: float
    reference: float

    def residual(self, left: Tensor, right: Tensor) -> Tensor:
        """Take A and B, keep the errors for the two products below, and return them.

        Parameters
        ----------
        left : Tensor of shape (rows, rank)
            The factor A.
        right : Tensor of shape (columns, rank)
            B, of the product A Bᵀ.
        """
        ...

    def times(self, right: Tensor) -> Tensor:
        """E B, where c·E is the gradient of the loss with respect to the matrix.

        Parameters
        ----------
        right : Tensor of shape (columns, rank)
            The factor B.
        """
        ...

    def transposed_times(self, left: Tensor) -> Tensor:
        """Eᵀ A.

        Parameters
        ----------
        left : Tensor of shape (rows, rank)
            The factor A.
        """
        ...


def loss(problem: Problem, left: Tensor, right: Tensor) -> float:
    """½ c Σ e² at A Bᵀ."""
    errors = problem.residual(left, right).flatten()
    return 0.5 * problem.scale * float(torch.dot(errors, errors))


def relative_error(problem: Problem, left: Tensor, right: Tensor) -> float:
    """√(Σ e²) over the norm of the observed values; 0 for a perfect fit, 1 for the zero matrix, NaN for zero values."""
    errors = problem.residual(left, right).flatten()
    size = math.sqrt(float(torch.dot(errors, errors)))
    return size / problem.reference if problem.reference else math.nan


def scale_of(reduction: str, num_entries: int, num_observed: int) -> float:
    """The factor c of a reduction.

    "half_sum" is ½Σ; "half_mean" divides by all entries of the matrix, the unobserved ones counting as zeros;
    "half_mean_observed" divides by the number of observed ones.

    Examples
    --------
    >>> scale_of("half_sum", 4, 2), scale_of("half_mean", 4, 2), scale_of("half_mean_observed", 4, 2)
    (1.0, 0.25, 0.5)
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"`reduction` must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")
    return 1 / {"half_sum": 1, "half_mean": num_entries, "half_mean_observed": num_observed}[reduction]

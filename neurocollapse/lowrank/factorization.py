"""Deep matrix factorization: every entry of the target is seen."""

import torch
from torch import Tensor

from neurocollapse.lowrank.problem import Problem, scale_of


class Factorization(Problem):
    """The loss ½ c ‖A Bᵀ − Φ‖² of a fully observed target.

    Parameters
    ----------
    target : Tensor of shape (outputs, inputs)
        Φ, copied to float64.
    reduction : str, default "half_sum"
        "half_sum" (c = 1) or "half_mean" (c = 1 / number of entries).

    Raises
    ------
    ValueError
        If the target is no matrix of finite numbers.

    Examples
    --------
    >>> problem = Factorization(torch.eye(3))
    >>> problem.residual(torch.zeros(3, 1).double(), torch.zeros(3, 1).double()).diag().tolist()
    [-1.0, -1.0, -1.0]
    """

    def __init__(self, target: Tensor, *, reduction: str = "half_sum") -> None:
        if target.ndim != 2 or not target.numel():
            raise ValueError(f"`target` must be a matrix with entries, got shape {tuple(target.shape)}")
        if not bool(target.isfinite().all()):
            row, column = (int(index) for index in (~target.isfinite()).nonzero()[0])
            raise ValueError(
                f"`target` must hold finite numbers, got {float(target[row, column])} at row {row}, column {column}; "
                "leave unknown entries out with Completion"
            )
        self.target = target.detach().double().clone()
        self.shape = (int(target.shape[0]), int(target.shape[1]))
        self.scale = scale_of(reduction, target.numel(), target.numel())
        self.reference = float(torch.linalg.matrix_norm(self.target))
        self._errors = torch.empty_like(self.target)

    def residual(self, left: Tensor, right: Tensor) -> Tensor:
        """E = A Bᵀ − Φ."""
        return torch.addmm(self.target, left, right.T, beta=-1, out=self._errors)

    def times(self, right: Tensor) -> Tensor:
        """E B."""
        return self._errors @ right

    def transposed_times(self, left: Tensor) -> Tensor:
        """Eᵀ A."""
        return self._errors.T @ left

    def surrogate(self) -> Tensor:
        """The target itself, for `spectral_factors`."""
        return self.target

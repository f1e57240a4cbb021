"""Deep matrix sensing: the target is seen through linear measurements."""

import torch
from torch import Tensor

from neurocollapse.lowrank.problem import Problem, scale_of


class Sensing(Problem):
    r"""The loss ½ c Σ_i (⟨A_i, A Bᵀ⟩ − y_i)² for measurement matrices A_i.

    Every step reads all measurement matrices twice, O(measurements · outputs · inputs), whatever the network's width.

    Parameters
    ----------
    matrices : Tensor of shape (measurements, outputs, inputs)
        A_i, kept in float64.
    measurements : Tensor of shape (measurements,)
        y_i = ⟨A_i, Φ⟩.
    reduction : str, default "half_sum"
        "half_sum" (c = 1) or "half_mean_observed" (c = 1/m).

    Raises
    ------
    ValueError
        If shapes do not fit or a number is not finite.

    Examples
    --------
    >>> problem = Sensing(torch.ones(1, 2, 2), torch.tensor([3.0]))
    >>> problem.residual(torch.ones(2, 1).double(), torch.ones(2, 1).double())
    tensor([1.], dtype=torch.float64)
    """

    def __init__(self, matrices: Tensor, measurements: Tensor, *, reduction: str = "half_sum") -> None:
        if matrices.ndim != 3 or measurements.shape != matrices.shape[:1] or not matrices.numel():
            raise ValueError(
                "`matrices` must have shape (measurements, outputs, inputs) and `measurements` one number each, got "
                f"{tuple(matrices.shape)} and {tuple(measurements.shape)}"
            )
        for name, values in (("matrices", matrices), ("measurements", measurements)):
            if not bool(values.isfinite().all()):
                place = tuple(int(index) for index in (~values.isfinite()).nonzero()[0])
                raise ValueError(f"`{name}` must hold finite numbers, got {float(values[place])} at position {place}")
        self.shape = (int(matrices.shape[1]), int(matrices.shape[2]))
        self.scale = scale_of(reduction, len(matrices), len(matrices))
        self._matrices = matrices.detach().double().flatten(1)
        self.measurements = measurements.detach().double().clone()
        self.reference = float(torch.linalg.vector_norm(self.measurements))
        self._gradient = torch.zeros(self.shape, dtype=torch.float64, device="cpu")

    def residual(self, left: Tensor, right: Tensor) -> Tensor:
        """The errors of the measurements."""
        errors = self._matrices @ (left @ right.T).flatten() - self.measurements
        self._gradient = (errors @ self._matrices).view(self.shape)
        return errors

    def times(self, right: Tensor) -> Tensor:
        """E B, with E = Σ e_i A_i."""
        return self._gradient @ right

    def transposed_times(self, left: Tensor) -> Tensor:
        """Eᵀ A."""
        return self._gradient.T @ left

    def surrogate(self) -> Tensor:
        """(1/m) Σ y_i A_i for `spectral_factors`: on average over Gaussian A_i, a multiple of the target."""
        return (self.measurements @ self._matrices).view(self.shape) / len(self.measurements)

"""Deep matrix completion: a part of the entries is seen, and nothing as large as the matrix is ever formed."""

import torch
from torch import Tensor

from neurocollapse.lowrank.observations import Observations
from neurocollapse.lowrank.problem import Problem, scale_of
from neurocollapse.lowrank.sampled import SampledProduct
from neurocollapse.lowrank.sparse import csr_matrix


class Completion(Problem):
    """The loss ½ c Σ (A Bᵀ − Φ)²_ij over observed positions (i, j).

    One step of gradient descent on a network of inner width k costs O(|Ω| k + (m + n) k²): the entries of A Bᵀ at the
    observed positions, and products of the sparse errors and of their transpose with thin matrices. Memory is O(|Ω|).

    Parameters
    ----------
    observations
        Made by `Observations.of`, `Observations.where` or `observe`.
    reduction : str, default "half_sum"
        "half_sum" (c = 1), "half_mean" (c = 1 / number of all entries, the unobserved ones counting as zeros) or
        "half_mean_observed" (c = 1/|Ω|). A learning rate η in one is η·c in the first.

    Raises
    ------
    ValueError
        If nothing is observed.

    References
    ----------
    Yaras et al., arXiv 2306.01154 ("half_mean"); Kwon et al., arXiv 2311.05061 ("half_mean_observed").

    Examples
    --------
    >>> seen = Observations.where(torch.full((2, 2), 5.0), torch.eye(2) > 0)
    >>> problem = Completion(seen)
    >>> problem.residual(torch.ones(2, 1).double(), torch.ones(2, 1).double())
    tensor([-4., -4.], dtype=torch.float64)
    """

    def __init__(self, observations: Observations, *, reduction: str = "half_sum") -> None:
        if not len(observations):
            raise ValueError("`observations` must hold at least one entry, got none; with fraction=1 none are hidden")
        rows, columns = observations.rows, observations.columns
        self.observations = observations
        self.shape = observations.shape
        self.scale = scale_of(reduction, self.shape[0] * self.shape[1], len(observations))
        self.reference = float(torch.linalg.vector_norm(observations.values))
        self._sample = SampledProduct(rows, columns, self.shape)
        self._values = torch.empty_like(observations.values)
        self._errors = csr_matrix(rows, columns, self._values, self.shape)
        order = torch.sort(columns, stable=True).indices
        self._order = order.int()
        self._transposed_values = torch.empty_like(self._values)
        transposed = (columns[order], rows[order], self._transposed_values, (self.shape[1], self.shape[0]))
        self._transposed = csr_matrix(*transposed)

    def residual(self, left: Tensor, right: Tensor) -> Tensor:
        """The errors at the observed positions, by row and column."""
        return self._sample(left, right, out=self._values).sub_(self.observations.values)

    def times(self, right: Tensor) -> Tensor:
        """E B, with E zero where nothing is observed."""
        product: Tensor = self._errors @ right
        return product

    def transposed_times(self, left: Tensor) -> Tensor:
        """Eᵀ A."""
        torch.index_select(self._values, 0, self._order, out=self._transposed_values)
        product: Tensor = self._transposed @ left
        return product

    def surrogate(self) -> Tensor:
        """(1/p) Ω⊙Φ for `spectral_factors`, sparse: on average over masks it is the target."""
        seen = self.observations
        return csr_matrix(seen.rows, seen.columns, seen.values / seen.fraction, self.shape)

"""Alternating minimisation: ridge regressions for the rows, then for the columns, until it settles."""

import math

import torch
from torch import Tensor

from neurocollapse.lowrank.factors import Factors
from neurocollapse.lowrank.observations import Observations
from neurocollapse.lowrank.sampled import SampledProduct
from neurocollapse.lowrank.sparse import csr_matrix
from neurocollapse.support.checks import integer, positive_number


def alternate(
    observations: Observations, rank: int, *, ridge: float, num_rounds: int = 50, tolerance: float = 1e-6, seed: int = 0
) -> Factors:
    r"""Complete a matrix by alternating least squares.

    Minimises

    .. math:: \sum_\Omega (u_i^\top v_j - y_{ij})^2 + \lambda \sum_i n_i |u_i|^2 + \lambda \sum_j n_j |v_j|^2,

    n the number of observed entries of a row or column: every half round solves one r × r system a line exactly, at
    O(|Ω| r² + (m + n) r³).

    Parameters
    ----------
    observations
        Rows and columns without an entry get the zero vector.
    rank
        r, at least 1.
    ridge
        λ > 0, relative to the number of entries of a line.
    num_rounds : int, default 50
        Stop after so many rounds, at least 1.
    tolerance : float, default 1e-6
        Stop when the error of the observed entries changes by less than this part.
    seed : int, default 0
        Seed of the random start.

    Returns
    -------
    Factors
        `left` of shape (rows, rank), `right` of shape (columns, rank); the estimate is left @ right.T.

    References
    ----------
    Zhou et al., Large-scale parallel collaborative filtering for the Netflix prize, 2008.

    Examples
    --------
    >>> seen = Observations.where(torch.ones(4, 4), torch.ones(4, 4))
    >>> left, right = alternate(seen, 1, ridge=1e-9)
    >>> round(float((left @ right.T - 1).abs().max()), 6)
    0.0
    """
    rank, ridge = integer("rank", rank, least=1), positive_number("ridge", ridge)
    num_rounds = integer("num_rounds", num_rounds, least=1)
    rows, columns, values = observations.rows, observations.columns, observations.values
    order = torch.sort(columns, stable=True).indices
    shape = observations.shape
    by_row = _Side(rows, columns, values, shape, ridge)
    by_column = _Side(columns[order], rows[order], values[order], (shape[1], shape[0]), ridge)
    sample = SampledProduct(rows, columns, shape)
    generator = torch.Generator().manual_seed(seed)
    right = torch.randn(shape[1], rank, dtype=torch.float64, generator=generator, device="cpu") / math.sqrt(rank)
    before = math.inf
    for _ in range(num_rounds):
        left = by_row.solve(right)
        right = by_column.solve(left)
        error = float(torch.linalg.vector_norm(sample(left, right) - values))
        if abs(before - error) <= tolerance * error:
            break
        before = error
    return Factors(left, right)


class _Side:
    """The ridge regressions of all rows (or, turned round, of all columns)."""

    def __init__(self, lines: Tensor, others: Tensor, values: Tensor, shape: tuple[int, int], ridge: float) -> None:
        self.pattern = csr_matrix(lines, others, torch.ones_like(values), shape)
        self.values = csr_matrix(lines, others, values.clone(), shape)
        counts = torch.bincount(lines, minlength=shape[0]).double()
        self.penalty = ridge * counts.clamp(min=1)

    def solve(self, others: Tensor) -> Tensor:
        """The minimiser of every line, given the other side's vectors."""
        rank = others.shape[1]
        outer = (others[:, :, None] * others[:, None, :]).flatten(1)
        normal = (self.pattern @ outer).view(-1, rank, rank)
        normal.diagonal(dim1=1, dim2=2).add_(self.penalty[:, None])
        solution: Tensor = torch.linalg.solve(normal, self.values @ others)
        return solution

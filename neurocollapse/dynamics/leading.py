"""The leading singular triples of a large matrix, from a random sketch, with what is known of their error."""

from dataclasses import dataclass

import torch
from torch import Tensor

OVERSAMPLE = 10
"""Columns of the sketch beyond those asked for."""
POWER = 3
"""Power iterations. A value that stands out is then exact to rounding; in the flat bulk of a random matrix values are
low by a few per cent, as their error says."""


@dataclass(frozen=True, eq=False)
class LeadingSVD:
    """The leading k singular triples of a matrix, approximately.

    Attributes
    ----------
    values : Tensor of shape (k,), descending
    left, right : Tensors of shape (m, k) and (n, k), orthonormal columns
    value_error : Tensor of shape (k,)
        ‖W v_i − σ_i u_i‖: an exact singular value lies within this distance of each.
    range_error : Tensor of shape ()
        ‖W − QQᵀW‖_F for the sketched range Q of k + 10 dimensions: what the sketch misses, computed, not estimated.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    value_error: Tensor
    range_error: Tensor


def leading_svd(matrix: Tensor, num_components: int, *, seed: int = 0) -> LeadingSVD:
    r"""Leading singular triples by randomised subspace iteration: Q = orth((WWᵀ)^q WΩ), then the SVD of QᵀW.

    Takes about 20·mn·(k + 10) operations instead of about 20·mn·min(m, n).

    Parameters
    ----------
    matrix : Tensor of shape (m, n), float32 or float64
    num_components
        k, at most min(m, n) − 10.
    seed : int, default 0
        Seed of a private generator: torch's global one is neither read nor changed.

    References
    ----------
    Halko, Martinsson and Tropp, Finding structure with randomness, SIAM Review 2011, Algorithms 4.4 and 5.1.

    Examples
    --------
    >>> matrix = torch.diag(torch.tensor([9.0, 8.0] + [0.1] * 40))
    >>> found = leading_svd(matrix, 2)
    >>> [round(value, 3) for value in found.values.tolist()], bool(found.value_error.max() < 1e-3)
    ([9.0, 8.0], True)
    """
    basis = _range(matrix, num_components, POWER, seed)
    frame, factor = torch.linalg.qr(matrix.T @ basis)  # QᵀW = Rᵀ frameᵀ
    inner, values, turn = torch.linalg.svd(factor.T)
    left, values, right = basis @ inner[:, :num_components], values[:num_components], frame @ turn[:num_components].T
    missed = torch.linalg.matrix_norm(matrix - basis @ (frame @ factor).T)
    misfit = torch.linalg.vector_norm(matrix @ right - left * values, dim=0)
    return LeadingSVD(values, left, right, misfit, missed)


def leading_values(matrix: Tensor, num_components: int, *, seed: int = 0) -> Tensor:
    """Leading singular values alone, from one power iteration: for matrices whose spectrum decays.

    Nothing bounds their error; those of a large Gaussian matrix come out 5 to 15 % low.

    Returns
    -------
    Tensor of shape (num_components,), descending; never above the exact ones but for rounding.

    Examples
    --------
    >>> leading_values(torch.diag(torch.tensor([3.0] + [0.0] * 20)), 2).round(decimals=4).tolist()
    [3.0, 0.0]
    """
    basis = _range(matrix, num_components, 1, seed)
    return torch.linalg.svdvals(torch.linalg.qr(matrix.T @ basis).R)[:num_components]


def _range(matrix: Tensor, num_components: int, power: int, seed: int) -> Tensor:
    """Orthonormal basis of the sketched range, of shape (m, k + 10)."""
    rows, columns = matrix.shape
    if not 1 <= num_components <= min(rows, columns) - OVERSAMPLE:
        raise ValueError(
            f"`num_components` must lie in [1, {min(rows, columns) - OVERSAMPLE}] for a {rows} × {columns} matrix, "
            f"got {num_components}"
        )
    generator = torch.Generator().manual_seed(seed)
    sketch = gaussian(columns, num_components + OVERSAMPLE, matrix, generator)
    basis, _ = torch.linalg.qr(matrix @ sketch)
    for _ in range(power):
        basis, _ = torch.linalg.qr(matrix.T @ basis)
        basis, _ = torch.linalg.qr(matrix @ basis)
    return basis


def gaussian(rows: int, columns: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard Gaussian numbers in the dtype and on the device of another tensor."""
    return torch.randn(rows, columns, dtype=like.dtype, generator=generator, device="cpu").to(like.device)

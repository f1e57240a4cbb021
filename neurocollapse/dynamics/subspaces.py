"""Angles between subspaces."""

import torch
from torch import Tensor


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    r"""Principal angles between the column spaces of two matrices with orthonormal columns.

    Small angles come from the sine, :math:`\sin\theta_i = \sigma_i((I - AA^\top)B)`, large ones from the cosine
    :math:`\sigma_i(A^\top B)`: the arc cosine alone loses half the digits near zero.

    Parameters
    ----------
    first, second : Tensors of shape (features, p) and (features, q), orthonormal columns

    Returns
    -------
    Tensor of shape (min(p, q),), float64
        In radians, [0, π/2], ascending; zeros for equal subspaces.

    References
    ----------
    Björck and Golub, Numerical methods for computing angles between linear subspaces, 1973.

    Examples
    --------
    >>> principal_angles(torch.eye(3)[:, :2], torch.eye(3)[:, 1:]).tolist()
    [0.0, 1.5707963267948966]
    """
    if first.shape[1] < second.shape[1]:
        first, second = second, first
    first, second = first.double(), second.double()
    overlap = first.T @ second
    cosines = torch.linalg.svdvals(overlap).clamp(max=1.0)
    sines = torch.linalg.svdvals(second - first @ overlap).flip(0).clamp(max=1.0)
    return torch.where(cosines**2 > 0.5, sines.asin(), cosines.acos())


def vector_angles(first: Tensor, second: Tensor) -> Tensor:
    """Angles between the lines through the columns of two matrices, one by one.

    Parameters
    ----------
    first, second : Tensors of shape (…, features, p), columns of unit length

    Returns
    -------
    Tensor of shape (…, p)
        In radians, [0, π/2]; the sign of a vector does not count. Accurate for every angle: it is the arc tangent of
        sine over cosine.

    Examples
    --------
    >>> vector_angles(torch.eye(2), torch.tensor([[-1.0, 1.0], [0.0, 0.0]])).tolist()
    [0.0, 1.5707963705062866]
    """
    cosines = (first * second).sum(-2, keepdim=True)
    sines = torch.linalg.vector_norm(second - first * cosines, dim=-2)
    return torch.atan2(sines, cosines.squeeze(-2).abs())


def orthonormal_range(matrix: Tensor) -> Tensor:
    """Orthonormal basis of the column space of a matrix of full column rank.

    Parameters
    ----------
    matrix : Tensor of shape (rows, columns)
        With at most as many columns as rows.

    Examples
    --------
    >>> orthonormal_range(torch.tensor([[3.0], [4.0]])).abs().flatten().tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    left, _, _ = torch.linalg.svd(matrix, full_matrices=False)
    basis: Tensor = left
    return basis

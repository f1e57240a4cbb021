"""The small subspace that training uses: from the first gradient of any weight, or from a surrogate of the target."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from torch import Tensor


class Factors(NamedTuple):
    """Orthonormal bases of the outputs and inputs between which a weight changes.

    Attributes
    ----------
    left : Tensor of shape (outputs, k)
    right : Tensor of shape (inputs, k)
    """

    left: Tensor
    right: Tensor


def gradient_subspace(gradient: Tensor, weight: Tensor, rank: int) -> Factors:
    r"""The 2r input directions of a weight that training moves, and their images, from the first gradient.

    Let G be the r leading singular triples of the gradient at the initial weight W. Inputs in the intersection of two
    null spaces, :math:`Gx = 0` and :math:`G^\top W x = 0`, are only rescaled (the law of parsimony). Its orthogonal
    complement V is the row space of the stacked matrix :math:`[G;\; G^\top W]`, spanned by the right singular vectors
    V_r and by :math:`W^\top U_r`. The images are the polar factor of WV, which is WV/ε for a weight of ε times an
    orthogonal matrix.

    Right when the weight starts as a small multiple of an orthogonal matrix and the gradient has, exactly or nearly,
    rank r: white inputs and few classes, or a target of rank r. When only a part of a matrix is observed the gradient
    has full rank and the r leading pairs are an approximation, which the outer factors have to correct in training.

    Parameters
    ----------
    gradient : Tensor of shape (outputs, inputs)
        Gradient of the loss with respect to the weight, at the start.
    weight : Tensor of shape (outputs, inputs)
        The initial weight, of any layer of any network.
    rank
        r, with 1 ≤ r and 2r ≤ min(outputs, inputs).

    Returns
    -------
    Factors
        `right` of shape (inputs, 2r), `left` of shape (outputs, 2r), in the weight's dtype.

    Raises
    ------
    ValueError
        If shapes do not fit, the rank is out of range, or a number is not finite.

    References
    ----------
    Yaras et al., arXiv 2306.01154, Section 4.

    Examples
    --------
    >>> gradient = torch.zeros(6, 6).index_put_((torch.tensor([2]), torch.tensor([0])), torch.tensor(1.0))
    >>> left, right = gradient_subspace(gradient, 0.1 * torch.eye(6), 1)  # moves input 0 and output 2
    >>> (right @ right.T).diag().tolist()
    [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    """
    if gradient.ndim != 2 or gradient.shape != weight.shape:
        raise ValueError(
            f"`gradient` must be a matrix of the weight's shape {tuple(weight.shape)}, got {tuple(gradient.shape)}"
        )
    _check_rank(2 * rank, tuple(gradient.shape), f"2·rank with rank={rank}")
    _check_finite("gradient", gradient)
    _check_finite("weight", weight)
    start = _at_least_single(weight)
    left, _, right = torch.linalg.svd(gradient.to(start.dtype), full_matrices=False)
    pulled = start.T @ left[:, :rank]
    pulled = pulled / _positive(torch.linalg.matrix_norm(pulled, 2))
    basis = _orthonormal(torch.cat([right[:rank].T, pulled], dim=1))
    return Factors(polar(start @ basis).to(weight.dtype), basis.to(weight.dtype))


def spectral_factors(surrogate: Tensor, rank: int) -> Factors:
    """The leading singular vectors of a matrix that stands in for the unknown target.

    The surrogate is the target itself in factorization, (1/p) Ω⊙Φ in completion (`Completion.surrogate`), and
    (1/m) Σ y_i A_i in sensing (`Sensing.surrogate`): each equals the target on average.

    Right when the start is so small that the network first fits the leading singular vectors of what it sees, whatever
    its own initial directions are: the factors begin where a wide network would arrive after its plateau, so that
    training starts earlier. They need no initial weights; with a mask or measurements they are estimates that training
    refines, so their rate γ should not be 0.

    Parameters
    ----------
    surrogate : Tensor of shape (outputs, inputs)
        Dense, or sparse in CSR layout; a sparse one is never made dense.
    rank
        How many, 1 ≤ rank ≤ min(outputs, inputs).

    Returns
    -------
    Factors
        `rank` columns each, by descending singular value, float64.

    Raises
    ------
    ValueError
        If the surrogate is no matrix of finite numbers or zero everywhere, or the rank is out of range.

    References
    ----------
    Kwon et al., arXiv 2311.05061, Section 3.

    Examples
    --------
    >>> left, right = spectral_factors(torch.diag(torch.tensor([1.0, 3.0, 2.0])), 1)
    >>> left.abs().T, right.abs().T
    (tensor([[0., 1., 0.]], dtype=torch.float64), tensor([[0., 1., 0.]], dtype=torch.float64))
    """
    if surrogate.ndim != 2:
        raise ValueError(f"`surrogate` must be a matrix, got shape {tuple(surrogate.shape)}")
    _check_rank(rank, tuple(surrogate.shape), "rank")
    sparse = surrogate.layout == torch.sparse_csr
    values = surrogate.values() if sparse else surrogate
    _check_finite("surrogate", values)
    if not bool(values.any()):
        raise ValueError("`surrogate` is zero everywhere, so that no direction leads; observe other entries")
    if sparse:
        return _leading_sparse(surrogate.double(), rank)
    left, _, right = torch.linalg.svd(surrogate.double(), full_matrices=False)
    return Factors(left[:, :rank].contiguous(), right[:rank].T.contiguous())


def polar(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns, at least in float32; where W is ε times such a matrix, it is W/ε.

    Parameters
    ----------
    matrix : Tensor of shape (rows, columns)
        A matrix of full column rank.

    Examples
    --------
    >>> polar(torch.diag(torch.tensor([3.0, 4.0]))).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    left, _, right = torch.linalg.svd(_at_least_single(matrix), full_matrices=False)
    nearest: Tensor = left @ right
    return nearest


def _at_least_single(matrix: Tensor) -> Tensor:
    """The matrix in a precision in which it can be decomposed."""
    return matrix.to(torch.promote_types(matrix.dtype, torch.float32))


def _leading_sparse(matrix: Tensor, rank: int) -> Factors:
    """Singular vectors by Lanczos' method: products with vectors only, from a fixed start."""
    rows, columns = matrix.shape
    if rank >= min(rows, columns):
        return spectral_factors(matrix.to_dense(), rank)
    parts = (matrix.values().numpy(), matrix.col_indices().numpy(), matrix.crow_indices().numpy())
    start = np.random.default_rng(0).standard_normal(min(rows, columns))
    left, values, right = svds(csr_array(parts, shape=(rows, columns)), k=rank, v0=start)
    order = np.argsort(-values)
    return Factors(torch.from_numpy(left[:, order].copy()), torch.from_numpy(right[order].T.copy()))


def _orthonormal(matrix: Tensor) -> Tensor:
    """As many orthonormal columns as the matrix has, whatever its rank; Householder's Q is always complete."""
    q: Tensor = torch.linalg.qr(matrix)[0]
    return q


def _positive(norm: Tensor) -> Tensor:
    """The norm, or one for a matrix of zeros."""
    return norm if float(norm) > 0 else torch.ones_like(norm)


def _check_rank(rank: int, shape: tuple[int, ...], name: str) -> None:
    """Raise unless that many directions exist."""
    if not 1 <= rank <= min(shape):
        raise ValueError(
            f"`rank` must give 1 to {min(shape)} directions of a {shape[0]} × {shape[1]} matrix, {name} is {rank}"
        )


def _check_finite(name: str, values: Tensor) -> None:
    """Raise if a number is NaN or infinite."""
    if not bool(values.isfinite().all()):
        position = tuple(int(index) for index in (~values.isfinite()).nonzero()[0])
        raise ValueError(f"`{name}` must hold finite numbers, got {float(values[position])} at position {position}")

"""Synthetic data the theorems speak about: near-orthonormal, whitened, with low-rank or balanced one-hot targets."""

from dataclasses import dataclass

import torch
from torch import Tensor

from neurocollapse.support.checks import checked_seed, non_negative_number
from neurocollapse.support.text import listed


def near_orthonormal(num_samples: int, num_features: int, *, theta: float = 0.0, seed: int = 0) -> Tensor:
    r"""Draw samples of unit norm and right angles up to exactly θ/N.

    :math:`\max_{i,j} |\langle x_i, x_j\rangle - \delta_{ij}| = \theta / N` to rounding: the samples are
    :math:`G^{1/2} Q^\top` with Q uniform among the d × N matrices with orthonormal columns and a random Gram matrix
    :math:`G = I + (\theta/N) E`, :math:`\max |E_{ij}| = 1`.

    Parameters
    ----------
    num_samples, num_features
        N ≤ d.
    theta
        θ ≥ 0, so small that G stays positive definite (θ < √N is always enough in practice).

    Returns
    -------
    Tensor of shape (samples, features), float64.

    Raises
    ------
    ValueError
        If N > d (more than d vectors are never near-orthonormal) or θ is negative or too large.

    Examples
    --------
    >>> X = near_orthonormal(6, 9, theta=0.3)
    >>> f"{6 * (X @ X.T - torch.eye(6)).abs().max():.6f}"
    '0.300000'
    """
    if not 1 <= num_samples <= num_features:
        raise ValueError(f"need 1 ≤ num_samples ≤ num_features, got {num_samples} samples of {num_features} features")
    theta = non_negative_number("theta", theta)
    generator = torch.Generator().manual_seed(checked_seed(seed))
    frame = _orthonormal_columns(num_features, num_samples, generator)
    if theta == 0:
        return frame.T.contiguous()
    noise = 2 * torch.rand(num_samples, num_samples, dtype=torch.float64, generator=generator, device="cpu") - 1
    noise = noise.triu() + noise.triu(1).T
    values, vectors = torch.linalg.eigh(theta / num_samples * noise / noise.abs().max())
    if values[0] <= -1:
        raise ValueError(
            f"`theta` = {theta} is too large for {num_samples} samples: the Gram matrix would have the eigenvalue "
            f"{1 + float(values[0]):.3g}; stay below {theta / -float(values[0]):.3g}"
        )
    return vectors @ ((1 + values).sqrt()[:, None] * vectors.T) @ frame.T


def noisy_orthonormal(num_samples: int, num_features: int, *, noise: float = 1.0, seed: int = 0) -> Tensor:
    """Draw orthonormal samples plus a Gaussian perturbation of the given Frobenius norm.

    Returns
    -------
    Tensor of shape (samples, features), float64.

    Examples
    --------
    >>> noisy_orthonormal(30, 50, noise=1.0).shape
    torch.Size([30, 50])
    """
    if not 1 <= num_samples <= num_features:
        raise ValueError(f"need 1 ≤ num_samples ≤ num_features, got {num_samples} samples of {num_features} features")
    noise = non_negative_number("noise", noise)
    generator = torch.Generator().manual_seed(checked_seed(seed))
    frame = _orthonormal_columns(num_features, num_samples, generator).T
    perturbation = torch.randn(num_samples, num_features, dtype=torch.float64, generator=generator, device="cpu")
    return frame + noise * perturbation / torch.linalg.matrix_norm(perturbation)


@dataclass(frozen=True, eq=False)
class Whitened:
    """Whitened data and the map that made it.

    Attributes
    ----------
    inputs : Tensor of shape (samples, features), float64
        Σ_i x_i x_iᵀ = I.
    matrix : Tensor of shape (features, features), float64
        The symmetric map: inputs = given @ matrix.
    condition_number : float
        Largest over smallest singular value of the given data, ≥ 1; rounding errors of whitening grow with it.
    """

    inputs: Tensor
    matrix: Tensor
    condition_number: float


def whiten(inputs: Tensor) -> Whitened:
    """Turn and scale the data so that Σ_i x_i x_iᵀ = I, moving it as little as possible (no centring).

    Parameters
    ----------
    inputs : Tensor of shape (samples, features), samples ≥ features

    Raises
    ------
    ValueError
        If there are fewer samples than features or the features are linearly dependent.

    Examples
    --------
    >>> white = whiten(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    >>> white.condition_number, white.inputs.T @ white.inputs
    (2.0, tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64))
    """
    if inputs.ndim != 2:
        raise ValueError(f"`inputs` must have shape (samples, features), got {tuple(inputs.shape)}")
    num_samples, num_features = inputs.shape
    if num_samples < num_features:
        raise ValueError(
            f"`inputs` must have at least as many samples as features to be whitened, got {num_samples} samples of "
            f"{num_features} features; reduce the features first, for example to {num_samples} principal components"
        )
    left, values, right = torch.linalg.svd(inputs.detach().double(), full_matrices=False)
    smallest_resolved = num_samples * torch.finfo(torch.float64).eps * values[0]
    if not bool(values[-1] > smallest_resolved):
        rank = int((values > smallest_resolved).sum())
        raise ValueError(f"`inputs` must have independent features, got rank {rank} of {num_features}; drop the others")
    matrix = right.T @ (right / values[:, None])
    return Whitened(left @ right, matrix, float(values[0] / values[-1]))


def low_rank_target(num_rows: int, num_columns: int, rank: int, *, seed: int = 0) -> Tensor:
    """Draw a matrix of given rank: the leading singular triples of a standard Gaussian matrix.

    Returns
    -------
    Tensor of shape (rows, columns), float64.

    Examples
    --------
    >>> int(torch.linalg.matrix_rank(low_rank_target(8, 6, 2)))
    2
    """
    if not 0 <= rank <= min(num_rows, num_columns):
        raise ValueError(f"`rank` must lie in [0, {min(num_rows, num_columns)}], got {rank}")
    generator = torch.Generator().manual_seed(checked_seed(seed))
    gaussian = torch.randn(num_rows, num_columns, dtype=torch.float64, generator=generator, device="cpu")
    left, values, right = torch.linalg.svd(gaussian, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def balanced_labels(num_classes: int, samples_per_class: int) -> Tensor:
    """Labels 0 … 0, 1 … 1, …, K−1: n of each class, in order.

    Examples
    --------
    >>> balanced_labels(3, 2).tolist()
    [0, 0, 1, 1, 2, 2]
    """
    if num_classes < 1 or samples_per_class < 1:
        raise ValueError(f"need at least one class and one sample, got {num_classes} and {samples_per_class}")
    return torch.arange(num_classes, device="cpu").repeat_interleave(samples_per_class)


def one_hot(labels: Tensor, num_classes: int | None = None) -> Tensor:
    """Targets Y with a one at each sample's class.

    Returns
    -------
    Tensor of shape (samples, classes), float64.

    Examples
    --------
    >>> one_hot(torch.tensor([1, 0]), 3).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
    if labels.ndim != 1 or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(
            f"`labels` must be a vector of integers in [0, {num_classes}), got {listed(labels.flatten().tolist())}"
        )
    return torch.nn.functional.one_hot(labels.long(), num_classes).double()


def _orthonormal_columns(num_rows: int, num_columns: int, generator: torch.Generator) -> Tensor:
    """Draw a matrix with orthonormal columns uniformly; the signs of R's diagonal make QR's factor Haar."""
    q, r = torch.linalg.qr(torch.randn(num_rows, num_columns, dtype=torch.float64, generator=generator, device="cpu"))
    return q * r.diagonal().sign()

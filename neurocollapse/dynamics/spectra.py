"""What the singular values of a weight say, and how far neighbouring weights are from balance."""

import torch
from torch import Tensor


def weight_effective_rank(singular_values: Tensor) -> Tensor:
    r"""Effective rank: the exponential of the entropy of the normalised spectrum.

    .. math:: \exp\Big(-\sum_i p_i \log p_i\Big), \qquad p_i = \sigma_i / \sum_j \sigma_j .

    Parameters
    ----------
    singular_values : Tensor of shape (…, components), not negative

    Returns
    -------
    Tensor of shape (…,), in [1, components]
        k for k equal singular values; NaN for a zero matrix.

    References
    ----------
    Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.

    Examples
    --------
    >>> weight_effective_rank(torch.tensor([2.0, 2.0, 0.0])).item()
    2.0
    """
    parts = singular_values / singular_values.sum(-1, keepdim=True)
    return torch.special.entr(parts).sum(-1).exp()


def stable_rank(singular_values: Tensor, squared_norm: Tensor | None = None) -> Tensor:
    r"""Stable rank: the squared Frobenius norm over the squared spectral norm, :math:`\sum_i\sigma_i^2 / \sigma_1^2`.

    Parameters
    ----------
    singular_values : Tensor of shape (…, components), descending
    squared_norm : Tensor of shape (…,), optional
        ‖W‖_F², where only the leading singular values are known.

    Returns
    -------
    Tensor of shape (…,), in [1, rank]; NaN for a zero matrix.

    References
    ----------
    Rudelson and Vershynin, Sampling from large matrices, J. ACM 2007.

    Examples
    --------
    >>> stable_rank(torch.tensor([2.0, 2.0, 1.0])).item()
    2.25
    """
    total = singular_values.square().sum(-1) if squared_norm is None else squared_norm
    return total / singular_values[..., 0].square()


def imbalance(weight: Tensor, following: Tensor) -> Tensor:
    r"""Distance of two neighbouring weights from balance, :math:`\|W_{l+1}^\top W_{l+1} - W_l W_l^\top\|_F`.

    Gradient flow on a deep linear network keeps the difference of the two Gram matrices; gradient descent nearly so.

    Parameters
    ----------
    weight, following : Tensors of shape (…, d, n) and (…, p, d)

    Returns
    -------
    Tensor of shape (…,), not negative; zero for balanced weights.

    References
    ----------
    Arora, Cohen and Hazan, On the optimization of deep networks, ICML 2018, Theorem 1.

    Examples
    --------
    >>> imbalance(torch.eye(1), 2 * torch.eye(1)).item()
    3.0
    """
    return torch.linalg.matrix_norm(following.mT @ following - weight @ weight.mT)


def estimated_imbalance(weight: Tensor, following: Tensor, probes: Tensor) -> Tensor:
    r"""Estimate `imbalance` of large weights from its action on random vectors, ‖EΩ‖_F/√s for s Gaussian columns.

    The square is unbiased, with a relative standard deviation of at most √(2/s).

    Parameters
    ----------
    weight, following : Tensors of shape (d, n) and (p, d)
    probes : Tensor of shape (d, s), standard Gaussian
    """
    acted = following.T @ (following @ probes) - weight @ (weight.T @ probes)
    return torch.linalg.matrix_norm(acted) / probes.shape[1] ** 0.5

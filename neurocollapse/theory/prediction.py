"""Every D_l from the input data and one spectrum, for balanced networks."""

import torch
from torch import Tensor

from neurocollapse.theory.problem import LinearProblem


def predicted_compression(problem: LinearProblem) -> Tensor:
    r"""Predict D_l of a balanced network from W_1's singular values and vectors and the inputs.

    .. math:: D_l = \frac{\frac1N \sum_i \sigma_i^{2l} w_i}{\frac1K \sum_i \sigma_i^{2l} b_i}, \qquad
        w_i = \sum_{k,j} (v_i^\top (x_{k,j} - \bar x_k))^2, \quad b_i = \sum_k (v_i^\top(\bar x_k - \bar x_G))^2

    Returns
    -------
    Tensor of shape (L,), float64
        For l = 0 … L−1; NaN beyond 0 when L = 1. Exact when W_{l+1}ᵀW_{l+1} = W_lW_lᵀ for l ≤ L−2.

    Examples
    --------
    >>> eye = torch.eye(4).double()
    >>> problem = LinearProblem.of([0.5 * eye, eye[:2]], eye, torch.tensor([0, 0, 1, 1]))
    >>> predicted_compression(problem).tolist()
    [2.0, 2.0]
    """
    residuals, means = problem.residuals, problem.centred_means
    num_samples, num_classes = residuals.shape[1], means.shape[1]
    if problem.depth == 1:
        return (residuals.square().sum() / num_samples / (means.square().sum() / num_classes)).reshape(1)
    first = problem.decompositions[0]
    values = torch.zeros(first.right.shape[1], dtype=torch.float64)
    values[: len(first.values)] = first.values
    within = (first.right.T @ residuals).square().sum(1) / num_samples
    between = (first.right.T @ means).square().sum(1) / num_classes
    powers = values.square()[None, :] ** torch.arange(problem.depth)[:, None]
    return (powers @ within) / (powers @ between)

"""Every D_l from the input data and one spectrum, for balanced networks."""

import math

import torch
from torch import Tensor

from neurocollapse.theory.problem import LinearProblem


def predicted_compression(problem: LinearProblem) -> Tensor:
    r"""Predict D_l of a balanced network from W_1's singular values and vectors and the inputs.

    .. math:: D_l = \frac{\frac1N \sum_i \sigma_i^{2l} w_i}{\frac1K \sum_i \sigma_i^{2l} b_i}, \qquad
        w_i = \sum_{k,j} (v_i^\top (x_{k,j} - \bar x_k))^2, \quad b_i = \sum_k (v_i^\top(\bar x_k - \bar x_G))^2

    Parameters
    ----------
    problem : LinearProblem
        Weights and data.

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
    residuals, means = problem.normalised.spread, problem.normalised.centred_means
    num_samples, num_classes = problem.num_samples, means.shape[1]
    if problem.depth == 1:
        return (residuals.square().sum() / num_samples / (means.square().sum() / num_classes)).reshape(1)
    first = problem.spectra[0]
    within = (first.right.T @ residuals).square().sum(1) / num_samples
    between = (first.right.T @ means).square().sum(1) / num_classes
    # Only the shape of the spectrum enters: relative to its largest value, no power of it overflows.
    top = float(first.squares[0])
    relative = first.squares / top if top > 0 else torch.full_like(first.squares, math.nan)
    powers = relative[None, :] ** torch.arange(problem.depth, device="cpu")[:, None]
    return (powers @ within) / (powers @ between)

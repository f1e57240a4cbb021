"""Theorem 6: balance of the last two layers bounds D of the last features, whatever came before them."""

import math

import torch

from neurocollapse.theory.blocks import Tail
from neurocollapse.theory.spectrum import shifted, unit_scaled


def imbalance(tail: Tail) -> float:
    """δ⁺ = max(0, λ_max(W_{L−1}W_{L−1}ᵀ − W_LᵀW_L)), what W_L does not read of W_{L−1}; at most, within rounding."""
    before, last = tail.problem.weights[-2:]
    difference = before @ before.T - last.T @ last
    if not bool(torch.isfinite(difference).all()):
        return math.inf
    values = torch.linalg.eigvalsh(difference)
    return max(0.0, float(values[-1] + len(values) * torch.finfo(torch.float64).eps * values.abs().max()))


def balanced_compression(tail: Tail, excess: float) -> float:
    r"""Bound D of the last features from their output, the layer before, and the imbalance δ⁺ between the two weights.

    .. math:: D_{L-1} \le \frac KN \frac{\|W_L^+F\|_F^2 + \delta^+ \|Z_{L-2}\|_F^2}{\|W_L^+Y\|_F^2}

    with F the spread and Y the centred class means of the output. NaN if the rank of W_L is below K, infinite where the
    output does not tell the classes apart.

    Parameters
    ----------
    excess
        δ⁺; see `imbalance`.

    References
    ----------
    Jacot, Súkeník, Wang, Mondelli, arXiv 2410.04887 (the mechanism); constants measured instead of bounded.
    """
    if tail.bases is None:
        return math.nan
    problem, basis = tail.problem.normalised, tail.bases[-1]
    # Features are normalised, so the imbalance is brought to the same powers of two.
    shift = unit_scaled(problem.weights[-2]).exponent - unit_scaled(tail.problem.weights[-2]).exponent
    scaled = float(shifted(torch.tensor(excess, dtype=torch.float64), 2 * shift))
    fixed = float((basis.T @ problem.spreads[-1]).square().sum())
    within = fixed + scaled * float(problem.spreads[-2].square().sum())
    between = float((basis.T @ tail.centred_means[-1]).square().sum())
    return tail.class_share * within / between if between > 0 else math.inf

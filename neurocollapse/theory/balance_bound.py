"""Theorem 6: balance of the last two layers bounds D of the last features, whatever came before them."""

import math

import numpy as np
import torch

from neurocollapse.theory.assumptions import Assumption
from neurocollapse.theory.blocks import Tail
from neurocollapse.theory.spectrum import shifted, unit_scaled
from neurocollapse.theory.theorem import Bracket, Case, Theorem


def balanced_compression(tail: Tail, excess: float) -> float:
    r"""Bound D of the last features from their output, the layer before, and the imbalance δ⁺ between the two weights.

    .. math:: D_{L-1} \le \frac KN \frac{\|W_L^+F\|_F^2 + \delta^+ \|Z_{L-2}\|_F^2}{\|W_L^+Y\|_F^2}

    with F the spread and Y the centred class means of the output. NaN if the rank of W_L is below K, infinite where the
    output does not tell the classes apart.

    Parameters
    ----------
    tail : Tail
        The affine end of a network, with what enters it.
    excess : float
        δ⁺ = max(0, λ_max(W_{L−1}W_{L−1}ᵀ − W_LᵀW_L)), `last_excess` of the balance.

    References
    ----------
    Jacot, Súkeník, Wang, Mondelli, arXiv 2410.04887 (the mechanism); constants measured instead of bounded.
    """
    if tail.bases is None:
        return math.nan
    problem, basis = tail.problem.normalised, tail.bases[-1]
    # Features are normalised, so the imbalance is brought to the same powers of two.
    shift = unit_scaled(problem.weights[-2]).exponent - unit_scaled(tail.problem.weights[-2]).exponent
    scaled = float(shifted(torch.tensor(excess, dtype=torch.float64, device="cpu"), 2 * shift))
    fixed = float((basis.T @ problem.spreads[-1]).square().sum())
    within = fixed + scaled * float(problem.spreads[-2].square().sum())
    between = float((basis.T @ tail.centred_means[-1]).square().sum())
    return tail.class_share * within / between if between > 0 else math.inf


def _certify(case: Case) -> tuple[float, float] | None:
    """δ⁺ and the bound."""
    if case.tail is None or case.measured.balance is None:
        return None
    reachable = case.problem.reachable
    tail = case.tail if reachable is case.problem else Tail(reachable)
    return case.measured.balance.last_excess, balanced_compression(tail, case.measured.balance.last_excess)


def _brackets(case: Case, found: tuple[float, float] | None) -> list[Bracket]:
    """Bracket of D at the last features, from above."""
    depth = case.problem.depth
    upper = np.full(depth, math.nan)
    if found is not None:
        upper[-1] = found[1]
    return [
        Bracket(
            of="compression",
            claim="D_{L−1} is at most its bound",
            prefix="balance",
            upper=upper,
            layers=range(depth - 1, depth) if found is not None else (),
            convention="of the last features only, NaN elsewhere",
        )
    ]


def _assume(case: Case, found: tuple[float, float] | None) -> list[Assumption]:
    """δ⁺, which is measured and may be anything that float64 holds."""
    if found is None:
        return []
    met = math.isfinite(found[0])
    meaning = "δ⁺ = max(0, λ_max(W_{L−1}W_{L−1}ᵀ − W_LᵀW_L)): what the last layer does not read"
    meaning += "" if met else "; beyond the range of float64"
    return [Assumption("last_layer_excess", found[0], 0.0 if met else math.inf, 0.0, met, meaning)]


BALANCE = Theorem(
    name="balance",
    label="balance of the last two layers",
    about="From the output, the layer before the last two weights, and how balanced these are.",
    reference="docs/theory.md, Theorem 6 (balance implies collapse)",
    needs=("depth", "width", "several_samples_per_class", "output_rank", "last_layer_excess"),
    certify=_certify,
    brackets=_brackets,
    assume=_assume,
)
"""The mechanism by which weight decay makes the last features collapse, with measured constants."""

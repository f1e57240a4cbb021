"""Progressive compression and separation: assumptions measured, three levels of bounds, verdicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from neurocollapse.theory.assumptions import Assumption
from neurocollapse.theory.checks import check_inputs, check_labels
from neurocollapse.theory.conditions import PRACTICAL, Exactness, shared_assumptions
from neurocollapse.theory.measured import measure_problem
from neurocollapse.theory.posterior import POSTERIOR
from neurocollapse.theory.printed import PRINTED
from neurocollapse.theory.prior import PRIOR
from neurocollapse.theory.problem import LinearProblem
from neurocollapse.theory.robust import ROBUST
from neurocollapse.theory.table import progressive_dataset, whole_network_dataset
from neurocollapse.theory.tail import LinearTail, linear_tail
from neurocollapse.theory.theorem import Applied, Case, Theorem
from neurocollapse.theory.verdict import Verdict, Verification

TITLE = "Progressive compression and separation"
THEOREMS: tuple[Theorem, ...] = (PRIOR, ROBUST, POSTERIOR, PRINTED)
"""What `verify` holds against a network."""


@dataclass(frozen=True)
class _Options:
    """What the caller chose."""

    tolerance: float
    exactness: Exactness
    centred: bool


def verify(
    model: nn.Module | Sequence[Tensor],
    inputs: Tensor,
    labels: Tensor,
    *,
    tolerance: float = 1e-6,
    exactness: Exactness = PRACTICAL,
    output_scale: float = 1.0,
    separation_means: str = "uncentred",
) -> Verification:
    """Verify progressive compression and separation of a deep linear network or of a network's linear tail.

    Three levels side by side: the printed theorem (compared only, its constants being open), the a-priori certificate
    (from θ, δ, ε, ρ, n, K and L alone) and the a-posteriori certificate (from the weights' spectra and misalignments).

    Parameters
    ----------
    model
        The weights [W_1, …, W_L], each (out, in), bias-free. Or a module: the linear layers it ends with are taken as
        a deep linear network on the features that enter them; for the layers before, which no theorem covers, the
        empirical decay is reported.
    inputs : Tensor of shape (samples, …)
        For weights, flattened to (samples, features).
    labels : Tensor of shape (samples,)
        Integers below K, the number of outputs.
    tolerance
        How far outside its bracket a measurement may be, as a part of it, for rounding's sake. Where rounding alone
        may move a measurement further than this, the verdict is "assumptions unmet".
    exactness
        When A2 and A3 count as met: `PRACTICAL` (interior imbalance 1 % of σ_K², fit 10 %) for trained networks,
        `EXACT` (1e−8) for constructed ones. The a-priori theorem takes them as exact: while a residual is above 1e−8,
        a measurement outside its bracket is "assumptions unmet". The robust theorem has the residuals in its bounds.
    output_scale
        α, if the network's output is α W_{L:1} x.
    separation_means
        "uncentred", which the theorem is about, or "centred", for which its bound is false (docs/theory.md).

    Returns
    -------
    Verification
        Computed in float64; its `to_dataset` has one entry per layer 0 (the features that enter) … L−1.

    Raises
    ------
    ValueError
        If shapes or labels do not fit, or a number is not finite, with one line that says what to do.

    Examples
    --------
    >>> eye, labels = torch.eye(6).double(), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> same = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).double() / 3
    >>> weights = [0.3 * (eye - same) + 3**0.25 * same, 3**0.75 * same[::3]]
    >>> verify(weights, eye, labels).status
    'holds'
    """
    if separation_means not in ("uncentred", "centred"):
        raise ValueError(f"`separation_means` must be 'uncentred' or 'centred', got {separation_means!r}")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"`tolerance` must be a number ≥ 0, got {tolerance!r}")
    options = _Options(tolerance, exactness, separation_means == "centred")
    if not isinstance(model, nn.Module):
        problem = LinearProblem.of(model, inputs, labels, output_scale=output_scale)
        names = tuple(f"W_{layer}" for layer in range(1, problem.depth + 1))
        return _of_problem(problem, names, options)
    inputs, labels = torch.as_tensor(inputs), torch.as_tensor(labels)
    check_inputs(inputs)
    check_labels(labels, len(inputs))
    tail = linear_tail(model, inputs, labels)
    if not tail.weights:
        return _without_tail(tail)
    problem = LinearProblem.of(tail.weights, tail.features, labels, output_scale=output_scale)
    return _of_problem(problem, tail.names, options, tail)


def _of_problem(
    problem: LinearProblem, names: tuple[str, ...], options: _Options, tail: LinearTail | None = None
) -> Verification:
    """Measure, judge and collect."""
    measured = measure_problem(problem)
    case = Case(problem, measured, options.exactness, options.tolerance)
    applied = [theorem.applied(case) for theorem in THEOREMS]
    found = shared_assumptions(problem, measured, options.exactness, options.tolerance)
    assumptions = {one.name: one for one in [*found, *(own for each in applied for own in each.assumptions)]}
    dataset = progressive_dataset(problem, measured, applied, names)
    dtype = str(problem.dtype).removeprefix("torch.")
    notes = [f"The weights came in {dtype}; everything was computed in float64."]
    notes += [remark for one in applied for remark in one.remarks]
    if tail is not None and not tail.is_whole:
        assumptions = {"linear_tail": _tail_assumption(tail), **assumptions}
        dataset, notes = dataset.merge(whole_network_dataset(tail.moments)), [*notes, *_tail_notes(tail)]
    if options.centred:
        applied = [one if one.theorem.is_open else _about_centred_means(one) for one in applied]
    verdicts: dict[bool, list[Verdict]] = {False: [], True: []}
    for one in applied:
        verdicts[one.theorem.is_open] += one.verdicts(case, assumptions)
    return Verification(TITLE, assumptions, tuple(verdicts[False]), tuple(verdicts[True]), tuple(notes), dataset)


def _without_tail(tail: LinearTail) -> Verification:
    """A network that does not end with a bias-free linear layer: numbers, and no theorem."""
    dataset = whole_network_dataset(tail.moments)
    return Verification(TITLE, {"linear_tail": _tail_assumption(tail)}, (), (), tuple(_tail_notes(tail)), dataset)


def _about_centred_means(applied: Applied) -> Applied:
    """The theorem with bounds of S_l held against centred means, of which it is not."""
    brackets = [
        replace(
            bracket,
            of="separation_centred",
            claim=f"{bracket.claim} (centred means, which the theorem is not about)",
        )
        if bracket.of == "separation_uncentred"
        else bracket
        for bracket in applied.brackets
    ]
    return replace(applied, brackets=tuple(brackets))


def _tail_assumption(tail: LinearTail) -> Assumption:
    """Whether the network ends with at least two bias-free linear layers."""
    found = len(tail.weights)
    end = f"; {tail.obstacle}" if tail.obstacle else ""
    meaning = f"the network ends with {found} bias-free linear layers in a row{end}"
    return Assumption("linear_tail", float(found), float(max(0, 2 - found)), 0.0, found >= 2, meaning)


def _tail_notes(tail: LinearTail) -> list[str]:
    """What is reported without a theorem."""
    fit = whole_network_dataset(tail.moments)
    slope, lower, upper = (float(fit[name]) for name in ("decay_slope", "decay_slope_lower", "decay_slope_upper"))
    return [
        f"Empirical decay over {fit.sizes['site']} layers with weights: log D changes by {slope:+.3g} per layer "
        f"(95 % interval {lower:.3g} … {upper:.3g}, R² {float(fit['decay_r_squared']):.3g}). "
        "No theorem covers the nonlinear layers.",
    ]

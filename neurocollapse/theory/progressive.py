"""Progressive compression and separation: assumptions measured, three levels of bounds, verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from neurocollapse.theory import conditions
from neurocollapse.theory.assumptions import Assumption
from neurocollapse.theory.conditions import EXACT, PRACTICAL, Exactness, progressive_assumptions
from neurocollapse.theory.measured import Measured, measure_problem
from neurocollapse.theory.problem import LinearProblem, check_inputs, check_labels
from neurocollapse.theory.table import PRINTED, THEOREM_1, THEOREM_2, progressive_dataset, whole_network_dataset
from neurocollapse.theory.tail import LinearTail, linear_tail
from neurocollapse.theory.verdict import UNMET, VIOLATED, Verdict, Verification

__all__ = ["EXACT", "PRACTICAL", "Exactness", "verify"]

TITLE = "Progressive compression and separation"
RATIO = "D_{l+1}/D_l lies in its bracket"
SEPARATION = "S_l is at least its bound"


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
        `EXACT` (1e−8) for constructed ones. The a-priori theorem takes them as exact: a measurement outside its
        bracket by a part of itself no larger than the largest of their residuals above 1e−8 is "assumptions unmet",
        one further outside is "violated".
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


@dataclass(frozen=True)
class _Options:
    """What the caller chose."""

    tolerance: float
    exactness: Exactness
    centred: bool


def _of_problem(
    problem: LinearProblem, names: tuple[str, ...], options: _Options, tail: LinearTail | None = None
) -> Verification:
    """Measure, judge and collect."""
    measured = measure_problem(problem)
    assumptions = progressive_assumptions(problem, measured, options.exactness, options.tolerance)
    dataset = progressive_dataset(problem, measured, names)
    notes = _notes(problem, measured)
    if tail is not None and not tail.is_whole:
        assumptions = {"linear_tail": _tail_assumption(tail), **assumptions}
        dataset, notes = dataset.merge(whole_network_dataset(tail.moments)), [*notes, *_tail_notes(tail)]
    resolved = problem.resolution.numpy() ** 2 <= options.tolerance
    verdicts = [
        *_prior_ratios(measured, assumptions, resolved, options),
        *_prior_separations(measured, assumptions, options),
        *_posterior_ratios(measured, assumptions, resolved, options),
    ]
    comparisons = tuple(_printed(measured, assumptions, options))
    return Verification(TITLE, assumptions, tuple(verdicts), comparisons, tuple(notes), dataset)


def _without_tail(tail: LinearTail) -> Verification:
    """A network that does not end with a bias-free linear layer: numbers, and no theorem."""
    dataset = whole_network_dataset(tail.moments)
    return Verification(TITLE, {"linear_tail": _tail_assumption(tail)}, (), (), tuple(_tail_notes(tail)), dataset)


def _prior_ratios(
    measured: Measured, assumptions: Mapping[str, Assumption], resolved: np.ndarray, options: _Options
) -> list[Verdict]:
    """The a-priori bracket of every decay ratio."""
    unmet = _unmet(assumptions, conditions.PRIOR)
    lower, upper = (None, None) if measured.prior is None else (measured.prior.ratio_lower, measured.prior.ratio_upper)
    verdicts = [
        Verdict.judge(
            RATIO,
            THEOREM_1,
            float(measured.decay_ratio[layer]),
            math.nan if lower is None else float(lower[layer]),
            math.nan if upper is None else float(upper[layer]),
            tolerance=options.tolerance,
            unmet=[*unmet, *_unresolved(resolved, layer)],
            layer=layer,
        )
        for layer in range(max(len(measured.decay_ratio) - 1, 1))
    ]
    return _within_exactness(verdicts, assumptions)


def _prior_separations(measured: Measured, assumptions: Mapping[str, Assumption], options: _Options) -> list[Verdict]:
    """The a-priori bound of every separation, fed with the means the caller asked for."""
    unmet = _unmet(assumptions, conditions.PRIOR)
    values = measured.separation_centred if options.centred else measured.separation
    claim = f"{SEPARATION} (centred means, which the theorem is not about)" if options.centred else SEPARATION
    verdicts = [
        Verdict.judge(
            claim,
            THEOREM_1,
            float(value),
            math.nan if measured.prior is None else float(measured.prior.separation_lower[layer]),
            tolerance=options.tolerance,
            unmet=unmet,
            layer=layer,
        )
        for layer, value in enumerate(values)
    ]
    return _within_exactness(verdicts, assumptions)


def _within_exactness(verdicts: Sequence[Verdict], assumptions: Mapping[str, Assumption]) -> list[Verdict]:
    """Call a bracket missed by no more than the least exact of A2 and A3 unmet instead of violated."""
    inexact = conditions.least_exact(assumptions)
    if inexact is None:
        return list(verdicts)
    met = f"while {inexact.name} is met to {100 * inexact.residual:.2g} % only"
    return [
        replace(verdict, outcome=UNMET, reason=f"outside by {-100 * verdict.slack:.2g} %, {met}")
        if verdict.outcome == VIOLATED and -verdict.slack <= inexact.residual
        else verdict
        for verdict in verdicts
    ]


def _posterior_ratios(
    measured: Measured, assumptions: Mapping[str, Assumption], resolved: np.ndarray, options: _Options
) -> list[Verdict]:
    """The a-posteriori bracket of every decay ratio."""
    posterior = measured.posterior
    if posterior is None:
        return []
    unmet = _unmet(assumptions, conditions.SHAPE)
    return [
        Verdict.judge(
            RATIO,
            THEOREM_2,
            float(measured.decay_ratio[layer]),
            float(posterior.ratio_lower[layer]),
            float(posterior.ratio_upper[layer]),
            tolerance=options.tolerance,
            unmet=[*unmet, *([reason] if reason else []), *_unresolved(resolved, layer)],
            layer=layer,
        )
        for layer, reason in enumerate(posterior.reasons)
    ]


def _printed(measured: Measured, assumptions: Mapping[str, Assumption], options: _Options) -> list[Verdict]:
    """The printed bounds where they are claimed, 1 ≤ l ≤ L−2, compared at c = κ = 1 and o(1) = 0."""
    printed = measured.printed
    if printed is None:
        return []
    unmet, tolerance = _unmet(assumptions, conditions.PRIOR), options.tolerance
    source = f"{PRINTED}, at c = κ = 1 and o(1) = 0"
    ratios, separations = [], []
    for layer in range(1, len(measured.decay_ratio) - 1):
        ratio, lower, upper = float(measured.decay_ratio[layer]), printed.ratio_lower, printed.ratio_upper
        value, least = float(measured.separation[layer]), float(printed.separation_lower[layer])
        ratios.append(Verdict.judge(RATIO, source, ratio, lower, upper, tolerance=tolerance, unmet=unmet, layer=layer))
        separations.append(
            Verdict.judge(SEPARATION, source, value, least, tolerance=tolerance, unmet=unmet, layer=layer)
        )
    return ratios + separations


def _unmet(assumptions: Mapping[str, Assumption], names: Sequence[str]) -> list[str]:
    """Name the assumptions among these that fail."""
    return [name for name in names if name in assumptions and not assumptions[name].met]


def _unresolved(resolved: np.ndarray, layer: int) -> list[str]:
    """Name the resolution if the ratio D_{l+1}/D_l is not resolved."""
    return [] if resolved[min(layer + 1, len(resolved) - 1)] else [f"resolution at layer {layer + 1}"]


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


def _notes(problem: LinearProblem, measured: Measured) -> list[str]:
    """What the reader should know beside the verdicts."""
    dtype = str(problem.dtype).removeprefix("torch.")
    notes = [f"The weights came in {dtype}; everything was computed in float64."]
    if measured.printed is not None and problem.depth > 2:
        bounds = measured.printed.separation_lower[1:-1]
        vacuous = int((bounds < 0).sum())
        if vacuous:
            notes.append(
                f"The printed bound of S_l is vacuous (below 0, down to {bounds.min():.3g}) at {vacuous} of "
                f"{len(bounds)} layers: it needs 32(θ + 4δ) ≪ L."
            )
    if measured.posterior is not None and (measured.posterior.ratio_upper >= 1).any():
        empty = int((measured.posterior.ratio_upper >= 1).sum())
        notes.append(f"The a-posteriori upper bound is 1 or more, so says nothing of compression, at {empty} layers.")
    return notes

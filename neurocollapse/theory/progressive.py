"""Progressive compression and separation: assumptions measured, three levels of bounds, verdicts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from neurocollapse.support.arrays import tensor
from neurocollapse.support.numbers import number
from neurocollapse.theory.assumptions import Assumption
from neurocollapse.theory.balance_bound import BALANCE
from neurocollapse.theory.checks import check_inputs, check_labels
from neurocollapse.theory.compression_claim import certified_steps
from neurocollapse.theory.conditions import PRACTICAL, Exactness, shared_assumptions
from neurocollapse.theory.measured import measure_problem
from neurocollapse.theory.posterior import POSTERIOR
from neurocollapse.theory.printed import PRINTED
from neurocollapse.theory.prior import PRIOR
from neurocollapse.theory.problem import LinearProblem
from neurocollapse.theory.robust import ROBUST
from neurocollapse.theory.split_theorem import SPLIT
from neurocollapse.theory.streamed import streamed_tail
from neurocollapse.theory.table import progressive_dataset, whole_network_dataset
from neurocollapse.theory.tail import LinearTail, linear_tail
from neurocollapse.theory.theorem import Applied, Case, Theorem
from neurocollapse.theory.verdict import TheoremResult, Verdict, Verification

TITLE = "Progressive compression and separation"
THEOREMS: tuple[Theorem, ...] = (PRIOR, ROBUST, POSTERIOR, SPLIT, BALANCE, PRINTED)
"""The theorems with which `verify` compares a network."""


@dataclass(frozen=True)
class _Options:
    """What the caller chose."""

    tolerance: float
    exactness: Exactness
    centred: bool


def verify(
    model: nn.Module | Sequence[Tensor],
    inputs: Tensor | Iterable[Any],
    labels: Tensor | None = None,
    *,
    tolerance: float = 1e-6,
    exactness: Exactness = PRACTICAL,
    output_scale: float = 1.0,
    separation_means: str = "uncentred",
) -> Verification:
    """Certify progressive compression of a deep linear network or of a network's linear tail, theorem by theorem.

    The status says whether every layer of the tail provably compresses: "holds" if a proved upper bound of D_l/D_{l−1}
    is below 1 at every step, "violated" if a proved lower bound is above 1 at one, else "assumptions unmet". Every
    theorem's own brackets are compared with the measurements as well.

    Parameters
    ----------
    model
        The weights [W_1, …, W_L], each (out, in). Or a module: the affine maps it ends with (biases, BatchNorm in eval
        mode, Dropout and linear skip connections included) are taken as a deep linear network on the features that
        enter them; for the layers before, which no theorem covers, the empirical decay is reported.
    inputs : Tensor of shape (samples, …), or a loader
        For weights, flattened to (samples, features). For a module also a loader, which is read once, after its first
        batch has shown the tail; only a covariance and the class means of what enters the tail are kept. A later batch
        that takes another path is an error.
    labels : Tensor of shape (samples,), optional
        Integers below K, the number of outputs. Default: a loader's batches hold them.
    tolerance : float, default 1e-6
        How far outside its bracket rounding may put a measurement, relative to its value. Where rounding alone may move
        a measurement further, the verdict is "assumptions unmet".
    exactness : Exactness, default Exactness(interior_balance=0.01, fit=0.1)
        When assumptions A2 and A3 count as met: `PRACTICAL` (interior imbalance 1 % of σ_K², fit 10 %) for trained
        networks, `EXACT` (1e−8) for constructed ones. The a-priori theorem needs them exactly: where a residual is
        above 1e−8, a measurement outside its bracket is "assumptions unmet". The bounds of the robust theorem contain
        the residuals.
    output_scale : float, default 1.0
        α, if the network's output is α W_{L:1} x.
    separation_means : str, default "uncentred"
        "uncentred", as in the theorem, or "centred", for which its bound is false (docs/theory.md).

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
    >>> import torch
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
    if labels is None:
        if isinstance(inputs, Tensor) or not isinstance(model, nn.Module):
            raise ValueError("`labels` may be left out only for a module and a loader of pairs (inputs, labels)")
        streamed, tail = streamed_tail(model, inputs, output_scale=output_scale)
        return _without_tail(tail) if streamed is None else _of_problem(streamed, tail.names, options, tail)
    inputs, labels = tensor("inputs", inputs), tensor("labels", labels)
    if not isinstance(model, nn.Module):
        problem = LinearProblem.of(model, inputs, labels, output_scale=output_scale)
        names = tuple(f"W_{layer}" for layer in range(1, problem.depth + 1))
        return _of_problem(problem, names, options)
    check_inputs(inputs)
    check_labels(labels, len(inputs))
    tail = linear_tail(model, inputs, labels)
    if not tail.weights:
        return _without_tail(tail)
    problem = LinearProblem.of(tail.weights, tail.features, labels, biases=tail.biases, output_scale=output_scale)
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
        if tail.moments:
            dataset, notes = dataset.merge(whole_network_dataset(tail.moments)), [*notes, *_tail_notes(tail)]
    if options.centred:
        applied = [one if one.theorem.is_open else _about_centred_means(one) for one in applied]
    results = {one.theorem.name: _result(one, case, assumptions) for one in applied}
    of_open: dict[bool, list[Verdict]] = {False: [], True: []}
    for one in applied:
        of_open[one.theorem.is_open] += results[one.theorem.name].verdicts
    steps = certified_steps(applied, case, assumptions)
    # Who asks about centred means gets an answer: the claims about them count, too.
    asked = [verdict for verdict in of_open[False] if options.centred and "centred means" in verdict.claim]
    return Verification(
        TITLE,
        assumptions,
        tuple(of_open[False]),
        tuple(of_open[True]),
        tuple(notes),
        dataset,
        claims=(*steps.claims, *asked),
        decided_by=steps.by,
        theorems=results,
    )


def _result(applied: Applied, case: Case, assumptions: Mapping[str, Assumption]) -> TheoremResult:
    """One theorem by itself."""
    theorem = applied.theorem
    needed = {name: assumptions[name] for name in theorem.needs if name in assumptions}
    own = {one.name: one for one in applied.assumptions}
    verdicts = tuple(applied.verdicts(case, assumptions))
    return TheoremResult(theorem.name, theorem.label, theorem.reference, needed | own, verdicts)


def _without_tail(tail: LinearTail) -> Verification:
    """A network that does not end with an affine map: numbers, and no theorem."""
    dataset = whole_network_dataset(tail.moments)
    assumptions = {"linear_tail": _tail_assumption(tail)}
    return Verification(TITLE, assumptions, (), (), tuple(_tail_notes(tail)), dataset, claims=())


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
    """Whether the network ends with at least two affine maps."""
    found = len(tail.weights)
    end = f"; {tail.obstacle}" if tail.obstacle else ""
    meaning = f"the network ends with {found} affine maps in a row, biases and what folds into them included{end}"
    return Assumption("linear_tail", float(found), float(max(0, 2 - found)), 0.0, found >= 2, meaning)


def _tail_notes(tail: LinearTail) -> list[str]:
    """What is reported without a theorem."""
    fit = whole_network_dataset(tail.moments)
    slope, lower, upper = (
        float(fit[name]) for name in ("decay_slope", "decay_slope_lower_of_line", "decay_slope_upper_of_line")
    )
    return [
        f"Empirical decay over {fit.sizes['site']} layers with weights: log D changes by {number(slope)} per layer "
        f"(95 % interval of the line {number(lower)} … {number(upper)}, R² {number(fit['decay_r_squared'].item())}). "
        "No theorem covers the nonlinear layers.",
    ]

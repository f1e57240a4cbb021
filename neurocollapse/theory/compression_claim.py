"""Certified compression: the claim about a step that can fail, decided by whichever theorem decides it best."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from neurocollapse.support.numbers import short, together
from neurocollapse.theory.assumptions import Assumption
from neurocollapse.theory.theorem import Applied, Case
from neurocollapse.theory.verdict import HOLDS, UNMET, VIOLATED, Verdict

LENGTH = "explanation_length"
SPECTRA_EXPLAIN = 0.25
"""How far above the measurement the bound of spectra alone may be to count as an explanation."""
CLAIM = "layer l pulls the classes together: D_l/D_{l−1} < 1, certified"


class _Bound(NamedTuple):
    """One theorem's bracket of D_l/D_{l−1}, as proved."""

    theorem: str
    reference: str
    lower: float
    upper: float


class Decided(NamedTuple):
    """Verdicts about the steps 1 … L−1, and the theorem that decides each; "" where none does."""

    claims: tuple[Verdict, ...]
    by: tuple[str, ...]


def certified_steps(applied: Sequence[Applied], case: Case, assumptions: Mapping[str, Assumption]) -> Decided:
    """Hold "this layer compresses" against the best proved bounds of every step.

    A step holds if an upper bound is below 1, is violated if a lower bound is above 1, and is undecided otherwise: also
    where both are 1 within the tolerance for rounding, as for a layer that leaves every direction as it is.
    Bounds count where their theorem's assumptions are met, exactly if its proof takes them so, and where the
    measurement lies inside.
    """
    decided = []
    for layer in range(1, case.problem.depth):
        spectral = _value(applied, "split_spectral", layer)
        length = next((float(n.values[layer]) for one in applied for n in one.numbers if n.name == LENGTH), math.nan)
        bounds = list(_bounds(applied, case, assumptions, layer))
        decided.append(_decide(case, layer, bounds, spectral, length))
    return Decided(tuple(verdict for verdict, _ in decided), tuple(name for _, name in decided))


def _bounds(
    applied: Sequence[Applied], case: Case, assumptions: Mapping[str, Assumption], layer: int
) -> Iterator[_Bound]:
    """Every proved bound of one step; one of D_l is divided by the measured D_{l−1}."""
    before = case.measured.compression[layer - 1]
    for one in applied:
        if one.theorem.is_open or not one.is_exact(case, assumptions):
            continue
        for bracket in one.brackets:
            if bracket.of not in ("compression", "decay_ratio") or layer not in bracket.layers:
                continue
            verdict = one.verdict(bracket, layer, case, assumptions)
            scale = before if bracket.of == "compression" else 1.0
            if verdict.outcome == HOLDS and scale > 0:
                yield _Bound(
                    one.theorem.name, one.theorem.reference, max(verdict.lower, 0.0) / scale, verdict.upper / scale
                )


def _value(applied: Sequence[Applied], prefix: str, layer: int) -> float:
    """An upper bound by the name of its variable; NaN if there is none."""
    uppers = [bracket.upper for one in applied for bracket in one.brackets if bracket.prefix == prefix]
    return float(uppers[0][layer]) if uppers and uppers[0] is not None else math.nan


def _decide(case: Case, layer: int, bounds: list[_Bound], spectral: float, length: float) -> tuple[Verdict, str]:
    """The verdict about one step, and whose bound decides it."""
    measured = float(case.measured.decay_ratio[layer])
    if not bounds:
        return _verdict(layer, measured, math.nan, math.nan, UNMET, _no_bound(case, layer)), ""
    least, most = min(bounds, key=lambda bound: bound.upper), max(bounds, key=lambda bound: bound.lower)
    factor = "factor in [{}, {}]".format(*together([most.lower, least.upper]))
    if least.upper < 1 - case.tolerance:
        text = f"layer {layer} provably compresses: {factor}; {_explained(case, layer, least, spectral, length)}"
        return _verdict(layer, measured, most.lower, least.upper, HOLDS, text, least.reference), least.theorem
    if most.lower > 1 + case.tolerance:
        text = f"layer {layer} provably spreads the classes: {factor}"
        return _verdict(layer, measured, most.lower, least.upper, VIOLATED, text, most.reference), most.theorem
    sides = "on both sides of 1" if least.upper > 1 + case.tolerance else "not told from 1"
    text = f"layer {layer} is undecided: {factor}, {sides}"
    return _verdict(layer, measured, most.lower, least.upper, UNMET, text), ""


def _explained(case: Case, layer: int, least: _Bound, spectral: float, length: float) -> str:
    """How much of the proof is spectra, and how much is read off the data."""
    if least.theorem != "split":
        return f"by {least.reference}"
    measured = float(case.measured.decay_ratio[layer])
    within = spectral / measured - 1
    if within <= SPECTRA_EXPLAIN:
        return f"spectra alone explain it within {short(100 * max(within, 0.0), 2)} %"
    if math.isfinite(length):
        return f"{length:.0f} bands explain it within 5 %"
    distance = short(100 * (least.upper / measured - 1), 2)
    return f"16 bands come within {distance} %, spectra alone do not explain it"


def _no_bound(case: Case, layer: int) -> str:
    """Why there is no bound at all."""
    if not case.problem.resolution[layer] ** 2 <= case.tolerance:
        return f"layer {layer} is undecided: resolution, rounding may make up all of its within-class spread"
    if case.tail is None:
        return f"layer {layer} is undecided: a width does not exceed the {case.problem.num_classes} outputs"
    if case.tail.bases is None:
        return f"layer {layer} is undecided: the rank of W_{{L:1}} is below the {case.problem.num_classes} outputs"
    return f"layer {layer} is undecided: D_l or D_{{l−1}} is 0, infinite or undefined"


def _verdict(
    layer: int, measured: float, lower: float, upper: float, outcome: str, text: str, reference: str = ""
) -> Verdict:
    """The verdict; its slack is the room of the deciding bound to 1."""
    slack = 1 - lower if outcome == VIOLATED else 1 - upper
    return Verdict(CLAIM, reference, measured, lower, upper, slack, 0.0, outcome, layer, text)

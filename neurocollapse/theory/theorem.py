"""A theorem as a value: what it assumes, what it bounds, and how its bounds are shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neurocollapse.support.numbers import short
from neurocollapse.theory.assumptions import Assumption
from neurocollapse.theory.blocks import Tail
from neurocollapse.theory.conditions import Exactness, readout
from neurocollapse.theory.measured import Measured
from neurocollapse.theory.problem import LinearProblem
from neurocollapse.theory.verdict import UNMET, VIOLATED, Verdict

Array = NDArray[np.float64]
RESOLVED = ("compression", "decay_ratio")
"""Measurements of the within-class spread, in which rounding may be all that is left."""


@dataclass(frozen=True, eq=False)
class Case:
    """A network with its measurements on its data, and how strictly it is judged.

    Attributes
    ----------
    problem, measured
        The network, and what was measured of it.
    exactness
        When the assumptions count as met.
    tolerance
        How far outside its bracket a measurement may be, as a part of it.
    """

    problem: LinearProblem
    measured: Measured
    exactness: Exactness
    tolerance: float

    @cached_property
    def tail(self) -> Tail | None:
        """The network as its output sees it; None where it is too shallow or too narrow."""
        return None if self.measured.balance is None else Tail(self.problem)

    @cached_property
    def readout(self) -> tuple[float, float]:
        """α and e of the last layer; see `conditions.readout`."""
        return readout(self.problem)


class Exactly(NamedTuple):
    """An assumption that a proof takes as exact.

    Attributes
    ----------
    name
        Name of the assumption.
    limit
        Residual up to which it is.
    adds_up
        Whether the residuals of the layers add up on the way through the network, in the worst case as L².
    """

    name: str
    limit: float
    adds_up: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Bracket:
    """The range that a theorem allows for one measured number at each layer 0 … L−1.

    Attributes
    ----------
    of
        The measured variable, such as "decay_ratio"; at layer l it is about the step from l − 1 to l.
    claim
        The inequality in words and symbols.
    prefix
        The variables of a dataset are called this with ``_lower`` and ``_upper`` behind it.
    label
        What a legend says, where a theorem has more than one bracket of the same variable; default: the theorem's.
    lower, upper : arrays of shape (L,), optional
        NaN where the theorem says nothing; None for a side that it does not have.
    layers
        The layers about which a verdict is given.
    reasons : mapping of int to str
        Layer → why the theorem does not apply there.
    convention
        How the bound is normalised, or what is taken for open constants.
    curve : (str, array of shape (L,), str), optional
        Name, values and symbol of a line that the theorem draws through the measurements.
    """

    of: str
    claim: str
    prefix: str
    label: str = ""
    lower: Array | None = None
    upper: Array | None = None
    layers: Sequence[int] = ()
    reasons: Mapping[int, str] = field(default_factory=dict)
    convention: str = ""
    curve: tuple[str, Array, str] | None = None


class Number(NamedTuple):
    """A variable of the dataset that a theorem speaks about without a bound.

    Attributes
    ----------
    name
        Name of the variable.
    values : array of shape (L,)
    long_name, symbol, convention
        What it is, how it is written, how it is normalised.
    """

    name: str
    values: Array
    long_name: str
    symbol: str
    convention: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Theorem:
    """A theorem about deep linear networks; an entry of `neurocollapse.theory.THEOREMS` makes it part of `verify`.

    Attributes
    ----------
    name, label
        As code says it ("prior"), and as a legend does ("a priori certificate").
    about
        What its bounds are made of, a sentence.
    reference
        Where it is proved.
    needs
        Names of the assumptions without which it says nothing.
    certify : callable
        `Case` → what its bounds are made of; None where the network is too shallow or too narrow.
    brackets : callable
        `Case`, what `certify` gave → the brackets, the same ones for every network, NaN where there are none.
    assume : callable
        The same → assumptions that it alone measures.
    remarks : callable
        The same → what the reader should know, one line each.
    numbers : callable
        The same → variables without a bound.
    taken_as_exact : tuple of Exactly
        Assumptions that the proof takes as exact. While one of them is not, a missed bracket is unmet instead of
        violated, however far the miss: what the residual may do to the bracket is not known.
    is_open
        Whether its source leaves constants open: its bounds are compared, and never part of the status.
    """

    name: str
    label: str
    about: str
    reference: str
    needs: tuple[str, ...]
    certify: Callable[[Case], Any]
    brackets: Callable[[Case, Any], Sequence[Bracket]]
    assume: Callable[[Case, Any], Sequence[Assumption]] = lambda _case, _certificate: ()
    remarks: Callable[[Case, Any], Sequence[str]] = lambda _case, _certificate: ()
    numbers: Callable[[Case, Any], Sequence[Number]] = lambda _case, _certificate: ()
    taken_as_exact: tuple[Exactly, ...] = ()
    is_open: bool = False

    def applied(self, case: Case) -> "Applied":
        """Evaluate the theorem on a network.

        Parameters
        ----------
        case : Case
            The network with its measurements.
        """
        certificate = self.certify(case)
        return Applied(
            self,
            tuple(self.brackets(case, certificate)),
            tuple(self.assume(case, certificate)),
            tuple(self.remarks(case, certificate)),
            tuple(self.numbers(case, certificate)),
        )


@dataclass(frozen=True, eq=False)
class Applied:
    """A theorem evaluated on one network."""

    theorem: Theorem
    brackets: tuple[Bracket, ...]
    assumptions: tuple[Assumption, ...]
    remarks: tuple[str, ...]
    numbers: tuple[Number, ...] = ()

    def is_exact(self, case: Case, assumptions: Mapping[str, Assumption]) -> bool:
        """Whether all that the proof takes as exact is, so that its bounds are proved."""
        return self._least_exact(assumptions, case.problem.depth) is None

    def verdicts(self, case: Case, assumptions: Mapping[str, Assumption]) -> list[Verdict]:
        """One verdict for each claim and layer."""
        return [
            self.verdict(bracket, layer, case, assumptions) for bracket in self.brackets for layer in bracket.layers
        ]

    def verdict(self, bracket: Bracket, layer: int, case: Case, assumptions: Mapping[str, Assumption]) -> Verdict:
        """The verdict about one claim at one layer."""
        unmet = [name for name in self.theorem.needs if name in assumptions and not assumptions[name].met]
        inexact = self._least_exact(assumptions, case.problem.depth)
        return _excused(_judged(bracket, layer, case, unmet, self.theorem.reference), inexact)

    def _least_exact(self, assumptions: Mapping[str, Assumption], depth: int) -> Assumption | None:
        """Which of the assumptions that are taken as exact is furthest from it, if any is not."""
        inexact = [
            assumptions[one.name]
            for one in self.theorem.taken_as_exact
            if one.name in assumptions
            and not assumptions[one.name].residual * (depth**2 if one.adds_up else 1) <= one.limit
        ]
        return max(inexact, key=lambda one: one.residual, default=None)


def after_first(values: Sequence[float] | Array) -> Array:
    """Bounds of the steps l − 1 → l at the layer that the step leads to; NaN at layer 0."""
    return np.concatenate([[np.nan], values])


def _judged(bracket: Bracket, layer: int, case: Case, unmet: Sequence[str], reference: str) -> Verdict:
    """A claim at one layer, beside the measurement."""
    reasons = [*unmet]
    if reason := bracket.reasons.get(layer, ""):
        reasons.append(reason)
    if bracket.of in RESOLVED and not case.problem.resolution[layer] ** 2 <= case.tolerance:
        reasons.append(f"resolution at layer {layer}")
    return Verdict.judge(
        bracket.claim,
        reference,
        float(getattr(case.measured, bracket.of)[layer]),
        -np.inf if bracket.lower is None else float(bracket.lower[layer]),
        np.inf if bracket.upper is None else float(bracket.upper[layer]),
        tolerance=case.tolerance,
        unmet=reasons,
        layer=layer,
    )


def _excused(verdict: Verdict, inexact: Assumption | None) -> Verdict:
    """Call a missed bracket unmet instead of violated while an assumption that the proof takes as exact is not."""
    if inexact is None or verdict.outcome != VIOLATED:
        return verdict
    met = f"the theorem takes {inexact.name} as exact, and its residual is {short(inexact.residual, 2)}"
    return replace(verdict, outcome=UNMET, reason=f"outside by {short(-100 * verdict.slack, 2)} %; {met}")

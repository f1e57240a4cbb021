"""What a verification says: one verdict per claim and layer, never "passed" where the assumptions fail."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from types import MappingProxyType
from typing import Any

import xarray as xr

from neurocollapse.support.numbers import short, together
from neurocollapse.theory.assumptions import Assumption
from neurocollapse.theory.display import Table, as_html, as_text

HOLDS = "holds"
VIOLATED = "violated"
UNMET = "assumptions unmet"


@dataclass(frozen=True)
class Verdict:
    """One claim of a theorem and the measurement that is held against it.

    Attributes
    ----------
    claim
        The inequality in words and symbols.
    reference
        Where it is proved.
    measured, lower, upper
        The number and its bracket; an absent side is ∓∞, an undefined one NaN.
    slack
        Room to the nearer side as a part of the measurement; negative outside the bracket.
    tolerance
        How far outside, as a part of the measurement, rounding may carry it.
    outcome
        "holds", "violated" or "assumptions unmet".
    layer
        The layer l the claim is about, or None.
    reason
        Which assumptions are unmet, or met less exactly than the measurement misses its bracket; empty if none.
    """

    claim: str
    reference: str
    measured: float
    lower: float
    upper: float
    slack: float
    tolerance: float
    outcome: str
    layer: int | None = None
    reason: str = ""

    @classmethod
    def judge(
        cls,
        claim: str,
        reference: str,
        measured: float,
        lower: float = -math.inf,
        upper: float = math.inf,
        *,
        tolerance: float,
        unmet: Sequence[str] = (),
        layer: int | None = None,
    ) -> "Verdict":
        """Compare a measurement with its bracket; `unmet` names the assumptions that fail.

        Parameters
        ----------
        claim, reference : str
            What is claimed, and where it is stated.
        measured : float
            The measurement.
        lower : float, default -inf
            Lower end of the bracket.
        upper : float, default inf
            Upper end of the bracket.
        tolerance : float
            How far outside the bracket rounding may put the measurement, relative to the bound.
        unmet : sequence of str, default none
            Names of assumptions that fail.
        layer : int, optional
            The layer that the claim is about.

        Examples
        --------
        >>> Verdict.judge("a ≤ 2", "arithmetic", 1.0, upper=2.0, tolerance=0.0).outcome
        'holds'
        >>> Verdict.judge("a ≤ 2", "arithmetic", 1.0, upper=2.0, tolerance=0.0, unmet=["a is known"]).outcome
        'assumptions unmet'
        """
        scale = abs(measured) or 1.0
        slack = min((measured - lower) / scale, (upper - measured) / scale)
        reasons = [*unmet]
        if math.isnan(slack) and not unmet:
            reasons.append("the measurement or its bound is undefined")
        outcome = UNMET if reasons else HOLDS if slack >= -tolerance else VIOLATED
        return cls(claim, reference, measured, lower, upper, slack, tolerance, outcome, layer, "; ".join(reasons))

    @property
    def tightness(self) -> tuple[float, float]:
        """(measured/lower, upper/measured): both are 1 for a bound that leaves no room."""
        return _quotient(self.measured, self.lower), _quotient(self.upper, self.measured)


def status_of(verdicts: Iterable[Verdict]) -> str:
    """ "violated" if any verdict is; else "assumptions unmet" if any is, or there is none; else "holds"."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if VIOLATED in outcomes:
        return VIOLATED
    return HOLDS if outcomes == {HOLDS} else UNMET


@dataclass(frozen=True, eq=False)
class TheoremResult:
    """One theorem against one network: its brackets beside the measurements.

    Attributes
    ----------
    name, label, reference
        As code and as a legend say it, and where it is proved.
    assumptions : mapping name → Assumption
        What it needs.
    verdicts : tuple of Verdicts
        One for each claim and layer.
    """

    name: str
    label: str
    reference: str
    assumptions: Mapping[str, Assumption]
    verdicts: tuple[Verdict, ...]

    @property
    def status(self) -> str:
        """Whether the measurements lie in its brackets; nothing is said of compression."""
        return status_of(self.verdicts)


@dataclass(frozen=True, eq=False, repr=False)
class Verification:
    """Assumptions, verdicts and numbers of one verification.

    Attributes
    ----------
    title
        What was verified.
    assumptions : mapping name → Assumption
    verdicts : tuple of Verdicts
        They make the status, unless there are claims.
    comparisons : tuple of Verdicts
        Bounds whose source leaves a constant or an o(1) open, compared at the stated value: for information, never
        part of the status.
    notes : tuple of str
        One line each.
    dataset
        Measurements and bounds.
    claims : tuple of Verdicts, optional
        What the status is about, where that is more than each theorem against the measurement: certified compression
        of every step. The reason of each is a sentence.
    decided_by : tuple of str
        The theorem that decides each step, layer 1 first; "" where none does.
    theorems : mapping name → TheoremResult
        Every theorem by itself.
    """

    title: str
    assumptions: Mapping[str, Assumption]
    verdicts: tuple[Verdict, ...]
    comparisons: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    dataset: xr.Dataset = field(default_factory=xr.Dataset)
    claims: tuple[Verdict, ...] | None = None
    decided_by: tuple[str, ...] = ()
    theorems: Mapping[str, TheoremResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "theorems", MappingProxyType(dict(self.theorems)))
        object.__setattr__(self, "assumptions", MappingProxyType(dict(self.assumptions)))

    @property
    def status(self) -> str:
        """ "violated" if any claim is; else "assumptions unmet" if any is, or there is none; else "holds"."""
        return status_of(self.verdicts if self.claims is None else self.claims)

    def to_dataset(self) -> xr.Dataset:
        """Measurements and bounds as a labelled dataset, a copy."""
        return self.dataset.copy(deep=True).assign_attrs(status=self.status)

    def to_json(self, *, indent: int | None = None) -> str:
        """Everything as JSON; numbers that are NaN or infinite become null.

        Parameters
        ----------
        indent : int, optional
            Spaces by which nested values are indented. Default: everything on one line.
        """
        variables = {str(name): variable.to_dict() for name, variable in self.dataset.variables.items()}
        content = {
            "title": self.title,
            "status": self.status,
            "assumptions": {name: asdict(assumption) for name, assumption in self.assumptions.items()},
            "claims": [asdict(verdict) for verdict in self.claims or ()],
            "decided_by": list(self.decided_by),
            "theorems": {name: one.status for name, one in self.theorems.items()},
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "comparisons": [asdict(verdict) for verdict in self.comparisons],
            "notes": list(self.notes),
            "variables": variables,
            "attributes": dict(self.dataset.attrs),
        }
        return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)

    def __repr__(self) -> str:
        return as_text(self.title, self.status, self._tables(), self.notes)

    def _repr_html_(self) -> str:
        return as_html(self.title, self.status, self._tables(), self.notes)

    def _tables(self) -> list[Table]:
        """The assumptions, and the verdicts by where they are proved, comparisons last."""
        columns = ("assumption", "value", "residual", "tolerance", "", "meaning")
        rows = [_assumption_row(one) for one in self.assumptions.values()]
        assumptions = [Table("Assumptions", columns, rows, numbers=(1, 2, 3))] if rows else []
        evidence = [
            *assumptions,
            *_verdict_tables(self.verdicts),
            *_verdict_tables(self.comparisons, " (for comparison)"),
        ]
        has_claims = self.claims is not None
        return [*self._claims(), *(table._replace(is_evidence=has_claims) for table in evidence)]

    def _claims(self) -> list[Table]:
        """The steps, one line each, and every theorem's own status."""
        if self.claims is None:
            return []
        columns = ("layer", "measured", "certified", "outcome", "by")
        names = [*self.decided_by, *[""] * (len(self.claims) - len(self.decided_by))]
        rows = [(*cells, name) for cells, name in zip(_verdict_cells(self.claims), names, strict=True)]
        sentences = tuple(claim.reason for claim in self.claims if claim.reason)
        steps = Table("Certified compression, D_l/D_{l−1} < 1", columns, rows, sentences, numbers=(0, 1))
        statuses = [(one.label, one.status) for one in self.theorems.values()]
        return [steps, Table("Measurements in the brackets of each theorem", ("theorem", "status"), statuses)]


def _assumption_row(assumption: Assumption) -> tuple[str, ...]:
    """The cells of one assumption."""
    numbers = [short(value) for value in (assumption.value, assumption.residual, assumption.tolerance)]
    return (assumption.name, *numbers, "met" if assumption.met else "NOT MET", assumption.meaning)


def _verdict_tables(verdicts: Sequence[Verdict], suffix: str = "") -> Iterator[Table]:
    """One table for each source, in which a claim about several layers stands at the first."""
    sources: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        sources.setdefault(verdict.reference, []).append(verdict)
    for reference, found in sources.items():
        rows = [
            ("" if at else claim, *cells)
            for claim, alike in groupby(found, key=lambda verdict: verdict.claim)
            for at, cells in enumerate(_verdict_cells(list(alike)))
        ]
        columns: tuple[str, ...] = ("claim", "layer", "measured", "allowed", "outcome")
        if all(verdict.layer is None for verdict in found):
            columns, rows = columns[:1] + columns[2:], [row[:1] + row[2:] for row in rows]
        reasons = dict.fromkeys(
            f"unmet: {verdict.reason}" for verdict in found if verdict.outcome != HOLDS and verdict.reason
        )
        measured = columns.index("measured")
        yield Table(reference + suffix, columns, rows, tuple(reasons), tuple(range(1, measured + 1)))


def _verdict_cells(verdicts: Sequence[Verdict]) -> list[tuple[str, ...]]:
    """Layer, measurement, bracket and outcome of verdicts about one claim, their numbers with the same decimals."""
    columns = ([getattr(verdict, side) for verdict in verdicts] for side in ("measured", "lower", "upper"))
    # What stands by itself is not padded with zeros: "at most 0.1".
    texts = zip(*(together(values, 4) if len(values) > 1 else map(short, values) for values in columns), strict=True)
    return [
        ("" if one.layer is None else str(one.layer), measured, _allowed(one, lower, upper), one.outcome)
        for one, (measured, lower, upper) in zip(verdicts, texts, strict=True)
    ]


def _allowed(verdict: Verdict, lower: str, upper: str) -> str:
    """A bracket in words; a side that it does not have is left out."""
    if math.isnan(verdict.lower) or math.isnan(verdict.upper):
        return "undefined"
    if math.isinf(verdict.lower):
        return "" if math.isinf(verdict.upper) else f"at most {upper}"
    return f"at least {lower}" if math.isinf(verdict.upper) else f"{lower} to {upper}"


def _quotient(numerator: float, denominator: float) -> float:
    """Divide; by zero gives ∞."""
    return numerator / denominator if denominator else math.inf


def _finite(value: Any) -> Any:
    """Replace what JSON cannot say."""
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item") and not isinstance(value, str):
        return _finite(value.item())
    return value

"""A verification as text for the terminal and as HTML for notebooks."""

import html
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurocollapse.theory.assumptions import Assumption
    from neurocollapse.theory.verdict import Verdict, Verification

ASSUMPTION_HEADS = ("assumption", "value", "residual", "tolerance", "", "meaning")
VERDICT_HEADS = ("layer", "measured", "lower", "upper", "outcome")
COLOURS = {"holds": "#1a7f37", "violated": "#cf222e", "assumptions unmet": "#9a6700"}


def as_text(verification: "Verification") -> str:
    """Lay the verification out for the terminal."""
    lines = [f"{verification.title}: {verification.status}", "", "Assumptions"]
    lines += _columns([_assumption_row(entry) for entry in verification.assumptions.values()])
    for heading, verdicts in _sections(verification):
        lines += ["", heading, *_columns([VERDICT_HEADS, *map(_verdict_row, verdicts)])]
        lines += sorted({f"  unmet: {verdict.reason}" for verdict in verdicts if verdict.reason})
    if verification.notes:
        lines += ["", *verification.notes]
    return "\n".join(lines)


def as_html(verification: "Verification") -> str:
    """Lay the verification out for a notebook; everything is escaped."""
    colour = COLOURS[verification.status]
    parts = [
        f"<h4>{html.escape(verification.title)}: "
        f'<span style="color:{colour}">{html.escape(verification.status)}</span></h4>',
        _table(ASSUMPTION_HEADS, map(_assumption_row, verification.assumptions.values())),
    ]
    for heading, verdicts in _sections(verification):
        parts += [f"<p><b>{html.escape(heading)}</b></p>", _table(VERDICT_HEADS, map(_verdict_row, verdicts))]
        reasons = sorted({verdict.reason for verdict in verdicts if verdict.reason})
        parts += [f"<p>unmet: {html.escape(reason)}</p>" for reason in reasons]
    parts += [f"<p>{html.escape(note)}</p>" for note in verification.notes]
    return "<div>" + "".join(parts) + "</div>"


def _sections(verification: "Verification") -> Iterable[tuple[str, list["Verdict"]]]:
    """Group the verdicts by claim, comparisons last."""
    for verdicts, suffix in ((verification.verdicts, ""), (verification.comparisons, " (for comparison)")):
        for (claim, reference), group in groupby(verdicts, key=lambda verdict: (verdict.claim, verdict.reference)):
            yield f"{claim}  [{reference}]{suffix}", list(group)


def _assumption_row(assumption: "Assumption") -> Sequence[str]:
    """The cells of one assumption."""
    met = "met" if assumption.met else "NOT MET"
    numbers = [_number(value) for value in (assumption.value, assumption.residual, assumption.tolerance)]
    return (assumption.name, *numbers, met, assumption.meaning)


def _verdict_row(verdict: "Verdict") -> Sequence[str]:
    """The cells of one verdict."""
    numbers = [_number(value) for value in (verdict.measured, verdict.lower, verdict.upper)]
    return ("" if verdict.layer is None else str(verdict.layer), *numbers, verdict.outcome)


def _number(value: float) -> str:
    """Four digits; an absent side of a bracket stays empty."""
    return "" if math.isinf(value) else f"{value:.4g}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align cells under each other."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A plain HTML table."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

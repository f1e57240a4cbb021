"""An outcome as text for the terminal and as HTML for notebooks: every claim beside its measurement."""

import html
import math
import textwrap
from collections.abc import Sequence

from neurocollapse.support.table import aligned
from neurocollapse.theory import Verdict
from neurocollapse.theory.display import COLOURS

HEADINGS = ("claim", "measured", "allowed", "outcome")
WIDTH = 100
"""Characters of a line of prose on the terminal."""


def as_text(title: str, source: str, status: str, verdicts: Sequence[Verdict]) -> str:
    """Lay an outcome out for the terminal."""
    lines = [textwrap.fill(f"{title} [{source}]", WIDTH), "", aligned(HEADINGS, list(map(_row, verdicts)), numbers={1})]
    reasons = dict.fromkeys(verdict.reason for verdict in verdicts if verdict.reason)
    lines += [textwrap.fill(f"unmet: {reason}", WIDTH, subsequent_indent="  ") for reason in reasons]
    return "\n".join([*lines, "", f"Outcome: {status}"])


def as_html(title: str, source: str, status: str, verdicts: Sequence[Verdict]) -> str:
    """Lay an outcome out for a notebook; everything is escaped."""
    mark = f'<span style="color:{COLOURS[status]}">{html.escape(status)}</span>'
    head = "".join(f'<th style="text-align:left">{heading}</th>' for heading in HEADINGS)
    rows = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{html.escape(cell)}</td>' for cell in _row(verdict)) + "</tr>"
        for verdict in verdicts
    )
    reasons = dict.fromkeys(verdict.reason for verdict in verdicts if verdict.reason)
    notes = "".join(f"<p>unmet: {html.escape(reason)}</p>" for reason in reasons)
    return (
        f"<div><p><b>{html.escape(title)}</b> [{html.escape(source)}]: {mark}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{notes}</div>"
    )


def _row(verdict: Verdict) -> tuple[str, str, str, str]:
    """The cells of one claim."""
    return verdict.claim, f"{verdict.measured:.4g}", _allowed(verdict.lower, verdict.upper), verdict.outcome


def _allowed(lower: float, upper: float) -> str:
    """A bracket in words; an absent side is left out."""
    if math.isinf(lower):
        return "" if math.isinf(upper) else f"at most {upper:.4g}"
    return f"at least {lower:.4g}" if math.isinf(upper) else f"{lower:.4g} to {upper:.4g}"

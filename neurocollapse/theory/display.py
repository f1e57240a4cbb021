"""Tables of words as text for the terminal and as HTML for notebooks."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from neurocollapse.support.formulas import typeset
from neurocollapse.support.table import aligned, html_table

COLOURS = {"holds": "#1a7f37", "violated": "#cf222e", "assumptions unmet": "#9a6700"}
WIDTH = 100
"""Characters of a line of prose on the terminal."""


class Table(NamedTuple):
    """Rows under a heading, and remarks below them; `numbers` are the columns of numbers.

    What is evidence, below a conclusion, is folded in notebooks.
    """

    heading: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    remarks: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    is_evidence: bool = False


def as_text(title: str, status: str, tables: Iterable[Table], notes: Sequence[str] = ()) -> str:
    """Lay tables out for the terminal, the status below all else."""
    lines = [textwrap.fill(title, WIDTH)]
    for table in tables:
        rows = aligned(table.columns, table.rows, numbers=set(table.numbers))
        lines += ["", table.heading, textwrap.indent(rows, "  ")]
        lines += [
            textwrap.fill(remark, WIDTH, initial_indent="  ", subsequent_indent="    ") for remark in table.remarks
        ]
    lines += ["", *(textwrap.fill(note, WIDTH) for note in notes)] if notes else []
    return "\n".join([*lines, "", f"Outcome: {status}"])


def as_html(title: str, status: str, tables: Iterable[Table], notes: Sequence[str] = ()) -> str:
    """Lay tables out for a notebook, formulas with their indices; everything else is escaped."""
    heading = Markup('<h4>{}: <span style="color:{}">{}</span></h4>')
    parts = [heading.format(typeset(title), COLOURS[status], status)]
    for table in tables:
        columns = [typeset(cell) for cell in table.columns]
        rows = [[typeset(cell) for cell in row] for row in table.rows]
        whole = Markup("{}{}").format(html_table(columns, rows, numbers=table.numbers), _paragraphs(table.remarks))
        frame = "<details><summary>{}</summary>{}</details>" if table.is_evidence else "<p><b>{}</b></p>{}"
        parts.append(Markup(frame).format(typeset(table.heading), whole))
    return str(Markup("<div>{}{}</div>").format(Markup().join(parts), _paragraphs(notes)))


def _paragraphs(texts: Iterable[str]) -> Markup:
    """One paragraph a text."""
    return Markup().join(Markup("<p>{}</p>").format(typeset(text)) for text in texts)

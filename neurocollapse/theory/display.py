"""Tables of words as text for the terminal and as HTML for notebooks."""

import html
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from neurocollapse.support.table import aligned

COLOURS = {"holds": "#1a7f37", "violated": "#cf222e", "assumptions unmet": "#9a6700"}
WIDTH = 100
"""Characters of a line of prose on the terminal."""


class Table(NamedTuple):
    """Rows under a heading, and remarks below them; `numbers` are the columns of numbers."""

    heading: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    remarks: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()


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
    """Lay tables out for a notebook; everything is escaped."""
    parts = [f'<h4>{html.escape(title)}: <span style="color:{COLOURS[status]}">{html.escape(status)}</span></h4>']
    for table in tables:
        parts += [f"<p><b>{html.escape(table.heading)}</b></p>", _table(table)]
        parts += [f"<p>{html.escape(remark)}</p>" for remark in table.remarks]
    return "<div>" + "".join([*parts, *(f"<p>{html.escape(note)}</p>" for note in notes)]) + "</div>"


def _table(table: Table) -> str:
    """A plain HTML table."""
    style = ' style="text-align:left"'
    head = "".join(f"<th{style}>{html.escape(cell)}</th>" for cell in table.columns)
    rows = ("".join(f"<td{style}>{html.escape(cell)}</td>" for cell in row) for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"

"""Tables of the page: what is shown, and the same in full precision as CSV."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from markupsafe import Markup

from neurocollapse.report.downloads import csv_text, file_name, text_uri
from neurocollapse.report.tables import Column, Table, cells, digits_of, exact, texts
from neurocollapse.support.dataset import heading
from neurocollapse.support.formulas import typeset
from neurocollapse.support.numbers import number


class Cell(NamedTuple):
    """What a reader sees, and the value that it stands for: a number, a pair of numbers, or text."""

    shown: str | Markup
    exact: Any


@dataclass(frozen=True)
class Grid:
    """A table of the page.

    Attributes
    ----------
    label
        What it holds, of what; the name of the file that it is saved as.
    headings
        Headings of the columns, as plain text.
    rows
        Cells, the first of each row being its name.
    words, texts
        Which columns hold a word, and which sentences; all others are numbers.
    title
        The heading above it.
    note
        What to know of it.
    """

    label: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: frozenset[int] = frozenset()
    texts: frozenset[int] = frozenset()
    title: str = ""
    note: str = ""

    @property
    def columns(self) -> list[Markup]:
        """The headings with their indices set."""
        return [typeset(text) for text in self.headings]

    @property
    def file(self) -> tuple[str, str]:
        """Name and address of the table as CSV."""
        text = csv_text(self.headings, [[cell.exact for cell in row] for row in self.rows])
        return file_name(self.label, "csv"), text_uri("text/csv", text)


def grid(
    label: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    words: Collection[int] = (),
    texts: Collection[int] = (),
    title: str = "",
    note: str = "",
) -> Grid:
    """A table of cells; what is no `Cell` is a text that is shown as it is, and saved without its markup.

    The label is the title by default.
    """
    built = tuple(tuple(one if isinstance(one, Cell) else as_cell(one) for one in row) for row in rows)
    return Grid(label, tuple(headings), built, frozenset(words), frozenset(texts), title or label, note)


def as_cell(value: Any) -> Cell:
    """A text, or a number by itself, as a cell."""
    if isinstance(value, Markup):
        return Cell(value, value.striptags())
    return Cell(value, value) if isinstance(value, str) else Cell(number(value), value)


def named(dataset: xr.Dataset, name: str) -> Cell:
    """A variable's heading as the name of a row."""
    return Cell(typeset(heading(dataset, name)), heading(dataset, name))


def at_last_layer(analyses: Iterable[xr.Dataset], name: str) -> list[Cell]:
    """The value of a variable at the last layer of each network, with the same decimals, or a dash."""
    given = list(analyses)
    first = next(one[name] for one in given if name in one.data_vars)
    unknown = (np.nan, np.nan) if "bound" in first.dims else np.nan
    values = [exact(one[name])[-1] if name in one.data_vars else unknown for one in given]
    return [Cell(*pair) for pair in zip(texts(values, digits_of(first)), values, strict=True)]


def table_grid(label: str, table: Table) -> Grid:
    """A table of layers as a table of the page."""
    columns = (*table.keys, *table.columns)
    rows = zip(*(_cells(column) for column in columns), strict=True)
    return grid(label, table.headings, rows, words=table.words)


def total_rows(dataset: xr.Dataset) -> list[list[Any]]:
    """Numbers of the whole network that have a heading."""
    return [
        [heading(dataset, str(name)), Cell(cells(one)[0], exact(one)[0])]
        for name, one in dataset.data_vars.items()
        if one.dims in ((), ("bound",)) and one.attrs.get("heading")
    ]


def _cells(column: Column) -> list[Cell]:
    """The cells of a column with the numbers that they stand for."""
    return [Cell(*pair) for pair in zip(column.cells, column.values or column.cells, strict=True)]

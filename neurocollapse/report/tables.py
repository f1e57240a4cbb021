"""A dataset as a table: its layers as rows, and every number that has a heading as a column."""

import html
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import xarray as xr

from neurocollapse.report.numbers import interval, number
from neurocollapse.support.dataset import (
    family,
    heading,
    last,
    layer_names,
    layered,
    leading,
    networks,
    tabulated,
)
from neurocollapse.support.table import aligned, html_table

_DESCRIPTIONS = {"module_type": "type", "feature_dimension": "features", "pooling": "pooling"}
_TERMINAL = (100, 24)
"""Columns and lines where nothing says how large the terminal is."""


@dataclass(frozen=True)
class Column:
    """One column: its heading, its cells as text, what it is chosen with, and whether it holds numbers."""

    heading: str
    cells: tuple[str, ...]
    family: str = ""
    is_number: bool = True

    @property
    def width(self) -> int:
        """Characters in the widest cell."""
        return max(map(len, (self.heading, *self.cells)))


@dataclass(frozen=True, repr=False)
class Table:
    """The layers of a dataset as text: `print` it, or leave it as the last line of a notebook's cell.

    Attributes
    ----------
    keys : tuple of Column
        What names a row: the layer, and before it the network where there are several.
    columns : tuple of Column
        Kind and size of the layers, then every number that has a heading.
    totals : tuple of (str, str)
        Heading and value of numbers of the whole network.
    step : str
        Which step the numbers are of, where there are several.
    """

    keys: tuple[Column, ...]
    columns: tuple[Column, ...]
    totals: tuple[tuple[str, str], ...] = ()
    step: str = ""

    @property
    def headings(self) -> list[str]:
        """The names of all columns."""
        return [column.heading for column in (*self.keys, *self.columns)]

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells of each layer, as text."""
        return list(zip(*(column.cells for column in (*self.keys, *self.columns)), strict=True))

    @property
    def words(self) -> list[int]:
        """Which columns hold words, not numbers."""
        return [index for index, column in enumerate((*self.keys, *self.columns)) if not column.is_number]

    def families(self) -> list["Table"]:
        """One table for each family of columns, all with the same keys."""
        groups = groupby(self.columns, key=lambda column: column.family)
        return [Table(self.keys, tuple(columns)) for _, columns in groups] or [self]

    def fitted(self, width: int) -> list["Table"]:
        """As few tables as fit into a number of characters; a family is split only where it does not fit by itself."""
        room = width - sum(column.width + 2 for column in self.keys)
        blocks: list[tuple[Column, ...]] = [()]
        for block in self.families():
            whole = _fits(blocks[-1] + block.columns, room)
            for part in [block.columns] if whole else [(column,) for column in block.columns]:
                starts = not whole and part == block.columns[:1]
                if blocks[-1] and (starts or not _fits(blocks[-1] + part, room)):
                    blocks.append(())
                blocks[-1] += part
        return [Table(self.keys, block) for block in blocks]

    def as_text(self, width: int | None = None) -> str:
        """The table for a terminal of so many characters; of this terminal by default."""
        parts = [one._aligned() for one in self.fitted(width or shutil.get_terminal_size(_TERMINAL).columns)]
        parts += ["\n".join(f"{name}: {value}" for name, value in self.totals)] if self.totals else []
        return "\n\n".join([self.step, *parts] if self.step else parts)

    def _aligned(self) -> str:
        """All columns in one block of text."""
        return aligned(self.headings, self.rows, numbers=set(range(len(self.headings))) - set(self.words))

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        totals = html_table(["", "network"], self.totals) if self.totals else ""
        return (f"<p>{html.escape(self.step)}</p>" if self.step else "") + html_table(self.headings, self.rows) + totals


def table(dataset: xr.Dataset) -> Table:
    """The layers of a dataset as rows, with a column for every number that has a heading.

    Headings are what the variables say of themselves; where none has one, as in files of older versions, all numbers
    are shown under their names. Of several steps the last one is shown; entries along `model`, `run` or `network` are
    shown one below the other.

    Parameters
    ----------
    dataset : xarray.Dataset
        Result of `nc.measure` or `nc.analyze`, also concatenated, or with one layer or step selected.

    Returns
    -------
    Table

    Raises
    ------
    TypeError
        If ``dataset`` is something else.
    ValueError
        If it holds no number along `layer`, or more than one dimension in front of the layers.

    Examples
    --------
    >>> values = ("layer", [2.0, 0.25], {"heading": "D"})
    >>> print(table(xr.Dataset({"compression": values}, {"layer": ["fc1", "fc2"]})))
    layer      D
    fc1        2
    fc2    0.250
    """
    if not isinstance(dataset, xr.Dataset):
        raise TypeError(f"`dataset` must be an xarray.Dataset, got {type(dataset).__name__}; pass one of nc.analyze")
    whole = layered(dataset)
    parts = {name: last(one) for name, one in networks(whole).items()}
    built = [_columns(one) for one, _ in parts.values()]
    columns = [one for pieces in zip(*built, strict=True) if set((one := _joined(pieces)).cells) != {"none"}]
    if len(columns) == 1:
        raise ValueError("`dataset` holds no number along `layer`; pass the result of nc.analyze or nc.measure")
    keys = columns[:1]
    if len(parts) > 1:
        names = [name for name, (one, _) in parts.items() for _ in layer_names(one)]
        keys = [Column(str(leading(whole)), tuple(names), is_number=False), *keys]
    totals = [
        (f"{text}, {name}" if len(parts) > 1 else text, value)
        for name, (one, _) in parts.items()
        for text, value in _totals(one)
    ]
    return Table(tuple(keys), tuple(columns[1:]), tuple(totals), next(iter(parts.values()))[1])


def _columns(dataset: xr.Dataset) -> list[Column]:
    """The layers' names, what they are, and every number of theirs."""
    names = tabulated(dataset)
    first = family(dataset, names[0]) if names else ""
    kinds = [name for name in _DESCRIPTIONS if name in dataset.coords and dataset[name].dims in ((), ("layer",))]
    return [
        Column("layer", tuple(layer_names(dataset)), is_number=False),
        *(
            Column(_DESCRIPTIONS[name], _described(dataset, name), first, is_number=name == "feature_dimension")
            for name in kinds
        ),
        *(Column(heading(dataset, name), cells(dataset[name]), family(dataset, name)) for name in names),
    ]


def cells(values: xr.DataArray) -> tuple[str, ...]:
    """Numbers as text: four digits of a share, which is read near its ends, three of others; intervals as two."""
    if "bound" in values.dims:
        ends = values.transpose(..., "bound").values.reshape(-1, 2)
        return tuple("–" if np.isnan(pair).any() else interval(*pair) for pair in ends)
    share = values.attrs.get("valid_min") == 0 and values.attrs.get("valid_max") == 1
    return tuple(number(value, 4 if share else 3) for value in np.ravel(values.values))


def _described(dataset: xr.Dataset, name: str) -> tuple[str, ...]:
    """A coordinate of the layers as text: a selected layer has it as one value; a dash where it is not known."""
    values = np.broadcast_to(dataset[name].values, dataset.sizes["layer"]).tolist()
    return tuple(value if isinstance(value, str) else number(value) for value in values)


def _joined(pieces: Sequence[Column]) -> Column:
    """One column below the other."""
    return replace(pieces[0], cells=tuple(cell for piece in pieces for cell in piece.cells))


def _totals(dataset: xr.Dataset) -> list[tuple[str, str]]:
    """Numbers of the whole network that have a heading."""
    names = [
        str(name)
        for name, one in dataset.data_vars.items()
        if one.dims in ((), ("bound",)) and one.attrs.get("heading")
    ]
    return [(heading(dataset, name), cells(dataset[name])[0]) for name in names]


def _fits(columns: Sequence[Column], room: int) -> bool:
    """Whether columns fit beside each other, two spaces between them."""
    return sum(column.width + 2 for column in columns) <= room + 2

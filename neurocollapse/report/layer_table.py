"""Columns of text and numbers, and how they fit into a terminal, a notebook, a paper, another program."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from neurocollapse.report import exports
from neurocollapse.support.choices import check_choice
from neurocollapse.support.formulas import typeset
from neurocollapse.support.mathml import mathml
from neurocollapse.support.table import aligned, html_table

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("pandas", "latex", "markdown", "text")
_TERMINAL = (100, 24)
"""Columns and lines where nothing says how large the terminal is."""
_NOTEBOOK = 110
"""Characters of a line in a notebook."""


@dataclass(frozen=True)
class Column:
    """One column: its heading, its cells as text, what it is chosen with, and whether it holds numbers.

    Numbers are kept beside their text in full precision, pairs of them for intervals, with the symbol in TeX.
    """

    heading: str
    cells: tuple[str, ...]
    family: str = ""
    is_number: bool = True
    values: tuple[Any, ...] = ()
    symbol: str = ""
    digits: int = 3
    """Significant digits of the cells."""

    @property
    def width(self) -> int:
        """Characters in the widest cell."""
        return max(map(len, (self.heading, *self.cells)))

    @property
    def head(self) -> Markup:
        """The heading in HTML: the formula in place of its letters, or below the words."""
        words, formula = typeset(self.heading), mathml(self.symbol)
        letters = formula.striptags()
        if not exports.is_short(self.symbol) or letters == self.heading:
            return words
        # "D" and "tr Σ_W" are D_ℓ and tr Σ_W in plain letters.
        is_symbol = re.sub(r"[\s_]", "", self.heading) == re.sub(r"[\sℓ]", "", letters)
        return formula if is_symbol else Markup("{}<br>{}").format(words, formula)


@dataclass(frozen=True, repr=False)
class Table:
    """The layers of a dataset as text: `print` it, or leave it as the last line of a notebook's cell.

    `to_latex`, `to_markdown` and `to_pandas` hand it to papers and other programs.

    Attributes
    ----------
    keys : tuple of Column
        What names a row: the layer, and before it the network and the step where there are several.
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
        """As few tables as fit into a number of characters; a family is split only where it does not fit by itself.

        Parameters
        ----------
        width : int
            Characters of a line.
        """
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
        """The table for a terminal of so many characters; by default, of this terminal.

        Parameters
        ----------
        width : int, optional
            Characters of a line. Default: as many as the terminal has.
        """
        parts = [one._aligned() for one in self.fitted(width or shutil.get_terminal_size(_TERMINAL).columns)]
        parts += ["\n".join(f"{name}: {value}" for name, value in self.totals)] if self.totals else []
        return "\n\n".join([self.step, *parts] if self.step else parts)

    def to(self, format: str, **options: Any) -> Any:
        """The table as "pandas", "latex", "markdown" or "text", with the options of the method of that name.

        Parameters
        ----------
        format : {"pandas", "latex", "markdown", "text"}
        **options
            Options of `to_pandas`, `to_latex`, `to_markdown` or `as_text`.

        Raises
        ------
        ValueError
            If there is no such format.
        """
        check_choice("format", format, FORMATS)
        return self.as_text(**options) if format == "text" else getattr(self, f"to_{format}")(**options)

    def to_pandas(self) -> "pd.DataFrame":
        """The numbers as they were measured, one row per layer; an interval has two columns.

        Returns
        -------
        pandas.DataFrame
            Indexed by layer, or by network, step and layer; columns are named by the headings.

        Examples
        --------
        >>> import xarray as xr
        >>> values = ("layer", [2.0, 0.25], {"heading": "D"})
        >>> frame = xr.Dataset({"compression": values}, {"layer": ["fc1", "fc2"]}).nc.table().to_pandas()
        >>> float(frame.loc["fc2", "D"])
        0.25
        """
        return exports.frame(self.keys, self.columns)

    def to_latex(self, *, symbols: bool = True, decimals: int | None = None) -> str:
        r"""A `tabular` for papers; it needs ``\usepackage{booktabs}``.

        Parameters
        ----------
        symbols : bool, default True
            Put symbols above the columns, where they are short and no two are the same; otherwise headings.
        decimals : int, optional
            Decimals of every number. By default each column has as many as its smallest and largest numbers need, or
            powers of ten.

        Examples
        --------
        >>> import xarray as xr
        >>> values = ("layer", [2.0, 0.25], {"heading": "D", "symbol": r"D_\ell"})
        >>> print(xr.Dataset({"compression": values}, {"layer": ["fc_1", "fc_2"]}).nc.table().to_latex())
        \begin{tabular}{lr}
        \toprule
        layer & $D_\ell$ \\
        \midrule
        fc\_1 & 2.00 \\
        fc\_2 & 0.25 \\
        \bottomrule
        \end{tabular}
        """
        return exports.latex((*self.keys, *self.columns), symbols=symbols, decimals=decimals)

    def to_markdown(self, *, decimals: int | None = None) -> str:
        """A table for READMEs and issues.

        Parameters
        ----------
        decimals : int, optional
            Decimals of every number. By default each column has as many as its smallest and largest numbers need.

        Examples
        --------
        >>> import xarray as xr
        >>> values = ("layer", [2.0, 0.25], {"heading": "D"})
        >>> print(xr.Dataset({"compression": values}, {"layer": ["fc1", "fc2"]}).nc.table().to_markdown())
        | layer | D |
        | :--- | ---: |
        | fc1 | 2.00 |
        | fc2 | 0.25 |
        """
        return exports.markdown((*self.keys, *self.columns), decimals=decimals)

    def _aligned(self) -> str:
        """All columns in one block of text."""
        return aligned(self.headings, self.rows, numbers=self._numbers)

    @property
    def _numbers(self) -> set[int]:
        """Which columns hold numbers."""
        return set(range(len(self.headings))) - set(self.words)

    def _html(self) -> Markup:
        """All columns in one table for notebooks."""
        return html_table([one.head for one in (*self.keys, *self.columns)], self.rows, numbers=self._numbers)

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        parts = [Markup("<p>{}</p>").format(self.step)] if self.step else []
        parts += [one._html() for one in self.fitted(_NOTEBOOK)]
        parts += [html_table(["", "network"], self.totals, numbers={1})] if self.totals else []
        return str(Markup().join(parts))


def _fits(columns: Sequence[Column], room: int) -> bool:
    """Whether columns fit beside each other, two spaces between them."""
    return sum(column.width + 2 for column in columns) <= room + 2

"""Tables for papers and other programs: LaTeX, Markdown, and frames of pandas."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from neurocollapse.support.mathml import SIGNS

if TYPE_CHECKING:
    import pandas as pd

_MOST_DECIMALS = 5
"""Where more would be needed, a column has powers of ten."""
_SHARE_DECIMALS = 4
_WIDEST_SYMBOL = 10
"""Signs of a formula that still fits above a column."""
_ESCAPED = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_ESCAPED |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
_ESCAPED |= {sign: f"$\\{name}$" for name, sign in SIGNS.items() if not sign.isascii() and sign.strip() and sign != "…"}
_ESCAPED |= {"…": r"\dots{}", "–": "--", "−": "$-$"}


class Exported(Protocol):
    """One column, as `Column` holds it."""

    @property
    def heading(self) -> str:
        """What stands above it."""

    @property
    def cells(self) -> tuple[str, ...]:
        """Its cells as text."""

    @property
    def values(self) -> tuple[Any, ...]:
        """Numbers, or pairs of them; empty for words."""

    @property
    def symbol(self) -> str:
        """In TeX, without dollar signs."""

    @property
    def digits(self) -> int:
        """Significant digits of its cells."""


def latex(columns: Sequence[Exported], *, symbols: bool, decimals: int | None) -> str:
    """A `tabular` with the rules of the package booktabs; numbers flush right, symbols as formulas."""
    used = Counter(column.symbol for column in columns)
    heads = [
        f"${column.symbol}$"
        if symbols and used[column.symbol] == 1 and is_short(column.symbol)
        else escaped(column.heading)
        for column in columns
    ]
    bodies = [
        [_in_latex(text) for text in _numbers(column, decimals)]
        if column.values
        else [escaped(cell) for cell in column.cells]
        for column in columns
    ]
    rows = [" & ".join(cells) + r" \\" for cells in zip(*bodies, strict=True)]
    kinds = "".join("r" if column.values else "l" for column in columns)
    head = " & ".join(heads) + r" \\"
    lines = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines)


def markdown(columns: Sequence[Exported], *, decimals: int | None) -> str:
    """A table as GitHub and most others read it."""
    rows = [[column.heading for column in columns], ["---:" if column.values else ":---" for column in columns]]
    rows += map(list, zip(*(_numbers(column, decimals) or column.cells for column in columns), strict=True))
    return "\n".join("| " + " | ".join(re.sub(r"([|\\])", r"\\\1", cell) for cell in row) + " |" for row in rows)


def frame(keys: Sequence[Exported], columns: Sequence[Exported]) -> "pd.DataFrame":
    """Numbers as they were measured, rows named by the keys; an interval has two columns."""
    import pandas as pd

    named: list[tuple[str, Sequence[Any]]] = []
    for column in columns:
        if column.values and isinstance(column.values[0], tuple):
            ends = zip(*column.values, strict=True)
            named += [(f"{column.heading}, {end}", one) for end, one in zip(("low", "high"), ends, strict=True)]
        else:
            named.append((column.heading, column.values or column.cells))
    index = pd.MultiIndex.from_arrays([key.values or key.cells for key in keys], names=[key.heading for key in keys])
    data = pd.DataFrame({place: list(cells) for place, (_, cells) in enumerate(named)})
    data.columns = pd.Index([name for name, _ in named])
    data.index = index.get_level_values(0) if len(keys) == 1 else index
    return data


def escaped(text: str) -> str:
    r"""A text as LaTeX shows it.

    Examples
    --------
    >>> print(escaped("fc_1 & 95 %, Σ_W"))
    fc\_1 \& 95 \%, $\Sigma$\_W
    """
    return "".join(_ESCAPED.get(character, character) for character in text)


def is_short(symbol: str) -> bool:
    """Whether a symbol is short enough for a column's head."""
    shown = re.sub(r"\\(?:mathrm|widehat|hat|bar|overline|left|right)(?![A-Za-z])|\\[,;! ]", "", symbol)
    signs = re.sub(r"[{}_^\s]", "", re.sub(r"\\(?:[A-Za-z]+|\|)", "x", shown))
    return 0 < len(signs) <= _WIDEST_SYMBOL


def _numbers(column: Exported, decimals: int | None) -> list[str]:
    """A column's numbers with the same number of decimals, in plain characters; none of a column of words."""
    if not column.values:
        return []
    pairs = isinstance(column.values[0], tuple)
    flat = [float(value) for cell in column.values for value in (cell if pairs else (cell,))]
    form = _form(flat, column.digits) if decimals is None else f".{decimals}f"
    texts = ["–" if math.isnan(value) else format(value, form) for value in flat]
    if not pairs:
        return texts
    halves = zip(texts[::2], texts[1::2], strict=True)
    return ["–" if "–" in pair else f"[{pair[0]}, {pair[1]}]" for pair in halves]


def _form(values: Sequence[float], digits: int) -> str:
    """How to print a column: two digits of the smallest value and three of the largest, or powers of ten."""
    known = [abs(value) for value in values if math.isfinite(value) and value]
    if not known or all(value.is_integer() for value in known):
        return ".0f"
    smallest, largest = (math.floor(math.log10(end)) for end in (min(known), max(known)))
    needed = max(1 - smallest, 2 - largest, _SHARE_DECIMALS if digits >= _SHARE_DECIMALS else 0)
    return f".{needed}f" if needed <= _MOST_DECIMALS and largest < 6 else ".2e"


def _in_latex(text: str) -> str:
    """A number, or an interval, as a formula where it has more than digits."""
    if text == "–":
        return "--"
    text = re.sub(r"\binf\b", r"\\infty", text)
    text = re.sub(r"e([+-])0*(\d+)", lambda found: rf"\times 10^{{{found[1].strip('+')}{found[2]}}}", text)
    return text if re.fullmatch(r"[\d.]+", text) else f"${text}$"

"""Files that a page carries inside itself: links to data, which a browser saves without a network or a script."""

import base64
import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

_UNCHANGED = " !$&'()*+,-./:;=?@[]^_`{|}~"
"""Stands for itself in the data of a link, beside letters and digits."""
_LONGEST = 60
"""Characters of a file's name."""


def text_uri(kind: str, text: str) -> str:
    """Text as the address of a link; only what would end the address is encoded, so that pages stay small.

    What no file can hold, such as half a character, becomes a question mark.
    """
    return f"data:{kind};charset=utf-8,{quote(text, safe=_UNCHANGED, errors='replace')}"


def bytes_uri(kind: str, content: bytes) -> str:
    """Bytes as the address of a link."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def file_name(title: str, ending: str) -> str:
    """A title as the name of a file: lower-case letters, digits and hyphens, which every system takes.

    Examples
    --------
    >>> file_name("Compression D by layer", "svg")
    'compression-d-by-layer.svg'
    """
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode("ascii").lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_LONGEST].strip("-")
    return f"{words or 'neurocollapse'}.{ending}"


def csv_text(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV: numbers in full precision, undefined ones empty, an interval as two columns.

    Examples
    --------
    >>> print(csv_text(["layer", "D, 95 %"], [["fc1", (0.5, 2 / 3)]]), end="")
    layer,"D, 95 %, from","D, 95 %, to"
    fc1,0.5,0.6666666666666666
    """
    given = [list(row) for row in rows]
    pairs = [any(isinstance(row[at], tuple) for row in given) for at in range(len(headings))]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [(f"{name}, from", f"{name}, to") if two else (name,) for name, two in zip(headings, pairs, strict=True)]
    writer.writerow([name for names in heads for name in names])
    for row in given:
        cells = [_pair(value) if two else (value,) for value, two in zip(row, pairs, strict=True)]
        writer.writerow([_plain(value) for values in cells for value in values])
    return buffer.getvalue()


def _pair(value: Any) -> tuple[Any, Any]:
    """The two ends of an interval; one number is both of its ends."""
    return value if isinstance(value, tuple) else (value, value)


def _plain(value: Any) -> Any:
    """A cell as the csv module writes it: a NaN, as what is absent, by nothing."""
    return "" if value is None or value != value else value

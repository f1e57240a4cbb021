"""Names that users type: globs over dotted ones, and the nearest known ones where one is mistyped."""

import difflib
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from neurocollapse.support.text import visible

_PIECES = re.compile(r"\*\*\.|\*\*|\*|\?|\[[^\]]+\]|.")
_SPECIAL = {"**.": r"(?:.*\.)?", "**": ".*", "*": r"[^.]*", "?": r"[^.]"}
SIMILAR = 0.5
"""Least similarity of a suggestion, see `difflib.get_close_matches`."""


def is_glob(text: str) -> bool:
    """Tell whether a name has a character that only globs have.

    Examples
    --------
    >>> is_glob("layers.*"), is_glob("layers.0")
    (True, False)
    """
    return any(character in text for character in "*?[")


def glob(text: str) -> re.Pattern[str]:
    """Translate a glob over dotted names, to be matched in full.

    ``*`` stays inside one dotted segment and ``**`` crosses the dots, also none of them: ``**.query`` is any `query`.
    ``?`` and ``[...]`` stand for one character, ``[!...]`` for one that is not listed.

    Raises
    ------
    ValueError
        If brackets list no characters.

    Examples
    --------
    >>> [bool(glob("layers.*").fullmatch(name)) for name in ("layers.0", "layers.0.attention")]
    [True, False]
    >>> [bool(glob("**.query").fullmatch(name)) for name in ("query", "layers.0.query", "subquery")]
    [True, True, False]
    """
    try:
        return re.compile("".join(_translated(piece) for piece in _PIECES.findall(text)))
    except re.error as error:
        raise ValueError(
            f"{visible(repr(text), most=60)} has brackets that list no characters; write them like [0-3] or [!ab]"
        ) from error


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that are `pattern`, or fit it as a glob, in their own order.

    Examples
    --------
    >>> matching("*.weight", ["a.weight", "a.bias", "a.b.weight"])
    ['a.weight']
    """
    fits = glob(pattern).fullmatch
    return [name for name in names if name == pattern or fits(name)]


def did_you_mean(
    name: str,
    known: Iterable[str],
    *,
    most: int = 3,
    shown_as: Mapping[str, str] = MappingProxyType({}),
    otherwise: str = "",
) -> str:
    """The end of an error message: "; did you mean 'a' or 'b'?", or "; " and `otherwise`, or nothing.

    Parameters
    ----------
    name
        As it was typed.
    known
        The names there are.
    most
        How many to suggest.
    shown_as
        What to suggest in place of a name.
    otherwise
        What to say when no name comes near.

    Examples
    --------
    >>> did_you_mean("comit", ["commit", "merge"]), did_you_mean("x", ["commit"], otherwise="see --help")
    ("; did you mean 'commit'?", '; see --help')
    """
    names = [candidate for candidate in known if candidate]
    close = difflib.get_close_matches(name, names, n=most, cutoff=SIMILAR)
    if not close:
        return otherwise and f"; {otherwise}"
    return f"; did you mean {' or '.join(visible(repr(shown_as.get(one, one)), most=60) for one in close)}?"


def _translated(piece: str) -> str:
    """A piece of a glob as a piece of a regular expression."""
    if piece in _SPECIAL:
        return _SPECIAL[piece]
    if len(piece) == 1:
        return re.escape(piece)
    negated = piece[1] in "!^"
    listed = re.sub(r"[\\\[&~|]", r"\\\g<0>", piece[1 + negated : -1])  # what a regular expression would take for more
    return f"[{'^' if negated else ''}{listed}]"

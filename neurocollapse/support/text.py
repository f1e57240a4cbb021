"""Words for messages: names and errors of any content on one line of bounded length."""

import re
from collections.abc import Collection, Iterable

_COLOUR = re.compile(r"\x1b\[[\d;]*m")


def visible(text: object, *, most: int = 140) -> str:
    r"""A name or path with its control characters written out, and its middle left out if it is longer than `most`.

    Examples
    --------
    >>> visible("fc\x1b[31m"), visible("a" * 30 + "b" * 30, most=11)
    ('fc\\x1b[31m', 'aaaaa…bbbbb')
    """
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in str(text)
    )
    half = (most - 1) // 2
    return shown if len(shown) <= most else f"{shown[:half]}…{shown[-half:]}"


def listed(names: Iterable[object], *, most: int = 3) -> str:
    """The first few names, and how many more there are.

    Examples
    --------
    >>> listed("abcde"), listed(["fc"])
    ('a, b, c and 2 more', 'fc')
    """
    found = names if isinstance(names, Collection) else list(names)
    shown = ", ".join(visible(name, most=60) for name, _ in zip(found, range(most), strict=False))
    return f"{shown} and {len(found) - most} more" if len(found) > most else shown


def first_line(error: BaseException, *, most: int = 90) -> str:
    """What an error says, on one line of at most `most` characters; the name of its type if it says nothing.

    A long line ends after a word. Colours for terminals are left out, as libraries put them into their messages.

    Examples
    --------
    >>> first_line(ValueError("no such layer\\nTraceback")), first_line(KeyError())
    ('no such layer', 'KeyError')
    >>> first_line(ValueError("the weights cannot be read"), most=20)
    'the weights cannot…'
    """
    said = visible(_COLOUR.sub("", str(error)).strip().partition("\n")[0], most=10 * most)
    if len(said) <= most:
        return said or type(error).__name__
    words, _, rest = said[: most - 1].rpartition(" ")
    # A word that is most of the line, such as a path, is cut in its middle.
    return f"{words}…" if len(words) > len(rest) else visible(said, most=most)

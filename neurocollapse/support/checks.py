"""Checks of options: of any type, returned as what they are taken for, refused in one line."""

import math
import operator
import os
from typing import Any

from neurocollapse.support.text import visible

MAX_CLASSES = 1_000_000
"""Most classes; labels and outputs of a model beyond that are taken for a mistake."""


def integer(name: str, value: Any, *, least: int | None = None) -> int:
    """An integer of any type as an int.

    Parameters
    ----------
    name
        The option's.
    value
        As the user gave it: also NumPy's and torch's integers, but no truth value and no text.
    least
        The smallest that is allowed.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is less than `least`.

    Examples
    --------
    >>> integer("depth", 3)
    3
    >>> integer("depth", 0, least=1)
    Traceback (most recent call last):
    ValueError: `depth` must be an integer of at least 1, got 0
    """
    expected = "an integer" if least is None else f"an integer of at least {least}"
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None:
        raise TypeError(f"`{name}` must be {expected}, got {shown(value)}")
    if least is not None and found < least:
        raise ValueError(f"`{name}` must be {expected}, got {found}")
    return found


def checked_seed(seed: Any) -> int:
    """A seed of random numbers as an int, checked before torch is handed it.

    Raises
    ------
    ValueError
        Unless it is an integer from 0 to 2⁶³ − 1.

    Examples
    --------
    >>> checked_seed(3)
    3
    """
    try:
        value = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        value = -1
    if not 0 <= value < 2**63:
        raise ValueError(f"`seed` must be an integer from 0 to 2**63 - 1, got {shown(seed)}")
    return value


def positive_number(name: str, value: Any) -> float:
    """A number of any type as a float, if it is positive and finite.

    Raises
    ------
    TypeError, ValueError
        If it is no number, or none of these.

    Examples
    --------
    >>> positive_number("scale", -1)
    Traceback (most recent call last):
    ValueError: `scale` must be a positive number, got -1
    """
    found = number(name, value)
    if not 0 < found < math.inf:
        raise ValueError(f"`{name}` must be a positive number, got {value}")
    return found


def non_negative_number(name: str, value: Any) -> float:
    """A number of any type as a float, if it is at least 0 and finite.

    Raises
    ------
    TypeError, ValueError
        If it is no number, or none of these.

    Examples
    --------
    >>> non_negative_number("noise", 0)
    0.0
    """
    found = number(name, value)
    if not 0 <= found < math.inf:
        raise ValueError(f"`{name}` must be a number of at least 0, got {value}")
    return found


def number(name: str, value: Any) -> float:
    """A real number of any type as a float; texts and truth values are none."""
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # what a tensor of several numbers raises
        raise TypeError(f"`{name}` must be a number, got {shown(value)}") from None


def flag(name: str, value: Any) -> bool:
    """A truth value, also NumPy's; what is only true or false in some sense is refused.

    Raises
    ------
    TypeError
        If it is none.

    Examples
    --------
    >>> flag("pairs", "no")
    Traceback (most recent call last):
    TypeError: `pairs` must be True or False, got 'no'
    """
    of_numpy = str(getattr(value, "dtype", "")) == "bool" and getattr(value, "shape", None) == ()
    if not (isinstance(value, bool) or of_numpy):
        raise TypeError(f"`{name}` must be True or False, got {shown(value)}")
    return bool(value)


def file_path(name: str, value: Any) -> Any:
    """A path as it is; numbers, which the system would take for open files, are refused.

    Raises
    ------
    TypeError
        If it is neither a string nor a path.
    ValueError
        If no file can have that name, which is too long, say.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"`{name}` must be a path, got {shown(value)}")
    try:
        os.stat(value)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # a valid name; reading or writing says what else is wrong
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"`{name}` cannot be the name of a file: {reason}, got {shown(value)}") from error
    return value


def shown(value: Any) -> str:
    """A value of any type, on one short line."""
    try:
        words = repr(value)
    except Exception:  # the user's code, or a library that cannot print what it holds
        words = f"a {type(value).__name__}"
    return visible(" ".join(words.split()), most=60)

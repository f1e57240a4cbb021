"""Checks of options that are numbers: of any type, returned as Python's own, refused in one line."""

import math
import operator
from typing import Any

from neurocollapse.support.text import visible


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
        raise TypeError(f"`{name}` must be {expected}, got {_shown(value)}")
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
        raise ValueError(f"`seed` must be an integer from 0 to 2**63 - 1, got {_shown(seed)}")
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
        raise TypeError(f"`{name}` must be a number, got {_shown(value)}") from None


def _shown(value: Any) -> str:
    """A value of any type, on one short line."""
    return visible(" ".join(repr(value).split()), most=60)

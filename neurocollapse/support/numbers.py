"""Numbers as a reader wants them: three or four digits, true zeros and infinities, a word for what is undefined."""

import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: Any, digits: int = 3) -> str:
    """A number with ``digits`` significant digits; a power of ten where plain digits would be long.

    Examples
    --------
    >>> number(0.41234), number(3.2e-8), number(0.0), number(float("nan")), number(1437)
    ('0.412', '3.20×10⁻⁸', '0', '–', '1,437')
    """
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, Integral):
        return f"{int(value):,}".replace("-", "−")
    value = float(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if value.is_integer() and abs(value) < 1e7:
        return f"{int(value):,}".replace("-", "−")
    exponent = _exponent(value, digits)
    if -4 <= exponent < 6:
        return f"{value:,.{max(digits - 1 - exponent, 0)}f}".replace("-", "−")
    return ("−" if value < 0 else "") + _with_power(abs(value), digits)


def short(value: float, digits: int = 4) -> str:
    """A number without the zeros that it may end with: for limits and measurements that stand by themselves.

    Examples
    --------
    >>> short(0.1), short(1e-7), short(0.061234), short(-5371234.5)
    ('0.1', '10⁻⁷', '0.06123', '−5.371×10⁶')
    """
    mantissa, times, power = number(value, digits).partition("×")
    trimmed = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return power if times and trimmed == "1" else trimmed + times + power


def together(values: Iterable[Any], digits: int = 3) -> tuple[str, ...]:
    """Numbers that stand below each other, with the same number of decimals; powers of ten where that would be long.

    The decimals are those that give the smallest number ``digits`` significant digits, but no more than four, and fewer
    beside large numbers, unless all are small. Where that leaves the smallest number less than two digits, every cell
    has a power of ten.

    Examples
    --------
    >>> together([1.3866, 0.1827, 0.0069])
    ('1.3866', '0.1827', '0.0069')
    >>> together([13.62, 0.0521, 1.17e-5, 0.0])
    ('1.36×10¹', '5.21×10⁻²', '1.17×10⁻⁵', '0')
    """
    given = list(values)
    sizes = [abs(float(one)) for one in given if _is_measured(one)]
    if all(size.is_integer() and size < 1e7 for size in sizes):
        return tuple(number(one, digits) for one in given)
    least, most = (_exponent(end, digits) for end in (min(sizes), max(sizes)))
    room = max(digits - 1 - most, min(4, 5 - most))
    if not -5 < most < 6 or 1 - least > room:
        texts = {size: _with_power(size, digits) for size in sizes}
    else:
        decimals = max(0, min(digits - 1 - least, room))
        texts = {size: f"{size:,.{decimals}f}" for size in sizes}
    return tuple(
        ("−" if one < 0 else "") + texts[abs(float(one))] if _is_measured(one) else number(one, digits) for one in given
    )


def _is_measured(value: Any) -> bool:
    """Whether a value is a finite number other than zero."""
    return not isinstance(value, bool | str | type(None)) and math.isfinite(value) and value != 0


def _exponent(value: float, digits: int) -> int:
    """The power of ten of a number that is rounded to so many digits."""
    return int(f"{value:.{digits - 1}e}".split("e")[1])


def _with_power(size: float, digits: int) -> str:
    """A positive number as mantissa and power of ten."""
    mantissa, power = f"{size:.{digits - 1}e}".split("e")
    return f"{mantissa}×10{str(int(power)).translate(_SUPERSCRIPTS)}"


def interval(low: Any, high: Any, digits: int = 3) -> str:
    """Two ends of an interval."""
    return f"{number(low, digits)} to {number(high, digits)}"


def exponential(power: float) -> float:
    """e to a power; infinity where that is beyond the largest float.

    Examples
    --------
    >>> exponential(0.0), exponential(1052.0)
    (1.0, inf)
    """
    try:
        return math.exp(power)
    except OverflowError:
        return math.inf

"""Numbers as a reader wants them: three or four digits, true zeros and infinities, a word for what is undefined."""

import math
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
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    exponent = int(power)
    if -4 <= exponent < 6:
        return f"{value:,.{max(digits - 1 - exponent, 0)}f}".replace("-", "−")
    return f"{mantissa.replace('-', '−')}×10{str(exponent).translate(_SUPERSCRIPTS)}"


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

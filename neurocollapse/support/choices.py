"""Options with fixed choices: a Literal type lists them once, for annotations, checks and the command line."""

from typing import Any, get_args

from neurocollapse.support.names import did_you_mean
from neurocollapse.support.text import visible


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise unless an option is one of the values of a Literal type, or of a tuple.

    Raises
    ------
    ValueError
        With the choices there are, and the nearest one.

    Examples
    --------
    >>> from typing import Literal
    >>> check_choice("mode", "test", Literal["eval", "train"])
    Traceback (most recent call last):
    ValueError: `mode` must be one of 'eval', 'train', got 'test'
    """
    allowed = get_args(choices) or choices
    if not isinstance(value, str) or value not in allowed:
        hint = did_you_mean(value, allowed, most=1) if isinstance(value, str) else ""
        shown = visible(repr(value), most=60)
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {shown}{hint}")

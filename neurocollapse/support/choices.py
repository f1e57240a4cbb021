"""Options with fixed choices: a Literal type lists them once, for annotations, checks and the command line."""

from typing import Any, get_args


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise unless an option is one of the values of a Literal type.

    Raises
    ------
    ValueError
        With the choices there are.

    Examples
    --------
    >>> from typing import Literal
    >>> check_choice("mode", "test", Literal["eval", "train"])
    Traceback (most recent call last):
    ValueError: `mode` must be one of 'eval', 'train', got 'test'
    """
    allowed = get_args(choices)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {value!r}")

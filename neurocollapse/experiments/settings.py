"""Changes of a setting from text: "key=value" with the type that the setting's field has."""

import dataclasses
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from neurocollapse.names import did_you_mean

WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def changed(setting: Any, assignments: Iterable[str]) -> Any:
    """The setting with some fields set from "key=value" texts; tuples are separated by commas, "none" is None.

    Raises
    ------
    ValueError
        If a text is no assignment, its key no field, or its value not of the field's type.

    Examples
    --------
    >>> @dataclasses.dataclass(frozen=True)
    ... class Setting:
    ...     depth: int = 3
    ...     scales: tuple[float, ...] = (1.0,)
    >>> changed(Setting(), ["depth=4", "scales=.5,.25"])
    Setting(depth=4, scales=(0.5, 0.25))
    """
    hints = typing.get_type_hints(type(setting))
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"a setting must look like key=value, got {assignment!r}")
        key = name.strip().replace("-", "_")
        _check_field(key, hints)
        values[key] = _parsed(key, text.strip(), hints[key])
    return dataclasses.replace(setting, **values)


def replaced(setting: Any, changes: Mapping[str, Any]) -> Any:
    """The setting with some fields changed.

    Raises
    ------
    ValueError
        If the setting has no such field; the message names the nearest.
    """
    hints = typing.get_type_hints(type(setting))
    for key in changes:
        _check_field(key, hints)
    return dataclasses.replace(setting, **changes)


def _check_field(key: str, fields: Collection[str]) -> None:
    """Raise, with the nearest name, unless the setting has the field."""
    if key not in fields:
        hint = did_you_mean(key, fields, most=1, otherwise=f"it has {', '.join(fields)}")
        raise ValueError(f"there is no setting {key!r}{hint}")


def _parsed(key: str, text: str, kind: Any) -> Any:
    """A text as a value of the field's type."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kinds = [option for option in typing.get_args(kind) if option is not type(None)]
        return None if text.lower() == "none" else _parsed(key, text, kinds[0])
    if typing.get_origin(kind) is tuple:
        entry = typing.get_args(kind)[0]
        return tuple(_parsed(key, part.strip(), entry) for part in text.split(",") if part.strip())
    try:
        return WORDS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        expected = {int: "an integer", float: "a number", bool: "yes or no"}.get(kind, f"a {kind.__name__}")
        raise ValueError(f"setting {key!r} must be {expected}, got {text!r}") from error

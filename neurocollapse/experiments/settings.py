"""Settings of experiments: every value of the type that its field has, and none that no experiment can run with."""

import dataclasses
import json
import math
import os
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from neurocollapse.support.checks import shown
from neurocollapse.support.names import did_you_mean

WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
KINDS: Final[dict[Any, str]] = {int: "an integer", float: "a number", bool: "yes or no", str: "a text"}
LEAST: Final = {
    r"seed|.*epochs|.*steps": 0,  # a network before any training is a good control
    r"many_samples": 0,  # leaves that case out
    r"num_classes": 2,  # nothing lies between the means of one class
    r"num_.*|.*(size|width|depth|rank)s?|.*(every|samples|per_class)|common_hidden|hidden_layers": 1,
    r"channels|estimates|measurements|multiples|trials": 1,
}
"""Pattern of a field's name → least value of its integers; the first pattern that fits is the one that counts."""
DISTINCT: Final = (
    "activations|data|depths|estimates|fractions|hidden_layers|init_scales|inits|kinds|multiples|networks|"
    "losses|methods|projections|scales|shots|train_sizes|widths"
)
"""Pattern of the fields whose values tell networks apart, so that each may be there once."""
SWEEPS: Final = "widths|hidden_layers"
"""Pattern of the fields that may be empty, as are all that are so by default: one of two sweeps can be left out."""


def changed(setting: Any, assignments: Iterable[str]) -> Any:
    """The setting with some fields set from "key=value" texts; tuples are separated by commas, "none" is None.

    Parameters
    ----------
    setting : dataclass
        A setting of an experiment.
    assignments : iterable of str
        Such as "depth=4" or "scales=0.1,0.5".

    Raises
    ------
    ValueError
        If a text is no assignment, its key no field, or its value not of the field's type or out of its range.

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
    return replaced(setting, values)


def replaced(setting: Any, changes: Mapping[str, Any]) -> Any:
    """The setting with some fields changed; NumPy's numbers become Python's, and sequences tuples.

    Raises
    ------
    ValueError
        If the setting has no such field (the message names the nearest), or a value is not of its type or out of its
        range.
    """
    return dataclasses.replace(setting, **_checked(type(setting), changes))


def checked(setting: Any) -> Any:
    """The setting as `replaced` would have made it.

    Raises
    ------
    ValueError
        If a value is not of its field's type or out of its range.
    """
    return replaced(setting, {field.name: getattr(setting, field.name) for field in _fields(type(setting))})


def read(kind: type, text: str) -> Any:
    """A setting of some kind from JSON.

    Raises
    ------
    ValueError
        If the text is no JSON object, or has other fields or values than a setting of that kind.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"a setting must be a JSON object, got {text[:50]!r}")
    return kind(**_checked(kind, values))


def _checked(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by field, each of its type and in its range."""
    hints, fields = typing.get_type_hints(kind), {field.name: field for field in _fields(kind)}
    found = {}
    for key, value in values.items():
        _check_field(key, fields)
        found[key] = _typed(key, value, hints[key])
        _check_range(key, found[key], may_be_empty=fields[key].default == () or bool(re.fullmatch(SWEEPS, key)))
    return found


def _fields(kind: Any) -> list[dataclasses.Field[Any]]:
    """The fields that a setting is made from."""
    return [field for field in dataclasses.fields(kind) if field.init]


def _check_field(key: str, fields: Collection[str]) -> None:
    """Raise, with the nearest name, unless the setting has the field."""
    if key not in fields:
        hint = did_you_mean(key, fields, most=1, otherwise=f"it has {', '.join(fields)}")
        raise ValueError(f"there is no setting {key!r}{hint}")


def _check_range(key: str, value: Any, *, may_be_empty: bool) -> None:
    """Raise for a count that is too small, and a tuple that is empty or repeats what may be there once."""
    if isinstance(value, tuple):
        if not value and not may_be_empty:
            raise ValueError(f"`{key}` must hold at least one value")
        if re.fullmatch(DISTINCT, key) and len(set(value)) < len(value):
            raise ValueError(f"`{key}` must hold no value twice, got {value}")
    least = next((least for pattern, least in LEAST.items() if re.fullmatch(pattern, key)), -math.inf)
    for entry in value if isinstance(value, tuple) else (value,):
        if isinstance(entry, int) and entry < least:
            raise ValueError(f"`{key}` must be at least {least}, got {entry}")


def _typed(key: str, value: Any, kind: Any) -> Any:
    """A value as one of the field's type; types that no text can give are left to the experiment."""
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays, and torch's
        try:
            value = value.tolist()
        except (RuntimeError, NotImplementedError):  # sparse tensors, and those on the meta device
            raise ValueError(f"setting {key!r} must be plain numbers, got {shown(value)}") from None
    if _is_union(kind):
        options = _options(kind)
        return value if value is None or len(options) > 1 else _typed(key, value, options[0])
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"setting {key!r} must be a tuple, got {shown(value)}")
        first, *others = typing.get_args(kind)
        return tuple(_typed(key, entry, first if others == [Ellipsis] else Any) for entry in value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind in KINDS and not _is_a(value, kind):
        raise ValueError(f"setting {key!r} must be {KINDS[kind]}, got {shown(value)}")
    return value


def _parsed(key: str, text: str, kind: Any) -> Any:
    """A text as a value of the field's type."""
    if _is_union(kind):
        return None if text.lower() == "none" else _parsed(key, text, _options(kind)[0])
    if typing.get_origin(kind) is tuple:
        entry = typing.get_args(kind)[0]
        return tuple(_parsed(key, part.strip(), entry) for part in text.split(",") if part.strip())
    try:
        return WORDS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise ValueError(f"setting {key!r} must be {KINDS.get(kind) or f'a {kind.__name__}'}, got {text!r}") from error


def _is_a(value: Any, kind: type) -> bool:
    """Whether a value is of a type; True is no integer, and NaN no number."""
    is_nan = isinstance(value, float) and math.isnan(value)
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool) and not is_nan


def _is_union(kind: Any) -> bool:
    """Whether a field may have values of several types."""
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def _options(kind: Any) -> list[Any]:
    """The types of a union that are not None's."""
    return [option for option in typing.get_args(kind) if option is not type(None)]

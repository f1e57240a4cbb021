"""The parts of what a loader yields: mappings, named tuples, dataclasses, lists, packed sequences, arrays."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from neurocollapse.support.text import listed


def named_parts(value: Any) -> dict[str, Any] | None:
    """The parts of a mapping, a named tuple or a dataclass by name; None for what has no names."""
    if isinstance(value, Mapping):
        return {str(name): part for name, part in value.items()}
    if isinstance(value, PackedSequence):  # a named tuple, but one thing
        return None
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def part_of(value: Any, name: str) -> Any:
    """The part of a mapping, named tuple, dataclass or object with that name.

    Raises
    ------
    KeyError, AttributeError
        If there is none.
    """
    parts = named_parts(value)
    return getattr(value, name) if parts is None else parts[name]


def is_sequence(value: Any) -> bool:
    """Tell whether a value is a tuple or a list of parts."""
    return isinstance(value, tuple | list) and not isinstance(value, PackedSequence)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors inside a value, depth first."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)
    else:
        for part in (named_parts(value) or {}).values():
            yield from tensors_in(part)


def lengths(value: Any) -> list[int]:
    """The numbers of samples that a value may hold; none where it does not tell, as of a graph's nodes and edges."""
    if isinstance(value, Tensor | np.ndarray):
        if isinstance(value, Tensor) and value.is_nested:
            return [value.size(0)]
        return [*value.shape[:1], *(value.shape[1:2] if value.ndim > 2 else ())]  # axis 1 where sequences lead
    if isinstance(value, PackedSequence):
        return [int(value.batch_sizes[0])]
    named = named_parts(value)
    parts = list(named.values()) if named is not None else list(value) if is_sequence(value) else []
    known = [found for part in parts if (found := lengths(part))]
    shared = [size for size in known[0] if all(size in found for found in known)] if known else []
    return [*shared, len(parts)] if is_sequence(value) and alike(parts) else shared


def alike(parts: list[Any]) -> bool:
    """Tell whether parts may be samples: tensors with as many axes and of one dtype, or objects of one type."""
    kinds = {(type(part), getattr(part, "ndim", 0), getattr(part, "dtype", None)) for part in parts}
    return len(kinds) == 1


def rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """A container or object of tensors and arrays with its parts changed, of the same type; itself where none is."""
    if is_sequence(value):
        items = [change(part) for part in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    parts = value if isinstance(value, Mapping) else _attributes(value)
    changed = {key: new for key, part in parts.items() if (new := change(part)) is not part}
    if not changed:
        return value
    if isinstance(value, Mapping):
        return _mapping_with(value, changed)
    result = copy.copy(value)
    for name, part in changed.items():
        object.__setattr__(result, name, part)  # also of a frozen dataclass
    return result


def as_tensors(value: Any, dtype: Callable[[], torch.dtype | None]) -> Any:
    """A value with every array of numbers in it as a tensor, those of floating-point numbers in what `dtype` gives."""
    if isinstance(value, Tensor | PackedSequence):
        return value
    if not isinstance(value, np.ndarray):
        return rebuilt(value, partial(as_tensors, dtype=dtype))
    if value.dtype.kind not in "biufc":
        return value
    # Through a copy where need be: torch takes neither read-only nor reversed nor byte-swapped arrays.
    tensor = torch.from_numpy(np.require(value, value.dtype.newbyteorder("="), ["C", "W"]))
    return tensor.to(dtype() or tensor.dtype) if tensor.is_floating_point() else tensor


def kind_of(value: Any) -> str:
    """A few words on what a value is: its type, and of arrays and lists what and how much they hold."""
    if isinstance(value, Tensor) and value.is_nested:
        return f"nested {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    named = named_parts(value)
    if named is not None:
        return f"{type(value).__name__} of {listed(named)}"
    return f"{type(value).__name__} of {len(value)}" if is_sequence(value) else type(value).__name__


def _attributes(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, and the attributes of another object that holds tensors or arrays."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    attributes = getattr(value, "__dict__", {}) if not isinstance(value, type | nn.Module) else {}
    return attributes if any(isinstance(part, Tensor | np.ndarray) for part in attributes.values()) else {}


def _mapping_with(value: Mapping[Any, Any], changed: dict[Any, Any]) -> Any:
    """A copy of a mapping with some entries changed; a dict where its own type cannot be changed."""
    try:
        result: Any = copy.copy(value)
        for key, part in changed.items():
            result[key] = part
    except (TypeError, AttributeError):
        result = {**value, **changed}
    return result

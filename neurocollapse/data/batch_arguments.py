"""How the inputs of a batch reach the model: by name, one for each argument, or as one argument."""

import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from neurocollapse.data.batch_labels import Labels
from neurocollapse.data.batch_parts import alike, is_sequence, lengths, named_parts
from neurocollapse.data.labelled import DataError
from neurocollapse.hooks.masks import NAME as MASK
from neurocollapse.support.text import listed
from neurocollapse.support.transfer import on_cpu

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

_WHOLE_NAME = re.compile(r"batch|data|sample|example|dict|inputs", re.IGNORECASE)
"""What an argument without annotation is called where it takes a batch as one thing."""
_MAPPING_TYPE = re.compile(r"dict|mapping", re.IGNORECASE)
_TENSOR_TYPE = re.compile(r"tensor\b|list|tuple|sequence|ndarray", re.IGNORECASE)
_TYPES = "token_type_ids"


def arguments(found: Labels, model: nn.Module, num_samples: int | None) -> Arguments:
    """The positional and the named arguments of a model's forward pass for the inputs of a batch.

    What has names (a mapping, named tuple, dataclass, or object with attributes) is spread over the arguments so called
    if that fills all that the model needs. A tuple or list is spread over the arguments in order, unless the model
    takes fewer or the parts are the samples. All else, such as a packed sequence, is one argument.

    From a batch with elements beside inputs and labels, the model gets as many as it cannot run without, and a mask of
    the inputs' positions if it takes one.

    Parameters
    ----------
    found
        The inputs, and where the labels are among them.
    model
        Asked for the names of its arguments.
    num_samples
        The number of labels, if it is known.

    Raises
    ------
    DataError
        If a mapping lacks what the model takes.
    """
    if not found.others and isinstance(found.inputs, Tensor | PackedSequence):
        return (found.inputs,), {}
    forward = _Forward(model)
    args, kwargs = _arguments(found.inputs, found.name, forward, num_samples)
    if not found.others or not isinstance(found.inputs, Tensor | PackedSequence):
        return args, kwargs
    if forward.num_needed > 1:
        return (*args, *found.others[: forward.num_needed - 1]), kwargs
    return args, _masks(found, forward)


class _Forward:
    """What the forward pass of a model takes."""

    def __init__(self, model: nn.Module) -> None:
        self.model = type(model).__name__
        try:
            parameters = [*inspect.signature(model.forward).parameters.values()]
        except (TypeError, ValueError):  # compiled code does not tell
            parameters = [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)]
        kinds = [parameter.kind for parameter in parameters]
        positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        self.names = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        self.needed = [one.name for one in parameters if one.default is one.empty and one.kind not in _CATCH_ALL]
        self.num_needed = sum(one.default is one.empty for one in positional)
        self.most = math.inf if inspect.Parameter.VAR_POSITIONAL in kinds else len(positional)
        self.takes_any = inspect.Parameter.VAR_KEYWORD in kinds
        self.first = positional[0] if positional and len(self.needed) <= 1 else None
        self.takes_whole = self.first is not None and _takes_whole(self.first)

    def accepted(self, parts: dict[str, Any]) -> dict[str, Any]:
        """The parts that it takes by name, a catch-all those that are tensors; none if they are not all it needs."""
        accepted = {
            name: part
            for name, part in parts.items()
            if name in self.names or (self.takes_any and isinstance(part, Tensor))
        }
        return accepted if all(name in accepted for name in self.needed) else {}

    def is_annotated_for(self, inputs: Any) -> bool:
        """Whether its only argument that must be given is annotated with the type of the inputs."""
        if self.first is None or self.first.annotation is inspect.Parameter.empty:
            return False
        kinds = {"dict", "mapping"} if isinstance(inputs, Mapping) else {"tuple", "list", "sequence"}
        named = {type(inputs).__name__.lower()} | (kinds if isinstance(inputs, Mapping | tuple | list) else set())
        return not named.isdisjoint(re.findall(r"\w+", str(self.first.annotation).lower()))


_CATCH_ALL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _takes_whole(parameter: inspect.Parameter) -> bool:
    """Whether an argument seems to take a mapping or an object: by its annotation, else by its name."""
    if parameter.annotation is parameter.empty:
        return bool(_WHOLE_NAME.search(parameter.name))
    text = str(parameter.annotation)
    return bool(_MAPPING_TYPE.search(text)) or not _TENSOR_TYPE.search(text)


def _arguments(inputs: Any, label_name: str | None, forward: _Forward, num_samples: int | None) -> Arguments:
    """The arguments for inputs, whose part called `label_name` holds the labels."""
    if isinstance(inputs, Tensor | PackedSequence) or forward.is_annotated_for(inputs):
        return (inputs,), {}
    named = named_parts(inputs)
    if named is not None:
        parts = {name: part for name, part in named.items() if name != label_name or name in forward.needed}
        if accepted := forward.accepted(parts):
            return (), accepted
        return _without_names(inputs, parts, label_name, forward, num_samples)
    if is_sequence(inputs):
        return (tuple(inputs) if _are_arguments(inputs, forward, num_samples) else (inputs,)), {}
    if forward.takes_whole or not forward.needed:
        return (inputs,), {}
    attributes = {name: getattr(inputs, name, None) for name in forward.names if name != label_name}
    given = {
        name: part
        for name, part in attributes.items()
        if isinstance(part, Tensor) or (name in forward.needed and part is not None and not callable(part))
    }
    accepted = forward.accepted(given)
    return ((), accepted) if accepted else ((inputs,), {})


def _without_names(
    inputs: Any, parts: dict[str, Any], label_name: str | None, forward: _Forward, num_samples: int | None
) -> Arguments:
    """The arguments for named parts whose names the model does not know."""
    if forward.takes_whole:
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        raise DataError(
            f"a dict batch needs keys that {forward.model}.forward takes ({listed(forward.names, most=6)}); got the "
            f"keys {listed(parts, most=6)} beside the labels; rename them, make batches pairs, or annotate it as a dict"
        )
    values = tuple(parts.values())
    if forward.num_needed > 1:
        return values[: forward.num_needed], {}
    if label_name is None or not values:
        return (inputs,), {}
    return _arguments(values[0], None, forward, num_samples)


def _are_arguments(parts: Any, forward: _Forward, num_samples: int | None) -> bool:
    """Whether the parts of a tuple or list are one argument each, and not the samples or the parts of one thing."""
    if not parts or len(parts) > forward.most:
        return False
    if forward.num_needed > 1 or len(parts) != num_samples or not alike(parts):
        return True
    if any(num_samples in lengths(part) for part in parts):
        return True
    return len(parts) == 1 and not isinstance(parts[0], Tensor | Mapping | str)


def _masks(found: Labels, forward: _Forward) -> dict[str, Tensor]:
    """Zeros and ones for each position of the inputs, such as tokenizers make, under the names that the model knows."""
    inputs = found.inputs
    if not isinstance(inputs, Tensor) or inputs.ndim > 3:
        return {}
    of_positions = [
        other
        for other in found.others
        if isinstance(other, Tensor) and other.ndim == 2 and other.shape == inputs.shape[:2] and _is_binary(other)
    ]
    known = [name for name in forward.names[1:] if "mask" in name]
    mask = MASK if MASK in forward.names or forward.takes_any else next(iter(known), None)
    types = _TYPES if not inputs.is_floating_point() and (_TYPES in forward.names or forward.takes_any) else None
    return {name: other for name, other in zip((mask, types), of_positions, strict=False) if name}


def _is_binary(values: Tensor) -> bool:
    """Whether values are zeros and ones."""
    values = on_cpu(values)
    return bool(((values == 0) | (values == 1)).all())

"""What is in a batch: the model's arguments and the labels, whatever the loader yields."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LABEL_KEYS = ("labels", "label", "targets", "target", "y")
"""Where dict batches keep their labels, in the order in which they are looked up."""


@dataclass(frozen=True)
class Batch:
    """One batch, taken apart.

    Attributes
    ----------
    args, kwargs
        Arguments of the model's forward pass.
    labels
        As the loader, or `label_fn`, gave them.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labels: Any

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in order."""
        return [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor)]


def split_batch(batch: Any, model: nn.Module, *, label_fn: Callable[[Any], Any] | None = None) -> Batch:
    """Model arguments and labels of what a loader yields.

    A pair (or longer tuple) is inputs and labels; a mapping, as of Hugging Face loaders, is keyword arguments, of
    which those that the model's forward does not take are left out, with the labels under "labels", "label",
    "targets", "target" or "y". Inputs that are themselves a tuple or a mapping are spread over the arguments.

    Parameters
    ----------
    batch
        One element of a loader.
    model : torch.nn.Module
        Asked for the names of its arguments.
    label_fn : callable, optional
        Labels of a batch; a batch without inputs beside them is then taken as the inputs.

    Raises
    ------
    ValueError
        If no labels are found, or a dict batch holds nothing that the model takes.

    Examples
    --------
    >>> split_batch((torch.zeros(2, 3), [0, 1]), nn.Linear(3, 1)).labels
    [0, 1]
    """
    labels = label_fn(batch) if label_fn is not None else None
    if isinstance(batch, Mapping):
        key = next((name for name in LABEL_KEYS if name in batch), None)
        if label_fn is None:
            if key is None:
                raise ValueError(
                    f"a dict batch needs its labels under one of {', '.join(LABEL_KEYS)}; got the keys "
                    f"{', '.join(map(str, batch))}; pass label_fn to say where they are"
                )
            labels = batch[key]
        rest = {name: value for name, value in batch.items() if label_fn is not None or name != key}
        return Batch((), _accepted(rest, model), labels)
    if isinstance(batch, tuple | list) and (len(batch) >= 2 or label_fn is not None):
        inputs = batch[0]
        labels = batch[1] if label_fn is None else labels
    elif label_fn is not None:
        inputs = batch
    else:
        found = type(batch).__name__ + (f" of {len(batch)}" if isinstance(batch, tuple | list) else "")
        raise ValueError(f"a batch must be a pair (inputs, labels) or a dict, got a {found}; pass label_fn")
    if isinstance(inputs, Mapping):
        return Batch((), _accepted(dict(inputs), model), labels)
    return Batch(tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}, labels)


def moved(value: Any, device: torch.device) -> Any:
    """`value` with every tensor in it on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: moved(part, device) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(moved(part, device) for part in value) if type(value) in (tuple, list) else value
    return value


def _accepted(arguments: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The arguments that the model's forward takes by name; a catch-all takes what is a tensor."""
    parameters = inspect.signature(model.forward).parameters
    named = {name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}
    takes_any = len(named) < len(parameters)
    accepted = {
        name: value for name, value in arguments.items() if name in named or (takes_any and isinstance(value, Tensor))
    }
    if not accepted:
        raise ValueError(
            f"a dict batch needs keys that {type(model).__name__}.forward takes ({', '.join(named)}); got the keys "
            f"{', '.join(map(str, arguments)) or 'none'} beside the labels; rename them, or make batches pairs"
        )
    return accepted

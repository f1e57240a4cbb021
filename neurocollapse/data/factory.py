"""Data from the user's own code: "package.module:factory"."""

import importlib
import inspect
import operator
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from neurocollapse.data.labelled import DataError, Labelled, LabelledData, LabelledSamples, numbered_classes
from neurocollapse.support.text import first_line


def call_factory(spec: str, split: str, *, not_found: DataError) -> Labelled:
    """Call the function named "package.module:factory" and take what it returns as labelled data.

    The current folder is put on the import path if it is not there. The function is called with `split` if it takes
    such an argument; if not, what it returns is the train split.

    Parameters
    ----------
    spec
        The module's dotted name, a colon, the function's name.
    split
        "train" or "test".
    not_found
        What to raise if there is no such module.

    Raises
    ------
    DataError
        If there is no such function, it fails, or it returns something else.
    """
    factory = _found(spec, not_found)
    takes_split = _takes(factory, "split")
    if split != "train" and not takes_split:
        raise DataError(f"{spec} takes no `split`, so all it returns is the train split; add the argument `split`")
    try:
        result = factory(split=split) if takes_split else factory()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise DataError(f"{spec} failed: {_one_line(error)}") from error
    try:
        return _as_labelled(result, f"{spec}/{split}")
    except DataError as error:
        raise DataError(f"{spec}: {error}") from error


def _found(spec: str, not_found: DataError) -> Callable[..., Any]:
    """Import the module and return the function."""
    module_name, _, attribute = spec.partition(":")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise DataError(f"{not_found} (there is no module {error.name!r})") from error
        raise DataError(f"{module_name} cannot be imported: {_one_line(error)}") from error
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise DataError(f"{module_name} cannot be imported: {_one_line(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise DataError(f"{module_name} has no {attribute!r}; name a function of that module")
        found = getattr(found, part)
    if not callable(found):
        raise DataError(f"{spec} must be a function that returns labelled data, got a {type(found).__name__}")
    return cast(Callable[..., Any], found)


def _as_labelled(result: Any, name: str) -> Labelled:
    """Take what a factory returned as labelled data."""
    if isinstance(result, Labelled):
        return result
    if isinstance(result, DataLoader):
        raise DataError("the factory returned a DataLoader; return its dataset instead")
    if isinstance(result, Dataset) and not isinstance(result, IterableDataset):
        labels = _labels_of(result)
        return LabelledSamples(result, labels, _classes_of(result, labels), name)
    if isinstance(result, tuple | list) and len(result) == 2:
        inputs = _as_tensor(result[0]) if isinstance(result[0], np.ndarray) else result[0]
        targets = _as_tensor(result[1]) if isinstance(result[1], np.ndarray | list | tuple) else result[1]
        if isinstance(inputs, Tensor) and isinstance(targets, Tensor):
            inputs = inputs.to(torch.float32) if inputs.is_floating_point() else inputs
            return LabelledData(inputs, targets, _classes_of(None, targets), name)
    raise DataError(
        "the factory must return a LabelledData, a map-style torch Dataset of (input, label) pairs, or a pair of "
        f"tensors (inputs, labels) of numbers, got a {type(result).__name__}"
    )


def _labels_of(dataset: Any) -> Tensor:
    """Return a dataset's labels: its `targets` or `labels` if these are integers, else by reading every sample once."""
    for attribute in ("targets", "labels"):
        labels = _as_tensor(getattr(dataset, attribute, None))
        if labels is not None and labels.shape == (len(dataset),) and not labels.is_floating_point():
            return labels
    return torch.tensor(
        [_label_of(dataset[index], index) for index in range(len(dataset))], dtype=torch.int64, device="cpu"
    )


def _as_tensor(values: Any) -> Tensor | None:
    """Return an array or a list of numbers as a tensor, and None for what is neither, such as strings."""
    try:
        return values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        return None


def _label_of(sample: Any, index: int) -> int:
    """Return the label of an (input, label) pair, or of a mapping with "labels" or "label"."""
    if isinstance(sample, Mapping):
        label = next((sample[key] for key in ("labels", "label") if key in sample), None)
    else:
        label = sample[1] if isinstance(sample, tuple | list) and len(sample) == 2 else None
    try:
        return operator.index(label)  # type: ignore[arg-type]  # None is what the except clause is for
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"the dataset must hold (input, integer label) pairs, sample {index} is not one") from error


def _classes_of(dataset: Any, labels: Tensor) -> tuple[str, ...]:
    """Return the dataset's own class names if they suffice for its labels, else numbers."""
    numbered = numbered_classes(labels) if isinstance(labels, Tensor) and not labels.is_floating_point() else ()
    own = getattr(dataset, "classes", None)
    if isinstance(own, list | tuple) and len(own) >= len(numbered):
        return tuple(map(str, own))
    return numbered


def _takes(function: Callable[..., Any], argument: str) -> bool:
    """Tell whether a function can be called with a keyword argument of that name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(parameter.name == argument or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _one_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    return type(error).__name__ + (f": {first_line(error)}" if str(error) else "")

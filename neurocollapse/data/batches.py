"""What is in a batch: the model's arguments and the labels, whatever the loader yields."""

import copy
import numbers
from collections.abc import Callable, Sized
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from neurocollapse.data.batch_arguments import arguments
from neurocollapse.data.batch_labels import Labels, find_labels
from neurocollapse.data.batch_parts import (
    as_tensors,
    is_sequence,
    kind_of,
    lengths,
    named_parts,
    part_of,
    rebuilt,
    tensors_in,
)
from neurocollapse.data.labelled import DataError
from neurocollapse.data.labels import part_of_labels
from neurocollapse.support.checks import shown


@dataclass(frozen=True)
class Batch:
    """One batch, taken apart.

    Attributes
    ----------
    args, kwargs
        Arguments of the model's forward pass; NumPy arrays have become tensors.
    labels
        As the loader, or `label_fn`, gave them.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labels: Any

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, those inside tuples, lists and mappings too, in order."""
        return list(tensors_in((self.args, self.kwargs)))

    @property
    def lengths(self) -> list[int]:
        """The numbers of samples that the arguments may hold; none where only the labels tell, as for graphs."""
        if len(self.args) == 1 and not self.kwargs:
            return lengths(self.args[0])
        return lengths(dict(enumerate((*self.args, *self.kwargs.values()))))


@dataclass(frozen=True)
class Unlabelled:
    """Takes the place of `label_fn` for data whose labels are not looked at, and may be missing: all are of class 0.

    Attributes
    ----------
    withheld : str
        Part of a mapping that is not for the model.
    """

    withheld: str = ""

    def __call__(self, batch: Any) -> Labels:
        """The inputs of a batch, and a zero for each sample.

        Raises
        ------
        DataError
            If it is not clear how many samples there are.
        """
        found = self._found(batch)
        sizes = lengths(dict(enumerate((found.inputs, *found.others))))
        if isinstance(found.values, Sized) and _has_axis(found.values):
            sizes = [len(found.values)]
        if not sizes:
            raise DataError(f"a {kind_of(batch)} does not tell how many samples it holds; pass pairs (inputs, labels)")
        return found._replace(values=torch.zeros(sizes[0], dtype=torch.int64, device="cpu"))

    def _found(self, batch: Any) -> Labels:
        """The labels of a batch, None where there are none, and what else is in it."""
        has_parts = is_sequence(batch) and named_parts(batch) is None and len(batch) > 0
        if self.withheld:
            return Labels(None, batch[0] if has_parts else batch, name=self.withheld)
        try:
            return find_labels(batch)
        except DataError:  # it has none, or it is not clear which they are
            return Labels(None, batch[0], others=tuple(batch[1:])) if has_parts else Labels(None, batch)


def split_batch(batch: Any, model: nn.Module, *, label_fn: Callable[[Any], Any] | None = None) -> Batch:
    """Model arguments and labels of what a loader yields.

    Labels are known by name (labels, label, targets, target, y) in a mapping, named tuple, dataclass or object with
    attributes, and by position in a pair (inputs, labels). Of a longer tuple they are the only element after the first
    that can be labels; where there are two, the batch is refused. The rest goes to the model by name where its forward
    pass takes those names: see `neurocollapse.data.batch_arguments.arguments`.

    Parameters
    ----------
    batch
        One element of a loader.
    model : torch.nn.Module
        Asked for the names of its arguments.
    label_fn : callable, optional
        Labels of a batch. The first element of a tuple is then its inputs; any other batch is taken as the inputs.

    Raises
    ------
    DataError
        If it is not clear which part holds the labels, they are a single number or nested, or a dict batch holds
        nothing that the model takes.

    Examples
    --------
    >>> split_batch((torch.zeros(2, 3), [0, 1]), nn.Linear(3, 1)).labels
    [0, 1]
    """
    if label_fn is None and _is_pair_of_tensors(batch):
        return Batch((batch[0],), {}, batch[1])  # as all that follows would find
    plain = as_tensors(batch, partial(_float_type, model))
    if isinstance(label_fn, Unlabelled):
        found = label_fn(plain)
        return Batch(*arguments(found, model, len(found.values)), found.values)
    given = None if label_fn is None else label_fn(batch)
    if callable(given):
        raise DataError("`label_fn` gives a function where labels are wanted; call it first: nc.labels.next_token()")
    if label_fn is None:
        found = find_labels(plain)
    elif is_sequence(plain) and named_parts(plain) is None:
        found = Labels(given, plain[0] if plain else plain, others=tuple(plain[1:]) if len(plain) > 2 else ())
    else:
        found = Labels(given, plain, name=_withheld(label_fn, model))
    if not _has_axis(found.values):
        raise DataError(
            f"the labels of a batch are the single number {shown(found.values)}, not one for each sample; where a "
            "dataset is read sample by sample, wrap it in a torch.utils.data.DataLoader"
        )
    if isinstance(found.values, Tensor) and found.values.is_nested:
        raise DataError("the labels of a batch are a nested tensor, not one for each sample; join them with torch.cat")
    num_samples = len(found.values) if isinstance(found.values, Sized) else None
    return Batch(*arguments(found, model, num_samples), found.values)


def part_called(name: str, batch: Any) -> Any:
    """The part of a batch that has this name: of a mapping, named tuple, dataclass or object; None where none has."""
    within = tuple(batch) if isinstance(batch, tuple | list) else ()
    for part in within if type(batch) in (tuple, list) else (batch, *within):
        if not isinstance(part, Tensor):
            with suppress(KeyError, AttributeError):
                return part_of(part, name)
    return None


def moved(value: Any, device: torch.device) -> Any:
    """`value` with every tensor in it on `device`: in containers, which keep their type, and in what has `.to`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if callable(getattr(value, "to", None)) and not isinstance(value, type):
        own: Any = value if isinstance(value, PackedSequence) else copy.copy(value)
        return own.to(device)  # through a copy, as batches of graphs and of tokens move themselves in place
    return rebuilt(value, partial(moved, device=device))


def _withheld(label_fn: Callable[[Any], Any], model: nn.Module) -> str:
    """The part of a batch that is for `label_fn` alone: models with a decoder may make its input of the labels."""
    has_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return "" if has_decoder else part_of_labels(label_fn) or ""


def _is_pair_of_tensors(batch: Any) -> bool:
    """Whether a batch is what most loaders yield: inputs and labels, each one tensor, that of the labels no number."""
    if type(batch) not in (tuple, list) or len(batch) != 2:
        return False
    inputs, labels = batch
    return isinstance(inputs, Tensor) and isinstance(labels, Tensor) and labels.dim() > 0 and not labels.is_nested


def _float_type(model: nn.Module) -> torch.dtype | None:
    """The floating-point type in which the model computes: that of its first such parameter."""
    return next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), None)


def _has_axis(values: Any) -> bool:
    """Whether values are no single number."""
    return getattr(values, "ndim", 1) > 0 and not isinstance(values, numbers.Number)

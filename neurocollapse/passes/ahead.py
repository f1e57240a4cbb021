"""Labels and masks that are on a device already: their copies set off a batch before they are needed.

A device works in order, so that a copy asked for behind a forward pass waits until that is through, and the device then
waits for the next. So the next batch is taken before this one runs: its copies are ahead of this forward pass.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from neurocollapse.data.batch_copies import copy_of, is_plain
from neurocollapse.data.batch_labels import LABEL_NAMES
from neurocollapse.data.batch_parts import is_sequence, named_parts, tensors_in
from neurocollapse.data.batches import Unlabelled
from neurocollapse.data.labels import looks_at_parts, part_of_labels
from neurocollapse.hooks.masks import NAMES as MASK_NAMES
from neurocollapse.passes.digest import sample_of
from neurocollapse.passes.options import PassOptions
from neurocollapse.support.transfer import copy_ahead, forget_copies

MOST_AXES = 3
"""Axes of labels and masks at most: samples, and rows and columns of a map."""
_END = object()


class Foreseen:
    """Takes the place of a function of a batch that is asked when the batch is taken: gives its answer when called.

    Parameters
    ----------
    function : callable
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self._answers: list[tuple[Any, Any]] = []

    def keep(self, batch: Any, answer: Any) -> None:
        """Give this answer, once, when called with the batch."""
        self._answers.append((batch, answer))

    def __call__(self, batch: Any) -> Any:
        """The answer that was kept for a batch."""
        place = [asked is batch for asked, _ in self._answers].index(True)
        return self._answers.pop(place)[1]


class ReadAhead:
    """The batches of a loader, each handed over when the copies of what may be its labels and masks are on their way.

    Where batches stay as they are when another is taken, they are handed over themselves: in lists, and where torch's
    own function makes every batch a new one. Other loaders may use the same memory for each; then a copy is handed
    over, or, where there is something in a batch that cannot be copied, nothing is taken ahead.

    Parameters
    ----------
    loader
        Where the batches come from.
    options : PassOptions
    digests : bool
        Whether a sample of the numbers in all inputs will be read, too.

    Attributes
    ----------
    options : PassOptions
        Those with which to go through the batches: their functions give what was found when a batch was taken.
    """

    def __init__(self, loader: Any, options: PassOptions, *, digests: bool) -> None:
        self._keeps_batches = _keeps_batches(loader)
        self._digests = digests
        told = options.mask or None, part_of_labels(options.label_fn)
        self._names = {*LABEL_NAMES, *MASK_NAMES, *filter(None, told)}
        self._foreseen = {name: Foreseen(function) for name, function in _computing(options).items()}
        label_fn = self._foreseen.get("label_fn", options.label_fn)
        self.options = replace(options, label_fn=label_fn, mask_fn=self._foreseen.get("mask_fn", options.mask_fn))

    def over(self, batches: Iterable[Any]) -> Generator[Any, None, None]:
        """Go through the batches of the loader."""
        held: list[_Taken] = []
        failure = None
        iterator = iter(batches)
        try:
            while True:
                try:
                    batch = next(iterator, _END)
                    if batch is _END:
                        break
                    held.append(self._taken(batch))
                    del batch  # held may be a copy
                except BaseException as error:  # raised when what was taken before has had its turn
                    failure = error
                    break
                while len(held) > 1 or (held and not held[0].may_wait):
                    yield from _first_of(held)
            while held:
                yield from _first_of(held)
            if failure is not None:
                raise failure
        finally:
            del failure  # which holds this frame
            for one in held:
                forget_copies(one.tensors)

    def _taken(self, batch: Any) -> "_Taken":
        """A batch, and what its functions make of it; the copies have set off, if there is anything to copy."""
        found = {name: foreseen.function(batch) for name, foreseen in self._foreseen.items()}
        kept = self._kept(batch, found) if self._is_waited_for(batch, found) else None
        batch, found = kept or (batch, found)
        tensors = self._set_off(batch, found) if kept else []
        for name, foreseen in self._foreseen.items():
            foreseen.keep(batch, found[name])
        return _Taken(batch, tensors)

    def _is_waited_for(self, batch: Any, found: dict[str, Any]) -> bool:
        """Whether something on a device will be looked at on the CPU."""
        looked_at = [tensors_in(batch)] if self._digests else []
        return any(map(_is_on_device, chain(*looked_at, tensors_in(found), self._read_of(batch))))

    def _kept(self, batch: Any, found: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """A batch and the answers about it, to be used when the next has been taken; None where that cannot be."""
        with suppress(Exception):  # a container of someone else's may raise anything, and memory may end
            return batch if self._keeps_batches else copy_of(batch), copy_of(found)
        return None

    def _set_off(self, batch: Any, found: dict[str, Any]) -> list[Tensor]:
        """Send copies to the CPU; returns the tensors of which there are any."""
        read = [*self._read_of(batch), *filter(_is_on_device, tensors_in(found))]
        known = list(filter(_is_on_device, tensors_in(batch))) if self._digests else []
        try:
            copy_ahead(read)
            copy_ahead(known, sample_of)
        except BaseException:
            forget_copies(read + known)
            raise
        return read + known

    def _read_of(self, batch: Any) -> Iterator[Tensor]:
        """The tensors of a batch that are on a device and may be labels, masks or tokens.

        These are integers, and what has a name of labels or masks, also of an object; behind the inputs of a tuple also
        other numbers, which may be one-hot rows.
        """
        parts = list(batch) if is_sequence(batch) else [batch]
        for index, part in enumerate(parts):
            parts_by_name = named_parts(part)
            if parts_by_name is None and not isinstance(part, Tensor | np.ndarray | tuple | list | str):
                parts_by_name = {name: getattr(part, name, None) for name in self._names}
            named = {id(value): name for name, value in (parts_by_name or {}).items()}
            for tensor in filter(_is_on_device, tensors_in(part if parts_by_name is None else parts_by_name)):
                may_be_one_hot = index > 0 and tensor.dim() <= 2
                may_be_read = not tensor.is_floating_point() and tensor.dim() <= MOST_AXES
                if may_be_one_hot or may_be_read or named.get(id(tensor)) in self._names:
                    yield tensor


class _Taken(NamedTuple):
    """A batch that was taken, and its tensors on a device of which copies are under way."""

    batch: Any
    tensors: list[Tensor]

    @property
    def may_wait(self) -> bool:
        """Whether the next batch may be taken before this one runs."""
        return bool(self.tensors)


def _first_of(held: list[_Taken]) -> Iterator[Any]:
    """Hand over one batch, whose copies are let go when the next is asked for, but for those that this one needs."""
    try:
        yield held[0].batch
    finally:
        tensors = held.pop(0).tensors
        needed = {id(tensor) for one in held for tensor in one.tensors}
        forget_copies(tensor for tensor in tensors if id(tensor) not in needed)


def is_at_rest(loader: Any, options: PassOptions) -> bool:
    """Whether taking a batch runs no code but ours, so that no random numbers are drawn for it.

    A resume file has the random state behind a batch, which must not depend on whether the next one was taken.
    """
    return type(loader) in (list, tuple) and not _computing(options)


def _computing(options: PassOptions) -> dict[str, Callable[[Any], Any]]:
    """The functions of a batch, but for those that look at its parts on the CPU, when the copies of these are there."""
    functions = {"label_fn": options.label_fn, "mask_fn": options.mask_fn}
    return {
        name: function
        for name, function in functions.items()
        if not (function is None or isinstance(function, Unlabelled) or looks_at_parts(function))
    }


def _keeps_batches(loader: Any) -> bool:
    """Whether a batch is the same after the next has been taken."""
    if isinstance(loader, DataLoader):
        own = type(loader).__iter__, type(loader)._get_iterator
        return loader.collate_fn is default_collate and own == (DataLoader.__iter__, DataLoader._get_iterator)
    return type(loader) in (list, tuple)


def _is_on_device(tensor: Tensor) -> bool:
    """Whether a tensor is on a device, in one piece."""
    return is_plain(tensor) and tensor.device.type != "cpu"

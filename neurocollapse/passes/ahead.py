"""Labels and masks that are on a device already: their copies set off a batch before they are needed."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from neurocollapse.data.batch_parts import is_sequence, tensors_in
from neurocollapse.passes.digest import sample_of
from neurocollapse.support.transfer import copy_ahead, forget_copies

MOST_AXES = 3
"""Axes of labels and masks at most: samples, and rows and columns of a map."""


def read_ahead(batches: Iterable[Any], loader: Any, *, digests: bool) -> Iterator[Any]:
    """The batches of a loader, each handed over when the copies of what may be its labels and masks are on their way.

    A device works in order, so that a copy asked for behind a forward pass waits until that is through, and the device
    then waits for the next. Where the next batch is taken before this one runs, its copies are ahead of this forward
    pass. That is done where batches stay as they are when another is taken: in lists, and where torch's own function
    makes every batch a new one. Other loaders may use the same memory for each.

    Parameters
    ----------
    batches : iterable of batches
        What to go through, in the order of the loader.
    loader
        Where they come from.
    digests : bool
        Whether a sample of the numbers in all inputs will be read, too.
    """
    if not _keeps_batches(loader):
        yield from batches
        return
    held: list[tuple[Any, list[Tensor]]] = []
    for batch in batches:
        tensors = list(filter(_is_plain, tensors_in(batch)))
        copy_ahead(_read_of(batch))
        copy_ahead(tensors if digests else (), sample_of)
        held.append((batch, tensors))
        while len(held) > 1 or (held and not held[0][1]):
            yield from _handed_over(*held.pop(0))
    for one in held:
        yield from _handed_over(*one)


def _handed_over(batch: Any, tensors: list[Tensor]) -> Iterator[Any]:
    """One batch, whose copies are let go when the next is asked for."""
    try:
        yield batch
    finally:
        forget_copies(tensors)


def _keeps_batches(loader: Any) -> bool:
    """Whether a batch is the same after the next has been taken."""
    return isinstance(loader, list | tuple) or (isinstance(loader, DataLoader) and loader.collate_fn is default_collate)


def _read_of(batch: Any) -> Iterator[Tensor]:
    """The tensors of a batch that are not on the CPU and may be labels, masks or tokens.

    These are integers; behind the inputs of a tuple also other numbers, which may be one-hot rows.
    """
    parts = list(batch) if is_sequence(batch) else [batch]
    for index, part in enumerate(parts):
        for tensor in tensors_in(part):
            may_be_one_hot = index > 0 and tensor.dim() <= 2
            may_be_read = may_be_one_hot or (not tensor.is_floating_point() and tensor.dim() <= MOST_AXES)
            if may_be_read and _is_plain(tensor):
                yield tensor


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is on a device, in one piece."""
    is_whole = type(tensor) is Tensor and tensor.layout == torch.strided and not tensor.is_nested
    return is_whole and tensor.device.type != "cpu"

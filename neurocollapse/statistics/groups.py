"""The rows of a batch class by class: counted and sorted once for all layers."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from neurocollapse.statistics import extension


class Groups:
    """The rows of a batch class by class, in one piece of memory: each part of it is cut out when it is asked for.

    Parameters
    ----------
    memory : Tensor of int64
        One after the other: `counts`, `order`, `present` and `starts`.
    num_classes, num_rows, num_present : int
        The sizes of these parts.
    largest : int
        Rows of the class that has most.
    """

    def __init__(self, memory: Tensor, num_classes: int, num_rows: int, num_present: int, largest: int) -> None:
        self.largest = largest
        self._memory, self._sizes = memory, (num_classes, num_rows, num_present, num_present + 1)

    @cached_property
    def counts(self) -> Tensor:
        """Rows of each class, shape (classes,)."""
        return self._part(0)

    @cached_property
    def order(self) -> Tensor:
        """The rows class by class, in their own order within a class, shape (rows,)."""
        return self._part(1)

    @cached_property
    def present(self) -> Tensor:
        """The classes that occur in ascending order, shape (present,)."""
        return self._part(2)

    @cached_property
    def starts(self) -> Tensor:
        """Where each class in `present` begins in `order`, and where the last ends, shape (present + 1,)."""
        return self._part(3)

    @cached_property
    def places(self) -> tuple[int, int, int, int]:
        """The number of classes that occur, and the addresses of `present`, `starts` and `order`."""
        first, size = self._memory.data_ptr(), self._memory.element_size()
        order, present, starts = (first + size * sum(self._sizes[:part]) for part in (1, 2, 3))
        return self._sizes[2], present, starts, order

    def __getstate__(self) -> dict[str, Any]:
        """All but `places`: a copy lies elsewhere."""
        return {name: value for name, value in self.__dict__.items() if name != "places"}

    def _part(self, index: int) -> Tensor:
        return self._memory.narrow(0, sum(self._sizes[:index]), self._sizes[index])


def grouped(labels: Tensor, num_classes: int) -> Groups:
    """Count and sort the rows of a batch.

    Parameters
    ----------
    labels : Tensor of shape (rows,), int64, on the CPU
    num_classes : int

    Raises
    ------
    ValueError
        If a label is none of the classes.

    Examples
    --------
    >>> groups = grouped(torch.tensor([2, 0, 2]), 4)
    >>> groups.counts.tolist(), groups.present.tolist(), groups.starts.tolist(), groups.order.tolist()
    ([1, 0, 2, 0], [0, 2], [0, 1, 3], [1, 0, 2])
    """
    make = extension.built(_compiled, _of_torch)  # the same to the last bit
    memory, num_present, largest = make(labels.contiguous(), num_classes)
    if largest < 0:
        raise ValueError("labels of a batch lie outside the classes")
    return Groups(memory, num_classes, labels.shape[0], num_present, largest)


def _compiled(labels: Tensor, num_classes: int) -> tuple[Tensor, int, int]:
    """Memory, classes that occur and the largest count; a negative one where a label is none of the classes."""
    num_rows = labels.shape[0]
    memory = labels.new_empty(num_classes + num_rows + 2 * min(num_classes, num_rows) + 1)
    found: tuple[int, int] = extension.group_rows(num_rows, num_classes, labels.data_ptr(), memory.data_ptr())
    return memory, *found


def _of_torch(labels: Tensor, num_classes: int) -> tuple[Tensor, int, int]:
    """The same by torch's operations."""
    if bool((labels < 0).any()) or bool((labels >= num_classes).any()):
        return labels, 0, -1
    counts = torch.bincount(labels, minlength=num_classes)
    present = counts.nonzero().flatten()
    ends = counts[present].cumsum(0)
    memory = torch.cat([counts, labels.argsort(stable=True), present, ends.new_zeros(1), ends])
    return memory, len(present), int(counts.max()) if len(labels) else 0

"""The labels of one batch, sorted and counted once for all layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurocollapse.statistics.groups import Groups, grouped
from neurocollapse.support.transfer import sent

MOST_ABSENT = 8
"""Absent classes for each present one of a batch, above which sums by class leave the absent ones out."""


class Bags(NamedTuple):
    """The rows of a batch class by class, on a device. A bag is some rows of one class, one after the other.

    Attributes
    ----------
    order : Tensor of shape (samples,), int64
        The rows, bag by bag.
    starts : Tensor of shape (bags + 1,), int64
        Where each bag begins in `order`, and where the last ends.
    classes : Tensor of shape (present,), int64, or None
        The classes that have bags; None for all.
    per_class : int
        Bags of each class, of which some may be empty.
    """

    order: Tensor
    starts: Tensor
    classes: Tensor | None = None
    per_class: int = 1


class Run(NamedTuple):
    """Rows of a batch with few of each class, and the classes that they have."""

    rows: slice
    classes: Tensor


@dataclass(frozen=True, eq=False)
class ClassBatch:
    """The labels of one batch, and what the layers share of them: counted once, used by every layer.

    Attributes
    ----------
    labels : Tensor of shape (samples,), int64, on the CPU
    num_classes : int
    source : Tensor of shape (rows,), int64, or None
        Which sample of the batch each row belongs to, where that is not its own.
    counted : Tensor of shape (samples, *positions), bool, or None
        Which labels of the loader's batch these are, one after the other, where some do not count or a sample has
        several.
    number : int
        Batches of the loader before this one.
    """

    labels: Tensor
    num_classes: int
    source: Tensor | None = None
    counted: Tensor | None = None
    number: int = 0

    @cached_property
    def groups(self) -> Groups:
        """The rows class by class."""
        return grouped(self.labels, self.num_classes)

    @cached_property
    def counts(self) -> Tensor:
        """Samples per class, shape (classes,), on the CPU."""
        return self.groups.counts

    @cached_property
    def largest(self) -> int:
        """Samples of the class that has most."""
        return self.groups.largest

    @property
    def present(self) -> Tensor:
        """The classes of this batch in ascending order."""
        return self.groups.present

    @property
    def order(self) -> Tensor:
        """The rows class by class, in their own order within a class, shape (samples,)."""
        return self.groups.order

    @property
    def starts(self) -> Tensor:
        """Where each class in `present` begins in `order`, and where the last ends, shape (present + 1,)."""
        return self.groups.starts

    @cached_property
    def first_rows(self) -> Tensor:
        """The first three rows of each class in `present`, shape (present, 3); the first thrice where it has fewer."""
        steps = torch.arange(3, device=self.starts.device) * (self.starts.diff() >= 3).unsqueeze(1)
        return self.order[self.starts[:-1].unsqueeze(1) + steps]

    def parts(self, max_rows: int) -> "list[tuple[slice, ClassBatch]]":
        """Consecutive rows as batches of their own.

        Parameters
        ----------
        max_rows : int
            Most rows of a part.
        """
        if max_rows not in self._parts:
            rows = [slice(start, start + max_rows) for start in range(0, len(self.labels), max_rows)]
            self._parts[max_rows] = [(part, ClassBatch(self.labels[part], self.num_classes)) for part in rows]
        return self._parts[max_rows]

    @cached_property
    def _parts(self) -> "dict[int, list[tuple[slice, ClassBatch]]]":
        return {}

    def runs(self, max_count: int) -> list[Run]:
        """Consecutive rows, halved until no class has too many of them.

        Parameters
        ----------
        max_count : int
            Most rows of a class in a run.
        """
        if max_count not in self._runs:
            self._runs[max_count] = list(self._halved(slice(0, len(self.labels)), max_count))
        return self._runs[max_count]

    @cached_property
    def _runs(self) -> dict[int, list[Run]]:
        return {}

    def _halved(self, rows: slice, max_count: int) -> Iterator[Run]:
        """The rows, or their halves."""
        whole = rows.stop - rows.start == len(self.labels)
        counts = self.counts if whole else torch.bincount(self.labels[rows], minlength=self.num_classes)
        if len(self.labels) and int(counts.max()) > max_count:
            middle = (rows.start + rows.stop) // 2
            yield from self._halved(slice(rows.start, middle), max_count)
            yield from self._halved(slice(middle, rows.stop), max_count)
        else:
            yield Run(rows, counts.nonzero().flatten())

    @cached_property
    def steps(self) -> dict[Any, Any]:
        """What the batch has made of each ledger that came with it."""
        return {}

    def on(self, device: torch.device) -> Tensor:
        """The labels on a device, copied there once.

        Parameters
        ----------
        device : torch.device
            Where the labels are needed.
        """
        return self.sent(self.labels, device)

    def sent(self, tensor: Tensor, device: torch.device) -> Tensor:
        """A tensor on a device, copied there once, and without waiting for it.

        Parameters
        ----------
        tensor : Tensor
            On the CPU, shared by the layers.
        device : torch.device
            Where it is needed.
        """
        key = id(tensor), device
        if key not in self._sent:
            self._sent[key] = tensor, sent(tensor, device)
        return self._sent[key][1]

    @cached_property
    def _sent(self) -> "dict[tuple[int, torch.device], tuple[Tensor, Tensor]]":
        return {}  # with the tensors themselves, so that no other gets the number of one of them

    def bags(self, device: torch.device, most: int) -> Bags:
        """The rows of a device class by class, in bags of limited size; made once for all layers.

        Parameters
        ----------
        device : torch.device
            Where the rows are.
        most : int
            Most rows of a bag; more where there would be more bags than rows.
        """
        if (device, most) not in self._bags:
            order, starts, classes, per_class = self._bags_of(most)
            classes = None if classes is None else self.sent(classes, device)
            self._bags[device, most] = Bags(self.sent(order, device), self.sent(starts, device), classes, per_class)
        return self._bags[device, most]

    @cached_property
    def _bags(self) -> "dict[tuple[torch.device, int], Bags]":
        return {}

    def _bags_of(self, most: int) -> Bags:
        """The same on the CPU."""
        present = self.present if (MOST_ABSENT + 1) * len(self.present) < self.num_classes else None
        counts = self.counts if present is None else self.counts[present]
        starts = _starts(counts)
        if self.largest <= most:
            return Bags(self.order, starts, present)
        per_class = max(1, min(-(-self.largest // most), len(self.labels) // len(counts)))
        steps = -(-self.largest // per_class) * torch.arange(per_class, device="cpu")
        begins = torch.minimum(starts[:-1].unsqueeze(1) + steps, starts[1:].unsqueeze(1))
        return Bags(self.order, torch.cat([begins.flatten(), starts[-1:]]), present, per_class)

    @cached_property
    def _repeats(self) -> "dict[int, ClassBatch]":
        return {1: self}

    def repeated(self, positions: int) -> "ClassBatch":
        """The labels of a batch in which every sample stands for several consecutive rows.

        Parameters
        ----------
        positions : int
            Rows per sample.
        """
        if positions not in self._repeats:
            self._repeats[positions] = self._spread(torch.full_like(self.labels, positions))
        return self._repeats[positions]

    def kept(self, mask: Tensor) -> "ClassBatch":
        """The labels of the rows that a mask keeps.

        Parameters
        ----------
        mask : bool Tensor of shape (samples, positions, …)
            Which rows are kept, sample after sample. It may have more samples than the batch; only the first ones
            count.
        """
        if id(mask) not in self._kept:
            self._kept[id(mask)] = mask, self._spread(mask[: len(self.labels)].flatten(1).sum(dim=1))
        return self._kept[id(mask)][1]

    @cached_property
    def _kept(self) -> "dict[int, tuple[Tensor, ClassBatch]]":
        return {}

    @cached_property
    def samples(self) -> Tensor:
        """Which sample of the batch each row belongs to, shape (rows,), int64."""
        return torch.arange(len(self.labels), device="cpu") if self.source is None else self.source

    def sample(self, label: int) -> int:
        """Which sample of the loader's batch a label is of.

        Parameters
        ----------
        label : int
            Its place in `labels`.
        """
        return label if self.counted is None else int(self.counted.nonzero()[label, 0])

    def _spread(self, counts: Tensor) -> "ClassBatch":
        """The labels of so many consecutive rows of each sample."""
        source = self.samples.repeat_interleave(counts)
        return ClassBatch(self.labels.repeat_interleave(counts), self.num_classes, source)


def _starts(counts: Tensor) -> Tensor:
    """Where parts of these sizes begin that follow each other, and where the last ends."""
    ends = counts.cumsum(0)
    return torch.cat([ends.new_zeros(1), ends])

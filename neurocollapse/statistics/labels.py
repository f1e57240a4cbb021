"""Class labels, checked once at the edge and counted once per batch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neurocollapse.support.transfer import on_cpu, sent


class LabelError(ValueError):
    """Labels that cannot be read as one class index per sample."""


def check_labels(labels: Any, *, num_samples: int | None = None, num_classes: int | None = None) -> Tensor:
    """Check labels and return the class index of each sample, int64, shape (samples,), on the CPU.

    Parameters
    ----------
    labels : array-like
        Class indices of shape (samples,), of any integer type or device, or one-hot rows of shape (samples, classes).
    num_samples : int, optional
        The number of samples that the labels must match.
    num_classes : int, optional
        Labels must lie in [0, num_classes).

    Raises
    ------
    LabelError
        If labels are floats that are not one-hot, negative, out of range, or of the wrong length.

    Examples
    --------
    >>> check_labels([2, 0], num_classes=3)
    tensor([2, 0])
    >>> check_labels([[0.0, 1.0], [1.0, 0.0]])
    tensor([1, 0])
    """
    values = _as_tensor(labels)
    if values.ndim == 2:
        values = _from_one_hot(values, num_classes)
    elif values.ndim != 1:
        raise LabelError(f"`labels` must have shape (samples,) or (samples, classes), got {tuple(values.shape)}")
    if (values.is_floating_point() or values.is_complex()) and values.numel():  # an empty list has no integers
        raise LabelError(
            f"`labels` must hold integers, got {values.dtype}; pass labels.long() if they are class indices"
        )
    values = values.long()
    if num_samples is not None and values.numel() != num_samples:
        raise LabelError(
            f"`labels` must have one entry per sample: got {values.numel()} labels for {num_samples} samples; "
            "check the loader, or pass label_fn to say where the labels are"
        )
    _check_range(values, num_classes)
    return values


def one_hot_columns(labels: Any) -> int:
    """Number of classes that one-hot labels have columns for, absent ones included; 0 for class indices.

    Parameters
    ----------
    labels : Tensor, array or list
        Class indices (samples,), or one-hot rows (samples, classes).

    Examples
    --------
    >>> one_hot_columns([[1, 0, 0], [0, 1, 0]]), one_hot_columns([0, 1])
    (3, 0)
    """
    shape = np.shape(labels)
    return int(shape[1]) if len(shape) == 2 else 0


def _as_tensor(labels: Any) -> Tensor:
    """`labels` as a CPU tensor, or a LabelError that says what came instead."""
    if isinstance(labels, Tensor):
        try:
            return on_cpu(labels).detach().to_dense()
        except NotImplementedError:
            raise LabelError(
                "`labels` are on the meta device, which keeps no numbers; pass labels that have some"
            ) from None
    try:  # through numpy: torch does not take read-only or reversed arrays
        return torch.as_tensor(np.require(labels, requirements=["C_CONTIGUOUS", "WRITEABLE"]), device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise LabelError(
            f"`labels` must be an array of integers, got {type(labels).__name__}; encode class names as 0, 1, 2, …"
        ) from error


def _from_one_hot(values: Tensor, num_classes: int | None) -> Tensor:
    """Class indices of one-hot rows; a single column is an error because it could mean either."""
    ones = values == 1
    is_one_hot = ((values == 0) | ones).all() and bool((ones.sum(dim=1) == 1).all())
    if values.shape[1] < 2 or not is_one_hot:
        raise LabelError(
            f"`labels` of shape {tuple(values.shape)} are not one-hot (one 1 in each row, at least two columns); "
            'pass class indices of shape (samples,), or pool="tokens" where each position has a label of its own'
        )
    if num_classes is not None and values.shape[1] != num_classes:
        raise LabelError(f"one-hot `labels` have {values.shape[1]} columns, but num_classes is {num_classes}")
    return ones.long().argmax(dim=1)  # neither bool nor uint16 has an argmax


def _check_range(values: Tensor, num_classes: int | None) -> None:
    """Raise for the first label outside [0, num_classes)."""
    upper = math.inf if num_classes is None else min(num_classes, torch.iinfo(torch.int64).max)
    outside = (values < 0) | (values >= upper)
    if not bool(outside.any()):
        return
    position = int(outside.nonzero()[0])
    found = int(values[position])
    interval = f"integers in [0, {num_classes})" if num_classes is not None else "non-negative integers"
    remedy = (
        "leave such samples out, or map them with label_fn"
        if found < 0
        else f"pass num_classes={int(values.max()) + 1}"
    )
    raise LabelError(f"`labels` must hold {interval}, got {found} at position {position}; {remedy}")


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
        The classes that have bags; None for all, of which some may be empty.
    numbers, of_classes : Tensor of shape (bags,) and (classes + 1,), int64, or None
        All bags in order, and where those of each class begin; None where every class has one.
    """

    order: Tensor
    starts: Tensor
    classes: Tensor | None = None
    numbers: Tensor | None = None
    of_classes: Tensor | None = None


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
    """

    labels: Tensor
    num_classes: int
    source: Tensor | None = None

    @cached_property
    def counts(self) -> Tensor:
        """Samples per class, shape (classes,), on the CPU."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    @cached_property
    def largest(self) -> int:
        """Samples of the class that has most."""
        return int(self.counts.max()) if self.labels.numel() else 0

    @cached_property
    def present(self) -> Tensor:
        """The classes of this batch in ascending order."""
        return self.counts.nonzero().flatten()

    @cached_property
    def order(self) -> Tensor:
        """The rows class by class, in their own order within a class, shape (samples,)."""
        return self.labels.argsort(stable=True)

    @cached_property
    def starts(self) -> Tensor:
        """Where each class in `present` begins in `order`, and where the last ends, shape (present + 1,)."""
        return _starts(self.counts[self.present])

    @cached_property
    def groups(self) -> tuple[int, tuple[int, int, int]]:
        """Number of classes in `present`, and the addresses of `present`, `starts` and `order`."""
        return self.present.shape[0], (self.present.data_ptr(), self.starts.data_ptr(), self.order.data_ptr())

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
            Most rows of a bag.
        """
        if (device, most) not in self._bags:
            order, starts, *others = self._bags_of(most)
            self._bags[device, most] = Bags(
                self.sent(order, device),
                self.sent(starts, device),
                *(None if part is None else self.sent(part, device) for part in others),
            )
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
        per_class = -(-counts // most)
        of_classes = _starts(per_class)
        numbers = torch.arange(int(of_classes[-1]), device="cpu")
        place = numbers - of_classes[:-1].repeat_interleave(per_class)
        begins = starts[:-1].repeat_interleave(per_class) + most * place
        return Bags(self.order, torch.cat([begins, starts[-1:]]), present, numbers, of_classes)

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

    def _spread(self, counts: Tensor) -> "ClassBatch":
        """The labels of so many consecutive rows of each sample."""
        source = self.samples.repeat_interleave(counts)
        return ClassBatch(self.labels.repeat_interleave(counts), self.num_classes, source)


def _starts(counts: Tensor) -> Tensor:
    """Where parts of these sizes begin that follow each other, and where the last ends."""
    ends = counts.cumsum(0)
    return torch.cat([ends.new_zeros(1), ends])

"""Class labels, checked once at the edge and counted once per batch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


class LabelError(ValueError):
    """Labels that cannot be read as one class index per sample."""


def check_labels(labels: Any, *, num_samples: int | None = None, num_classes: int | None = None) -> Tensor:
    """Class index of each sample, as an int64 tensor of shape (samples,) on the CPU.

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
    if values.is_floating_point() or values.is_complex():
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


def _as_tensor(labels: Any) -> Tensor:
    """`labels` as a CPU tensor, or a LabelError that says what came instead."""
    if isinstance(labels, Tensor):
        return labels.detach().cpu()
    try:
        values = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LabelError(
            f"`labels` must be an array of integers, got {type(labels).__name__}; encode class names as 0, 1, 2, …"
        ) from error
    return values.cpu()


def _from_one_hot(values: Tensor, num_classes: int | None) -> Tensor:
    """Class indices of one-hot rows; a single column is an error because it could mean either."""
    is_one_hot = ((values == 0) | (values == 1)).all() and bool((values.sum(dim=1) == 1).all())
    if values.shape[1] < 2 or not is_one_hot:
        raise LabelError(
            f"`labels` of shape {tuple(values.shape)} are not one-hot (one 1 in each row, at least two columns); "
            "pass class indices of shape (samples,)"
        )
    if num_classes is not None and values.shape[1] != num_classes:
        raise LabelError(f"one-hot `labels` have {values.shape[1]} columns, but num_classes is {num_classes}")
    return values.argmax(dim=1)


def _check_range(values: Tensor, num_classes: int | None) -> None:
    """Raise for the first label outside [0, num_classes)."""
    upper = math.inf if num_classes is None else num_classes
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


@dataclass(frozen=True, eq=False)
class ClassBatch:
    """The labels of one batch with everything the layers share: counted once, used by every layer.

    Attributes
    ----------
    labels : Tensor of shape (samples,), int64, on the CPU
    num_classes : int
    """

    labels: Tensor
    num_classes: int

    @cached_property
    def counts(self) -> Tensor:
        """Samples per class, shape (classes,), on the CPU."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    @cached_property
    def present(self) -> Tensor:
        """The classes of this batch in ascending order."""
        return self.counts.nonzero().flatten()

    @cached_property
    def first_rows(self) -> Tensor:
        """For each class in `present`, the row at which it first occurs."""
        rows = torch.full((self.num_classes,), self.labels.numel(), dtype=torch.int64)
        order = torch.arange(self.labels.numel())
        return rows.scatter_reduce(0, self.labels, order, reduce="amin")[self.present]

    def pieces(self, max_rows: int, max_count: int) -> list[tuple[slice, Tensor]]:
        """Consecutive slices of at most `max_rows` rows and `max_count` rows of a class, each with its class counts."""
        key = (max_rows, max_count)
        if key not in self._pieces:
            self._pieces[key] = list(self._split(0, self.labels.numel(), *key))
        return self._pieces[key]

    def _split(self, start: int, stop: int, max_rows: int, max_count: int) -> Iterator[tuple[slice, Tensor]]:
        """Halve the rows until each piece is small enough."""
        counts = torch.bincount(self.labels[start:stop], minlength=self.num_classes)
        rows = stop - start
        if rows <= 1 or (rows <= max_rows and int(counts.max()) <= max_count):
            yield slice(start, stop), counts
            return
        middle = (start + stop) // 2
        yield from self._split(start, middle, max_rows, max_count)
        yield from self._split(middle, stop, max_rows, max_count)

    @cached_property
    def _pieces(self) -> dict[tuple[int, int], list[tuple[slice, Tensor]]]:
        return {}

    @cached_property
    def _on_device(self) -> dict[torch.device, Tensor]:
        return {self.labels.device: self.labels}

    def on(self, device: torch.device) -> Tensor:
        """The labels on `device`, copied there once."""
        if device not in self._on_device:
            self._on_device[device] = self.labels.to(device, non_blocking=True)
        return self._on_device[device]

    @cached_property
    def _repeats(self) -> "dict[int, ClassBatch]":
        return {1: self}

    def repeated(self, positions: int) -> "ClassBatch":
        """The labels of a batch in which every sample stands for `positions` consecutive rows."""
        if positions not in self._repeats:
            labels = self.labels.repeat_interleave(positions)
            self._repeats[positions] = ClassBatch(labels, self.num_classes)
        return self._repeats[positions]

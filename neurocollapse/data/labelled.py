"""Labelled samples as a value: tensors in memory, or any map-style dataset behind the same surface."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, cast, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from neurocollapse.support.checks import MAX_CLASSES, checked_seed, integer
from neurocollapse.support.text import first_line, visible

MOST = 300
"""Characters of a message."""
FEW_CLASSES = 2**16
"""Number of classes that may be empty: their statistics take at most 1 GiB for 1,000 features."""
BYTES_PER_FEATURE = 16
"""What running statistics take for each class and feature."""


class DataError(ValueError):
    """Data that cannot be opened or is not what its format promises; the message is one line that says what to do."""

    def __init__(self, message: object) -> None:
        super().__init__(visible(message, most=MOST))


class Samples(Dataset[Any], ABC):
    """The interface of every opened data set: a `name`, `classes`, a length, samples, a loader and subsets."""

    classes: tuple[str, ...]
    name: str

    @property
    def num_classes(self) -> int:
        """Number of classes, present or not."""
        return len(self.classes)

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Any:
        """One sample."""

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    @abstractmethod
    def subset(self, indices: Iterable[int] | Tensor) -> Self:
        """Return the samples at `indices`, in that order; the classes stay as they are.

        Parameters
        ----------
        indices : iterable of int or Tensor
            Which samples, as `dataset[index]` counts them, in the order wanted.
        """

    def loader(self, batch_size: int, *, shuffle: bool = False, seed: int = 0, num_workers: int = 0) -> DataLoader[Any]:
        """Return a DataLoader over all samples, the last batch included, that leaves the global random state alone.

        Parameters
        ----------
        batch_size : int
            Samples per batch.
        shuffle : bool, default False
            Draw a new order in every pass. The orders follow from `seed` alone.
        seed : int, default 0
            Seed of the loader's own generator.
        num_workers : int, default 0
            Worker processes; 0 reads in this process.

        Examples
        --------
        >>> from neurocollapse import data
        >>> inputs, labels = next(iter(data.open("digits").loader(32)))
        >>> tuple(inputs.shape), labels.dtype
        ((32, 1, 8, 8), torch.int64)
        """
        batch_size = integer("batch_size", batch_size, least=1)
        return DataLoader(
            self,
            batch_size=min(batch_size, sys.maxsize),
            shuffle=shuffle and len(self) > 0,
            generator=torch.Generator().manual_seed(checked_seed(seed)),
            num_workers=num_workers,
            collate_fn=_collated,
        )


class Labelled(Samples):
    """Samples that are `(input, label)` pairs with an integer label, all of which are in `labels`.

    Iterating a loader gives `(inputs, labels)` batches.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Any, int]:
        """One input and its label."""


@dataclass(frozen=True, eq=False, repr=False)
class LabelledData(Labelled):
    """Labelled samples held in memory.

    Parameters
    ----------
    inputs
        Tensor of shape (samples, …), float32 from every reader.
    labels
        Tensor of shape (samples,), integers in [0, number of classes); kept as int64.
    classes
        The class names, in label order.
    name : str, default "data"
        What is shown in reports, "digits/train".

    Raises
    ------
    DataError
        If the lengths differ or a label has no class.

    Examples
    --------
    >>> import torch
    >>> points = LabelledData(torch.zeros(3, 2), torch.tensor([0, 1, 1]), ("left", "right"), "points")
    >>> len(points), points[2][1], points
    (3, 1, LabelledData('points', 3 samples of shape (2,), 2 classes))
    """

    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = "data"

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Tensor) or self.inputs.ndim == 0:
            raise DataError(f"`inputs` must be a tensor of shape (samples, …), got {_described(self.inputs)}")
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "labels", checked_labels(self.labels, len(self.classes)))
        if len(self.inputs) != len(self.labels):
            raise DataError(
                f"`inputs` and `labels` must have one entry per sample, got {len(self.inputs)} inputs "
                f"and {len(self.labels)} labels"
            )

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inputs[index], int(self.labels[index])

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Return many samples at once: torch's loaders ask for a batch this way, and one gather is much faster."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return list(zip(self.inputs[chosen].unbind(), self.labels[chosen].tolist(), strict=True))

    def subset(self, indices: Iterable[int] | Tensor) -> Self:
        chosen = index_tensor(indices, len(self))
        return replace(self, inputs=self.inputs[chosen], labels=self.labels[chosen])

    def __repr__(self) -> str:
        shape = tuple(self.inputs.shape[1:])
        return f"LabelledData({self.name!r}, {len(self)} samples of shape {shape}, {len(self.classes)} classes)"


@dataclass(frozen=True, eq=False, repr=False)
class LabelledSamples(Labelled):
    """Any map-style dataset of `(input, label)` pairs, read one sample at a time.

    `labels` are those of `samples`, known beforehand, integers in [0, number of classes); the samples themselves are
    handed on untouched.

    Parameters
    ----------
    samples : torch.utils.data.Dataset
        Map-style, of `(input, label)` pairs.
    labels : Tensor of shape (samples,), int64
        The label of each pair.
    classes : tuple of str
        Name of each class.
    name : str, default "data"
        What results call it.

    Raises
    ------
    DataError
        If the labels are not integers or one has no class.
    """

    samples: Dataset[Any]
    labels: Tensor
    classes: tuple[str, ...]
    name: str = "data"

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "labels", checked_labels(self.labels, len(self.classes)))

    def __getitem__(self, index: int) -> tuple[Any, int]:
        try:
            sample: tuple[Any, int] = self.samples[index]
        except Exception as error:  # the user's code may raise anything
            if isinstance(error, IndexError) and not -len(self) <= index < len(self):
                raise  # the end, where something goes through the samples by their numbers
            raise DataError(
                f"sample {index} of {self.name} cannot be read: {type(error).__name__}: {first_line(error)}"
            ) from error
        return sample

    def subset(self, indices: Iterable[int] | Tensor) -> Self:
        chosen = index_tensor(indices, len(self))
        return replace(self, samples=Subset(self.samples, chosen.tolist()), labels=self.labels[chosen])

    def __repr__(self) -> str:
        return f"LabelledSamples({self.name!r}, {len(self)} samples, {len(self.classes)} classes)"


@runtime_checkable
class _MapStyle(Sized, Protocol):
    def __getitem__(self, index: int) -> Any: ...


def shard(data: Any, rank: int, world_size: int) -> Any:
    """Return the part of a data set that one of several processes reads: samples rank, rank + world_size, ….

    Nothing is padded or repeated, so that over all ranks each sample counts once; the parts' sizes differ by one at
    most, and ranks beyond the number of samples get none.

    Parameters
    ----------
    data
        An opened data set, or any map-style torch Dataset.
    rank, world_size
        This process, in [0, world_size), and the number of processes.

    Examples
    --------
    >>> [shard(list("abcde"), rank, 2)[0] for rank in range(2)]
    ['a', 'b']
    """
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"`rank` must lie in [0, world_size), got rank {rank} with world_size {world_size}")
    if not isinstance(data, _MapStyle):
        raise TypeError(f"`data` must be a map-style dataset with a length, got {type(data).__name__}")
    indices = range(rank, len(data), world_size)
    return data.subset(indices) if isinstance(data, Samples) else Subset(cast(Dataset[Any], data), indices)


def _collated(samples: list[Any]) -> Any:
    """The samples of a batch put together, or say that they differ."""
    try:
        with torch.device("cpu"):  # whatever torch's default device
            return default_collate(samples)
    except (RuntimeError, TypeError, KeyError) as error:
        raise DataError(
            f"the samples of a batch cannot be put together: {first_line(error, most=150)}; make all of one shape and "
            "type"
        ) from error


def checked_labels(labels: Any, num_classes: int) -> Tensor:
    """Return the labels as int64, or say which one is out of range."""
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise DataError(f"`labels` must be a tensor of shape (samples,) of integers, got {_described(labels)}")
    labels = labels.to(torch.int64)
    outside = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(outside):
        position = int(outside[0])
        raise DataError(
            f"`labels` must hold integers in [0, {num_classes}), got {int(labels[position])} at position {position}"
        )
    return labels


def numbered_classes(labels: Tensor) -> tuple[str, ...]:
    """Return "0", "1", … up to the greatest label; a negative label is left for the range check to report."""
    greatest = int(labels.max()) if len(labels) else -1
    if greatest >= MAX_CLASSES:
        raise DataError(f"`labels` must lie below {MAX_CLASSES}, got {greatest}; renumber the classes from 0")
    check_num_classes(greatest + 1, labels, f"`labels` reach {greatest}")
    return tuple(str(label) for label in range(greatest + 1))


def check_num_classes(num_classes: int, labels: Tensor, what: str) -> None:
    """Raise, before anything is allocated for them, if nearly all of very many classes have no sample."""
    if num_classes <= FEW_CLASSES:
        return
    occurring = len(labels.unique())
    if num_classes > 10 * occurring:
        size = num_classes * BYTES_PER_FEATURE * 1000 / 2**30
        raise DataError(
            f"{what}, but only {occurring} classes occur; the statistics of {num_classes} classes would take "
            f"{size:.1f} GiB for every 1000 features; number the classes from 0 without gaps"
        )


def index_tensor(indices: Iterable[int] | Tensor, num_samples: int) -> Tensor:
    """Return indices (integers, or a boolean mask) as an int64 tensor, or say which one has no sample."""
    if isinstance(indices, Tensor) and indices.dtype == torch.bool:
        if indices.shape != (num_samples,):
            raise IndexError(f"`indices` as a mask must be of shape ({num_samples},), got {tuple(indices.shape)}")
        return indices.nonzero().flatten()
    given = indices if isinstance(indices, Tensor) else torch.tensor(list(indices), dtype=torch.int64, device="cpu")
    chosen = given.to(torch.int64)
    outside = ((chosen < -num_samples) | (chosen >= num_samples)).nonzero()
    if len(outside):
        raise IndexError(f"`indices` must lie in [0, {num_samples}), got {int(chosen[outside[0]])}")
    return chosen


def _described(value: Any) -> str:
    """Return type, or shape and dtype, of what came instead."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}" if not isinstance(value, Mapping) else f"a mapping with {len(value)} entries"

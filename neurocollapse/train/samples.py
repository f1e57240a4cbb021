"""What `fit` trains on: pairs of an input and a label that can be put together into batches."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from neurocollapse.support.checks import shown
from neurocollapse.support.quiet import kept_random_state
from neurocollapse.support.text import first_line


def check_data(data: Any) -> None:
    """Raise unless data is a map-style dataset with samples in it."""
    if isinstance(data, DataLoader):
        raise TypeError("`data` must be a dataset, got a DataLoader; pass loader.dataset, and batch_size to fit")
    is_indexed = hasattr(data, "__len__") and hasattr(data, "__getitem__") and not hasattr(data, "keys")
    if isinstance(data, Tensor | type) or not is_indexed:
        raise TypeError(f"`data` must be a map-style dataset of (input, label) pairs, got a {type(data).__name__}")
    if len(data) == 0:
        raise ValueError("`data` must hold at least one sample, got none")
    with kept_random_state(torch.device("cpu")):  # which augmentation may move
        first = data[0]
    if not isinstance(first, tuple | list) or len(first) != 2:
        raise TypeError(f"`data` must hold pairs of an input and a label, got {shown(first)}")
    if not isinstance(collated([first])[0], Tensor):
        raise TypeError(f"`data` must hold inputs that are tensors, arrays or numbers, got {shown(first[0])}")


def collated(samples: list[Any]) -> Any:
    """A batch of samples, which must be of one kind and size."""
    try:
        return default_collate(samples)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"samples of `data` cannot make up a batch: {first_line(error)}") from error

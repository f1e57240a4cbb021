"""What a loader gives: how many of its samples count, under which labels, and what the model makes of a batch."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from neurocollapse.data.batches import Batch
from neurocollapse.statistics import check_labels
from neurocollapse.support.transfer import sent


def check_loader(loader: Any, name: str = "loader") -> None:
    """Raise unless the loader of this name can be iterated and is not a dataset, which yields samples."""
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise TypeError(
            f"`{name}` must yield batches, got the dataset {type(loader).__name__}; wrap it in a "
            "torch.utils.data.DataLoader"
        )
    if not isinstance(loader, Iterable) or getattr(loader, "ndim", None) == 0:  # an array of one number has no items
        raise TypeError(f"`{name}` must be an iterable of batches, got {type(loader).__name__}")


def class_names(loader: Any) -> list[str]:
    """The class names that the loader's dataset knows, if it does."""
    classes = getattr(getattr(loader, "dataset", None), "classes", None)
    return [str(name) for name in classes] if isinstance(classes, list | tuple) else []


def checked_labels(parts: Batch, num_classes: int | None) -> Tensor:
    """The checked labels of a batch, as many as its inputs have samples where they tell that."""
    labels, lengths = check_labels(parts.labels, num_classes=num_classes), parts.lengths
    return labels if len(labels) in lengths or not lengths else check_labels(labels, num_samples=lengths[0])


def float_input(parts: Batch) -> Tensor:
    """The first floating-point tensor that the model receives."""
    for tensor in parts.tensors:
        if tensor.is_floating_point():
            return tensor
    raise ValueError("`include_input` needs a floating-point input; this model's inputs are integers or not tensors")


def flat_input(parts: Batch, num_samples: int) -> Tensor:
    """The input as (samples, features), at least float32."""
    tensor = float_input(parts)
    if tensor.shape[:1] != (num_samples,):
        raise ValueError(f"`include_input` needs samples first, got an input of shape {tuple(tensor.shape)}")
    return tensor.reshape(num_samples, -1).to(torch.promote_types(tensor.dtype, torch.float32))


def logits_of(output: Any, num_samples: int, *, count: int, counts: Tensor | None = None) -> Tensor | None:
    """The model's output as a matrix (samples, outputs): itself, its `logits`, or the first tensor of a tuple.

    The first `count` of `num_samples` rows are meant. With labels per position, `counts` of shape (samples,
    *positions) says which rows of (samples, *positions, outputs) or (samples, outputs, *positions) are. None where
    there is no such tensor of floating-point numbers.
    """
    found = output
    if not isinstance(output, Tensor):
        found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if isinstance(found, tuple | list):
        found = next((part for part in found if isinstance(part, Tensor)), None)
    if not isinstance(found, Tensor) or found.shape[:1] != (num_samples,) or not found.is_floating_point():
        return None
    if counts is not None:
        # The axis of outputs comes last after a sequence, and first before a map; some sequences have it first, too.
        firsts = (False, True) if counts.dim() == 2 else (True, False)
        rows = (found.movedim(1, -1) if first and found.dim() > 1 else found for first in firsts)
        fitting = next((one for one in rows if one.shape[:-1] == counts.shape), None)
        if fitting is None:
            return None
        places = sent(counts.flatten().nonzero().flatten(), found.device)  # looked for where the labels are
        return fitting.detach().flatten(0, counts.dim() - 1).index_select(0, places)
    if found.dim() != 2:
        return None
    found = found.detach() if found.requires_grad else found
    return found if count == num_samples else found[:count]

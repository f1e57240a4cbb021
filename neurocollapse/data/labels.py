"""Labels for every position of a sequence or map, as functions of a batch: what `label_fn` takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurocollapse.data.batch_parts import is_sequence, kind_of, named_parts, part_of
from neurocollapse.data.labelled import DataError
from neurocollapse.support.text import listed
from neurocollapse.support.transfer import on_cpu

__all__ = ["PositionLabels", "field", "next_token"]

IGNORED = -100
"""The label of positions that do not count, as in torch.nn.functional.cross_entropy."""


@dataclass(frozen=True)
class PositionLabels:
    """Labels of every position, shape (samples, positions, …).

    `counts`, of the same shape, says which of them may count beside what `ignore_index` leaves out; None for all.

    Parameters
    ----------
    values : Tensor of shape (samples, positions, …)
        The labels.
    counts : Tensor of shape (samples, positions, …), bool, optional
        Which of them count. Default: all.
    """

    values: Any
    counts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)


def next_token(field: str = "input_ids", *, mask: str | None = "attention_mask") -> Callable[[Any], PositionLabels]:
    """Label every position with the token that comes next.

    Parameters
    ----------
    field : str, default "input_ids"
        The part of a dict batch that holds the tokens, shape (samples, positions).
    mask : str, optional
        The part that says which of them are real. Default: "attention_mask", where the batch has it.

    Returns
    -------
    callable
        A batch → `PositionLabels`. The last position of a sequence, and positions before padding, are left out.

    Examples
    --------
    >>> batch = {"input_ids": torch.tensor([[5, 3, 7, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0]])}
    >>> next_token()(batch).values.tolist()
    [[3, 7, -100, -100]]
    """

    return partial(_next_tokens, field=field, mask=mask)


def field(name: str) -> Callable[[Any], PositionLabels]:
    """Take the labels of positions from a part of the batch, such as tags of words or a map of classes.

    Parameters
    ----------
    name : str
        The part of a dict batch that holds them, shape (samples, positions, …). The model is not given it, so that it
        computes no loss, unless it cannot run without, or has a decoder that may read it.

    Examples
    --------
    >>> field("tags")({"tags": [[0, 2, -100]]}).values
    [[0, 2, -100]]
    """
    return partial(_positions_of, part=name)


def of_samples(name: str) -> Callable[[Any], Any]:
    """The labels of the samples are a part of the batch, by whatever name."""
    return partial(_part, name=name)


def part_of_labels(label_fn: Callable[[Any], Any] | None) -> str | None:
    """The part of a batch that a function of `field` or `of_samples` takes; None for any other, and for no function."""
    if not isinstance(label_fn, partial) or label_fn.func not in (_positions_of, _part):
        return None
    return str(next(iter(label_fn.keywords.values())))


def looks_at_parts(label_fn: Callable[[Any], Any]) -> bool:
    """Whether a function is one of this module's, which look at parts of a batch on the CPU, and compute nothing."""
    return isinstance(label_fn, partial) and label_fn.func in (_positions_of, _part, _next_tokens)


def label_map(values: Tensor | Any) -> Tensor:
    """Labels of every position as int64, shape (samples, positions, …).

    Raises
    ------
    DataError
        If they are no integers, or have no axis of positions.
    """
    try:
        labels = _on_cpu(values).detach()
    except (TypeError, ValueError, RuntimeError):
        raise DataError("labels per position must be integers, all samples with as many positions") from None
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"labels per position must be integers, got {labels.dtype}")
    if labels.dim() > 3 and labels.shape[1] == 1:  # a map with an axis for its only channel
        labels = labels.squeeze(1)
    if labels.dim() < 2:
        raise DataError(f"labels per position need shape (samples, positions, …), got {tuple(labels.shape)}")
    return labels.long()


def _on_cpu(values: Any) -> Tensor:
    """Numbers in any container as a tensor on the CPU, whatever torch's default device."""
    return on_cpu(values) if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")


def _next_tokens(batch: Any, field: str, mask: str | None) -> PositionLabels:
    """The labels that `next_token` means."""
    tokens = _on_cpu(_part(batch, field))
    if tokens.dim() != 2:
        raise DataError(f"{field!r} must have shape (samples, positions), got {tuple(tokens.shape)}")
    following = torch.full_like(tokens, IGNORED, dtype=torch.int64)
    following[:, :-1] = tokens[:, 1:]
    if mask is not None and mask in _names(batch):
        real = _on_cpu(_part(batch, mask)).bool()
        if real.shape != tokens.shape:
            raise DataError(f"{mask!r} has shape {tuple(real.shape)}, but {field!r} {tuple(tokens.shape)}")
        following[:, :-1][~(real[:, 1:] & real[:, :-1])] = IGNORED
    return PositionLabels(following, following != IGNORED)


def _positions_of(batch: Any, part: str) -> PositionLabels:
    """The labels that `field` means."""
    return PositionLabels(_part(batch, part))


def _names(batch: Any) -> list[str]:
    """The names of a batch's parts."""
    return list(map(str, batch)) if isinstance(batch, Mapping) else [name for name in dir(batch) if name[:1] != "_"]


def _part(batch: Any, name: str) -> Any:
    """A part of a batch, or a DataError that says which there are."""
    if isinstance(batch, Tensor | np.ndarray) or (is_sequence(batch) and named_parts(batch) is None):
        raise DataError(
            f"{name!r} is looked for in batches with named parts, got {kind_of(batch)}; make it a dict such as "
            f"{{{name!r}: …}}"
        )
    try:
        return part_of(batch, name)
    except (KeyError, AttributeError):
        raise DataError(f"the batch has no {name!r}; it has {listed(_names(batch), most=6)}") from None

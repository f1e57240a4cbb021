"""Class labels, checked once at the edge."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurocollapse.support.transfer import on_cpu


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
        if labels.is_nested:
            raise LabelError("`labels` must hold one class index per sample, got a nested tensor; join them with cat")
        try:
            found = on_cpu(labels)
        except NotImplementedError:
            raise LabelError(
                "`labels` are on the meta device, which keeps no numbers; pass labels that have some"
            ) from None
        return found.detach().to_dense()
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
    if not values.numel():
        return
    least, most = (int(end) for end in values.aminmax())
    if least >= 0 and (num_classes is None or most < num_classes):
        return
    outside = (values < 0) | (values > (most if num_classes is None else num_classes - 1))
    position = int(outside.nonzero()[0])
    found = int(values[position])
    interval = f"integers in [0, {num_classes})" if num_classes is not None else "non-negative integers"
    remedy = (
        "leave such samples out, or map them with label_fn"
        if found < 0
        else f"pass num_classes={int(values.max()) + 1}"
    )
    raise LabelError(f"`labels` must hold {interval}, got {found} at position {position}; {remedy}")

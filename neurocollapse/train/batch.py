"""What a batch and the model's outputs on it must be, for training and for evaluation."""

from typing import Any

from torch import Tensor

from neurocollapse.train.settings import TrainingError


def class_indices(labels: Any) -> Tensor:
    """Return a batch's labels as int64, or raise unless they are one integer a sample."""
    if not isinstance(labels, Tensor):
        raise TrainingError(f"`data` must give one integer label per sample, got a {type(labels).__name__} in a batch")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise TrainingError(
            f"`data` must give one integer label per sample, got a batch of {str(labels.dtype).removeprefix('torch.')} "
            f"of shape {tuple(labels.shape)}; turn one-hot labels into their argmax"
        )
    return labels.long()


def check_outputs(outputs: Any, labels: Tensor) -> None:
    """Raise unless outputs are class scores that have a column for every label."""
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(labels):
        came = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise TrainingError(f"`model` must return class scores of shape ({len(labels)}, classes), got {came}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < outputs.shape[1]:
        raise TrainingError(
            f"`model` returns scores for {outputs.shape[1]} classes, but the labels run from {int(labels.min())} "
            f"to {int(labels.max())}; build the model with more classes"
        )

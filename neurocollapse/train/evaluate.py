"""Loss and accuracy of a trained model on a data set."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from neurocollapse.support.choices import check_choice
from neurocollapse.support.quiet import in_mode, kept_random_state
from neurocollapse.train.batch import check_outputs, class_indices
from neurocollapse.train.settings import LOSSES, loss_of


@dataclass(frozen=True)
class Evaluation:
    """Mean loss per sample, and the share of the samples that are classified correctly.

    Parameters
    ----------
    loss : float
        Mean over the samples.
    accuracy : float
        In [0, 1].
    """

    loss: float
    accuracy: float


def evaluate(model: nn.Module, data: Dataset[Any], *, loss: str = "cross_entropy", batch_size: int = 512) -> Evaluation:
    """Measure loss and accuracy in eval mode; modes and random state are restored afterwards.

    Parameters
    ----------
    model
        Maps inputs (samples, …) to class scores (samples, classes).
    data
        A map-style dataset of (input, label) pairs with integer labels, not empty.
    loss : str, default "cross_entropy"
        "cross_entropy" or "mse", as in `fit`.
    batch_size : int, default 512
        Samples per forward pass; the result does not depend on it beyond rounding.

    Examples
    --------
    >>> from neurocollapse import data, models
    >>> evaluate(models.mlp(64, 32, 10, depth=1), data.open("digits", split="test")).accuracy < 0.5
    True
    """
    check_choice("loss", loss, LOSSES)
    num_samples = len(cast(Sized, data))
    if num_samples == 0:
        raise ValueError("`data` must hold at least one sample, got none")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    total_loss, num_correct = 0.0, 0
    with in_mode(model), kept_random_state(device), torch.no_grad():
        for inputs, labels in DataLoader(data, batch_size, generator=torch.Generator()):
            labels = class_indices(labels).to(device)
            outputs = model(inputs.to(device))
            check_outputs(outputs, labels)
            total_loss += loss_of(outputs, labels, loss).item() * len(labels)
            num_correct += int((outputs.argmax(dim=1) == labels).sum())
    return Evaluation(total_loss / num_samples, num_correct / num_samples)

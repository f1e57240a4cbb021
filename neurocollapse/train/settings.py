"""What a training run is made of besides model and data, checked once and comparable with a saved run's."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from neurocollapse.support.checks import integer, non_negative_number, number, positive_number
from neurocollapse.support.choices import check_choice

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
SCHEDULES = ("constant", "cosine")
LOSSES = ("cross_entropy", "mse")
COSINE_FLOOR = 0.01


class TrainingError(ValueError):
    """Training that cannot start, go on or be resumed; the message is one line that says what to do."""


@dataclass(frozen=True)
class Settings:
    """The settings of `fit`, of which every number of a run follows together with model and data."""

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    momentum: float
    schedule: str
    loss: str
    seed: int

    def __post_init__(self) -> None:
        # kept as plain int and float: numpy's overflow in arithmetic with the seed, and JSON does not know them
        for name, least in (("epochs", 0), ("batch_size", 1), ("seed", None)):
            object.__setattr__(self, name, integer(name, getattr(self, name), least=least))
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("loss", LOSSES)):
            check_choice(name, getattr(self, name), known)
        object.__setattr__(self, "learning_rate", positive_number("learning_rate", self.learning_rate))
        object.__setattr__(self, "weight_decay", non_negative_number("weight_decay", self.weight_decay))
        object.__setattr__(self, "momentum", number("momentum", self.momentum))
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must lie in [0, 1), got {self.momentum!r}")
        if self.momentum and self.optimizer not in ("sgd", "momentum"):
            raise ValueError(
                f"`momentum` belongs to 'sgd' and 'momentum', got {self.momentum!r} with {self.optimizer!r}"
            )

    @staticmethod
    def default_momentum(optimizer: str) -> float:
        """Return the momentum of an optimizer where none is given: 0.9 for "momentum"."""
        return 0.9 if optimizer == "momentum" else 0.0

    def build_optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimizer over `parameters`."""
        options: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        match self.optimizer:
            case "adam":
                return torch.optim.Adam(parameters, **options)
            case "adamw":
                return torch.optim.AdamW(parameters, **options)
            case _:
                return torch.optim.SGD(parameters, momentum=self.momentum, **options)

    def learning_rate_at(self, step: int, num_steps: int) -> float:
        """Return the step size of step `step` of `num_steps`: constant, or half a cosine down to a hundredth."""
        if self.schedule == "constant":
            return self.learning_rate
        height = (1 + math.cos(math.pi * step / num_steps)) / 2
        return self.learning_rate * (COSINE_FLOOR + (1 - COSINE_FLOOR) * height)

    def difference(self, saved: dict[str, Any]) -> str | None:
        """Say in which setting a saved run differs, or None; more epochs are a difference where they move a cosine."""
        for name, value in asdict(self).items():
            if saved.get(name) != value and not (name == "epochs" and self.schedule == "constant"):
                return f"{name}={saved.get(name)!r}, not {value!r}"
        return None


def loss_of(outputs: Tensor, labels: Tensor, loss: str) -> Tensor:
    """Return the mean loss of a batch: cross-entropy, or the squared distance to the one-hot label.

    mse: (1/N) Σ_i ‖f(x_i) − y_i‖², summed over the classes, averaged over the samples, without a factor ½.
    """
    if loss == "mse":
        targets = functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
        return (outputs - targets).square().sum(dim=1).mean()
    return functional.cross_entropy(outputs, labels)

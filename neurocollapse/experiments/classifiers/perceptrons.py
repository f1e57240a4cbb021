"""Perceptrons with nonlinear and linear hidden layers, trained as a setting says."""

from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import nn

from neurocollapse.data import Labelled
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.models import HybridMLP, Scale, init_weights
from neurocollapse.train import History, fit


class Training(Protocol):
    """What a setting says of width, initial weights and training; see `HybridMLP`, `init_weights` and `fit`."""

    @property
    def width(self) -> int: ...
    @property
    def init_scale(self) -> float: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def loss(self) -> str: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Recipe:
    """A `Training` of its own, for settings that train several networks differently."""

    width: int
    init_scale: float
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    loss: str
    seed: int

    @classmethod
    def of(cls, setting: Any, **own: Any) -> "Recipe":
        """What a setting says, and what is this network's own."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: own[name] if name in own else getattr(setting, name) for name in names})


@dataclass(frozen=True)
class Perceptron:
    """A network to train.

    Attributes
    ----------
    name
        Name of its checkpoint, too.
    num_nonlinear, num_linear
        Hidden layers of either kind.
    output_scale
        The factor behind its head.
    bias
        Whether its linear layers, the head included, have biases.
    init
        "orth", "norm" or "unif", as `init_weights` takes it.
    """

    name: str
    num_nonlinear: int
    num_linear: int
    output_scale: float = 1.0
    bias: bool = False
    init: str = "orth"


def train_perceptron(
    network: Perceptron, setting: Training, samples: Labelled, workplace: Workplace
) -> tuple[HybridMLP, History]:
    """The network, trained with a cosine schedule; a finished part is not trained again."""
    with torch.random.fork_rng(devices=[]):  # constructing draws weights that are redrawn below
        model = HybridMLP(
            samples[0][0].numel(),
            setting.width,
            len(samples.classes),
            num_nonlinear=network.num_nonlinear,
            num_linear=network.num_linear,
            bias=network.bias,
        )
    init_weights(model, network.init, setting.init_scale, seed=setting.seed)
    if network.output_scale != 1.0:
        model.add_module("head", nn.Sequential(model.head, Scale(network.output_scale)))
    history = fit(
        model,
        samples,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        optimizer=setting.optimizer,
        learning_rate=setting.learning_rate,
        weight_decay=setting.weight_decay,
        schedule="cosine",
        loss=setting.loss,
        seed=setting.seed,
        resume=workplace.file(f"{network.name}.safetensors"),
        progress=workplace.progress,
    )
    return model, history

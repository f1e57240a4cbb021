"""One source, adapted to new classes by one method: what is trained, how, and what became of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from neurocollapse.data import LabelledData
from neurocollapse.experiments.adapters.adalora import AdaLoRA, inject_adalora
from neurocollapse.experiments.adapters.vision_settings import (
    ADALORA,
    COMPRESSED,
    DEEP,
    FULL,
    LORA,
    PROBE,
    AdaptersVision,
)
from neurocollapse.experiments.transfer.sources import Recipe, train
from neurocollapse.lowrank.adapters import CompressedDeepLoRA, DeepLoRA, LoRA, inject
from neurocollapse.lowrank.adapters.kinds import Kind
from neurocollapse.lowrank.adapters.selection import adaptable
from neurocollapse.passes.analyze import analyze
from neurocollapse.train import evaluate

Loss = Callable[[Tensor, Tensor], Tensor]


class Learner(NamedTuple):
    """What a method trains of a model.

    Attributes
    ----------
    groups : list of dict
        As an optimizer of torch takes them, each with its learning rate.
    loss : callable
    after_step : callable or None
        Takes the step, counted from 1.
    finish : callable
        Merges adapters, and gives how many numbers their changes hold.
    """

    groups: list[dict[str, Any]]
    loss: Loss
    after_step: Callable[[int], object] | None
    finish: Callable[[], int]

    @property
    def num_trained(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for group in self.groups for parameter in group["params"])


def adapted(
    model: nn.Module,
    setting: AdaptersVision,
    method: str,
    train_samples: LabelledData,
    test_samples: LabelledData,
    *,
    seed: int,
) -> xr.Dataset:
    """Adapt a model with a new head, in place, and measure the adapted layers on the training samples.

    Returns
    -------
    xarray.Dataset
        `accuracy` on test samples; `compression` and `nc1` along layer; `num_trained`, and `num_kept`, which is less
        where ranks were taken away; `num_parameters` of the model.
    """
    names = list(adaptable(model, list(setting.layers)))
    recipe = Recipe((), 0, setting.epochs, setting.batch_size, setting.adapter_rate, 0.0)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        learner = _learner(model, setting, method, names, train_samples, seed=seed)
        num_trained = learner.num_trained
        train(model, learner.groups, train_samples, recipe, learner.loss, after_step=learner.after_step)
    num_kept = learner.finish()
    found = analyze(
        model, train_samples.loader(500), layers=names, pool="cls", quantities=["compression", "nc1"], progress=False
    )
    return xr.Dataset(
        {
            "accuracy": evaluate(model, test_samples).accuracy,
            "compression": ("layer", np.asarray(found["compression"].values)),
            "nc1": ("layer", np.asarray(found["nc1"].values)),
            "num_trained": num_trained,
            "num_kept": num_kept,
            "num_parameters": num_parameters,
        },
        {"layer": found["layer"].values.astype(str)},
    )


def num_steps(setting: AdaptersVision, num_samples: int) -> int:
    """Steps of training on the new classes, as `train` counts them."""
    return setting.epochs * max(1, num_samples // setting.batch_size)


def _learner(
    model: nn.Module, setting: AdaptersVision, method: str, names: list[str], samples: LabelledData, *, seed: int
) -> Learner:
    """Set a model up for a method; the head is trained by all."""
    head, cross_entropy = model.get_submodule(setting.head), functional.cross_entropy
    head_group = {"params": list(head.parameters()), "lr": setting.adapter_rate}
    num_head = sum(parameter.numel() for parameter in head.parameters())
    if method == FULL:
        model.requires_grad_(True)
        own = list(model.parameters())
        return Learner(
            [{"params": own, "lr": setting.learning_rate}], cross_entropy, None, lambda: sum(one.numel() for one in own)
        )
    model.requires_grad_(False)
    if method == PROBE:
        head.requires_grad_(True)
        return Learner([head_group], cross_entropy, None, lambda: num_head)
    if method == ADALORA:
        return _adalora(model, setting, names, len(samples), head_group)
    kinds: dict[str, Kind] = {
        LORA: LoRA(rank=setting.rank, init_scale=setting.width**-0.5),
        DEEP: DeepLoRA(rank=setting.rank),
        COMPRESSED: CompressedDeepLoRA(rank=setting.rank),
    }
    first = samples.subset(torch.randperm(len(samples))[: setting.batch_size])

    def first_loss() -> Tensor:
        return cross_entropy(model(first.inputs), first.labels)

    adapters = inject(model, names, kind=kinds[method], loss=first_loss if method == COMPRESSED else None, seed=seed)
    head.requires_grad_(True)
    groups = [*adapters.parameter_groups(setting.adapter_rate, outer=setting.outer), head_group]

    def finish() -> int:
        adapters.merge()
        return adapters.num_parameters + num_head

    return Learner(groups, cross_entropy, None, finish)


def _adalora(
    model: nn.Module, setting: AdaptersVision, names: list[str], num_samples: int, head_group: dict[str, Any]
) -> Learner:
    """AdaLoRA, whose penalty is part of the loss, and whose ranks are shared out after every step."""
    steps = num_steps(setting, num_samples)
    adapters: AdaLoRA = inject_adalora(model, names, rank=setting.rank, num_steps=steps)
    for parameter in head_group["params"]:
        parameter.requires_grad_(True)
    groups = [{"params": adapters.parameters, "lr": setting.adapter_rate}, head_group]

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, labels) + adapters.penalty()

    def finish() -> int:
        kept = adapters.num_kept() + sum(parameter.numel() for parameter in head_group["params"])
        adapters.merge()
        return kept

    return Learner(groups, loss, adapters.allocate, finish)

"""Adapters on a vision transformer that knows half of the classes, for the other half."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.nn import functional

from neurocollapse.data import LabelledData
from neurocollapse.experiments.adapters.packages import peft
from neurocollapse.experiments.adapters.vision_claims import claims
from neurocollapse.experiments.adapters.vision_methods import adapted
from neurocollapse.experiments.adapters.vision_settings import (
    ADALORA,
    METHODS,
    PRINTED,
    PRINTED_PARAMETERS,
    SLIDES,
    AdaptersVision,
)
from neurocollapse.experiments.experiment import Experiment
from neurocollapse.experiments.transfer.others import fitted
from neurocollapse.experiments.transfer.sources import Halves, Recipe, described, train
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.models import ModelError, SmallViT
from neurocollapse.models import open as open_model
from neurocollapse.plots.experiments.adapters_vision import adapters_vision_figure
from neurocollapse.support.progress import progress_bar

VARIABLES = {
    "accuracy": ("test accuracy on the new classes", "", "of test samples"),
    "compression": ("compression", "D_l", "tr Σ_W / tr Σ_B of the class token, of training samples of the new classes"),
    "nc1": ("NC1 of the new classes", "tr(Σ_W Σ_B⁺)/K", "of the class token, of training samples"),
    "num_trained": ("numbers trained", "", "adapters and head"),
    "num_kept": ("numbers kept", "", "without the ranks that AdaLoRA takes away"),
    "share": ("trained parameters over the model's own", "", "adapters and head, over the model without adapters"),
}
NOT_COMPARABLE = f"{SLIDES}, of a ViT-B: not comparable with smaller networks, nor with half of the classes"


def adapters_vision(setting: AdaptersVision, workplace: Workplace) -> xr.Dataset:
    """Pretrain on half of the classes, and adapt to the other half by every method.

    Returns
    -------
    xarray.Dataset
        Along (repeat, tuning): `accuracy`; with layer: `compression` and `nc1` of the adapted layers, merged, NaN at
        the first attention of a vision transformer, where the class token has not seen the image yet. Along tuning:
        `num_trained` and its `share`, and `num_kept`. `num_parameters` of the model. What the source prints of a ViT-B:
        `printed_accuracy` along (printed_data, tuning), `printed_parameters` along tuning.
    """
    if ADALORA in setting.methods:
        peft()  # to fail before anything is trained
    halves = _sized(Halves.of(setting.data, workplace), setting.image_size)
    rows = []
    for repeat in progress_bar(range(setting.num_repeats), desc="sources", shown=workplace.progress):
        source: list[nn.Module] = []  # made when the first method needs it, so that finished parts need none
        run = partial(_measured, setting, halves, repeat, source)
        rows.append([workplace.part(f"{repeat}-{method}", partial(run, method)) for method in setting.methods])
    dataset = xr.combine_nested(rows, concat_dim=["repeat", "tuning"], combine_attrs="override")
    dataset = dataset.transpose("repeat", "tuning", "layer")
    dataset = dataset.assign_coords(repeat=range(setting.num_repeats), tuning=list(setting.methods))
    dataset["num_trained"] = dataset["num_trained"].isel(repeat=0, drop=True)
    dataset["num_kept"] = dataset["num_kept"].mean("repeat")
    dataset["num_parameters"] = dataset["num_parameters"].isel(repeat=0, tuning=0, drop=True)
    dataset["share"] = dataset["num_trained"] / dataset["num_parameters"]
    for name, words in VARIABLES.items():
        dataset[name].attrs = described(words)
    dataset["num_parameters"].attrs = {"long_name": "parameters of the model with its new head", "units": "1"}
    return _with_printed(dataset, setting.methods)


def _with_printed(dataset: xr.Dataset, methods: tuple[str, ...]) -> xr.Dataset:
    """The source's table beside what was measured; NaN where it prints nothing."""
    accuracy = [[row.get(method, np.nan) for method in methods] for row in PRINTED.values()]
    counts = [PRINTED_PARAMETERS.get(method, np.nan) for method in methods]
    words = {"units": "1", "convention": NOT_COMPARABLE}
    return dataset.assign_coords(printed_data=list(PRINTED)).assign(
        printed_accuracy=(("printed_data", "tuning"), accuracy, {"long_name": "printed accuracy", **words}),
        printed_parameters=("tuning", counts, {"long_name": "printed numbers trained", **words}),
    )


def _measured(setting: AdaptersVision, halves: Halves, repeat: int, source: list[nn.Module], method: str) -> xr.Dataset:
    """One method's numbers, from a copy of the source."""
    seed = setting.seed + repeat
    if not source:
        source.append(_source(setting, halves.source["train"], seed=seed))
    samples = _few(halves.target["train"], setting.samples_per_class, seed)
    model = copy.deepcopy(source[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _replace_head(model, setting.head, samples.num_classes)
    return adapted(model, setting, method, samples, halves.target["test"], seed=seed)


def _source(setting: AdaptersVision, samples: LabelledData, *, seed: int) -> nn.Module:
    """The model that is adapted: a user's own, or a small one, pretrained on the source's classes."""
    if setting.model is not None:
        return open_model(setting.model, checkpoint=setting.checkpoint, seed=seed)
    channels, height, width = samples.inputs.shape[1:]
    if height != width:
        raise ValueError(f"`data` must hold square images, got {height} × {width}; set image_size")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallViT(
            height,
            samples.num_classes,
            in_channels=channels,
            patch_size=setting.patch_size,
            width=setting.width,
            depth=setting.depth,
            num_heads=setting.num_heads,
            hidden=setting.hidden_width,
        )
        recipe = Recipe((), 0, setting.pretraining_epochs, setting.batch_size, setting.pretraining_rate)
        train(model, list(model.parameters()), samples, recipe, functional.cross_entropy)
    return model


def _replace_head(model: nn.Module, name: str, num_classes: int) -> None:
    """Put a new linear layer of so many outputs in the place of the head."""
    modules = dict(model.named_modules())
    old = modules.get(name)
    if not name or not isinstance(old, nn.Linear):
        raise ModelError(f"`head` must name a linear layer of the model, got {name!r}; set head=… to its last layer")
    parent, _, own = name.rpartition(".")
    setattr(modules[parent], own, nn.Linear(old.in_features, num_classes))


def _sized(halves: Halves, size: int | None) -> Halves:
    """The halves with images of a size; grey ones stay grey."""
    if size is None:
        return halves

    def of(half: dict[str, LabelledData]) -> dict[str, LabelledData]:
        return {
            split: replace(one, inputs=fitted(one.inputs, (one.inputs.shape[1], size, size)))
            for split, one in half.items()
        }

    return Halves(of(halves.source), of(halves.target))


def _few(samples: LabelledData, per_class: int | None, seed: int) -> LabelledData:
    """At most so many samples of every class, drawn at random."""
    if per_class is None:
        return samples
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    labels = samples.labels[order]
    return samples.subset(torch.cat([order[labels == label][:per_class] for label in range(samples.num_classes)]))


EXPERIMENT = Experiment(
    name="adapters-vision",
    shows="On a small vision transformer, adapters collapse new classes less than full training, and lose accuracy.",
    source=f"{SLIDES}, table of ViT-B on CIFAR-10 and CIFAR-100; networks and data are smaller",
    small=AdaptersVision(),
    paper=AdaptersVision(
        data="cifar10",
        methods=METHODS,
        patch_size=4,
        width=192,
        depth=6,
        num_heads=6,
        hidden_width=384,
        rank=8,
        pretraining_epochs=100,
        epochs=50,
        batch_size=128,
        num_repeats=5,
        pretraining_rate=1e-3,
        learning_rate=5e-4,
        adapter_rate=2e-3,
    ),
    durations=("1 min", "hours"),
    run=adapters_vision,
    draw=adapters_vision_figure,
    claims=claims,
)

"""From few samples of new classes: what to train of a network, and how far the classes collapse on the way."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.nn import functional

from neurocollapse.data import LabelledData
from neurocollapse.experiments.experiment import Experiment, at_least, at_most
from neurocollapse.experiments.transfer.class_means import bound_claim, class_mean_errors, described_errors
from neurocollapse.experiments.transfer.sources import Halves, Recipe, described, train, train_source
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.lowrank import DeepLoRA, LoRA, inject
from neurocollapse.models import SmallVGG
from neurocollapse.passes.analyze import analyze
from neurocollapse.plots.experiments.transfer import transfer_fewshot_figure
from neurocollapse.support.choices import check_choice
from neurocollapse.support.progress import progress_bar
from neurocollapse.theory import Verdict
from neurocollapse.train import evaluate
from neurocollapse.transfer import layer_finetune, skip_finetune

METHODS = ("probe", "layer", "layer + skip", "LoRA", "Deep LoRA", "full")
SKIP, LAYER = "layer + skip", "layer"
SMALL_SHARE = 0.10
"""Largest share of the parameters that SCL-FT may train; the source says less than 10 %."""
FEW = 20
"""Samples per class up to which there are few."""
LI = "Li et al., arXiv 2212.12206, Section 4"
VARIABLES = {
    "accuracy": ("test accuracy on the new classes", "", "of test samples"),
    "nc1": ("NC1 of the new classes", "tr(Σ_W Σ_B⁺)/K", "what the head reads, of all training samples"),
}


@dataclass(frozen=True)
class TransferFewshot:
    """Setting of the experiment: networks and data are our choice.

    Attributes
    ----------
    data : str
        A data spec of images with a test split; half of its classes are the source's.
    shots : tuple of int
        Samples of each new class to train on.
    methods : tuple of str
        Some of "probe", "layer", "layer + skip", "LoRA", "Deep LoRA", "full".
    layer : str
        The layer to tune, for "layer" and "layer + skip".
    rank : int
        Rank of the adapters.
    num_repeats : int
        Sources, each with its own draw of samples.
    channels, width, epochs, batch_size, learning_rate
        Settings of the sources, see `Recipe`.
    draws : int
        Draws of samples for nearest class means.
    steps : int
        Steps of Adam on the new classes, full batches, the learning rate falling along a cosine.
    target_learning_rate : float
    seed : int
        Seed of the first repeat.
    """

    data: str = "digits"
    shots: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    methods: tuple[str, ...] = METHODS
    layer: str = "blocks.1"
    rank: int = 4
    num_repeats: int = 3
    channels: tuple[int, ...] = (8, 16, 64)
    width: int = 64
    epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 3e-3
    draws: int = 100
    steps: int = 60
    target_learning_rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for method in self.methods:
            check_choice("methods", method, METHODS)
        if min(self.shots, default=1) < 1:
            raise ValueError(f"`shots` must be at least 1, got {min(self.shots)}")
        if self.draws < 2:
            raise ValueError(f"`draws` must be at least 2, to know how sure their mean is, got {self.draws}")

    @property
    def recipe(self) -> Recipe:
        """How each source is trained."""
        return Recipe(self.channels, self.width, self.epochs, self.batch_size, self.learning_rate)


class _Learner(NamedTuple):
    """What is trained of a model, and how the model is put into the mode for it."""

    parameters: list[nn.Parameter]
    prepare: Callable[[], object]


def transfer_fewshot(setting: TransferFewshot, workplace: Workplace) -> xr.Dataset:
    """Train sources on half of the classes, and every method on few samples of the other half.

    Returns
    -------
    xarray.Dataset
        Along (tuning, shots, repeat): `accuracy` on test samples, `nc1` of what the head reads on all training samples
        of the new classes; along tuning: `share` of the parameters that is trained. Along (half, shots, repeat):
        `error` of nearest class means in the features of the source, with its standard error, and `error_bound`.
    """
    halves = Halves.of(setting.data, workplace)
    repeats = progress_bar(range(setting.num_repeats), desc="sources", shown=workplace.progress)
    parts = [workplace.part(f"repeat-{repeat}", partial(_measured, setting, halves, repeat)) for repeat in repeats]
    shares = parts[0]["share"]
    dataset = xr.concat([part.drop_vars("share") for part in parts], xr.Variable("repeat", range(setting.num_repeats)))
    for name, words in VARIABLES.items():
        values = dataset[name].transpose("tuning", "shots", "repeat")
        dataset[name] = values.dims, np.ascontiguousarray(values.values), described(words)
    dataset = described_errors(dataset.transpose("tuning", "half", "shots", "repeat"))
    dataset["share"] = shares
    dataset["share"].attrs = {"long_name": "trained parameters over all parameters", "units": "1"}
    return dataset


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """The skip costs few parameters, and buys collapse and accuracy from few samples; no error exceeds its bound."""
    missing = [method for method in (LAYER, SKIP) if method not in dataset["tuning"].values]
    few = dataset.sel(shots=dataset["shots"].values[dataset["shots"].values <= FEW])
    unmet = (
        [f"{missing} was not run"] if missing else [] if few.sizes["shots"] else [f"no run has {FEW} shots or fewer"]
    )
    if unmet:
        gain, ratio, share = np.nan, np.nan, np.nan
    else:
        both = few["accuracy"].mean(("shots", "repeat"))
        gain = float(both.sel(tuning=SKIP).item() - both.sel(tuning=LAYER).item())
        nc1 = few[["nc1"]].map(np.log)["nc1"].mean(("shots", "repeat"))
        ratio = float(np.exp(nc1.sel(tuning=SKIP).item() - nc1.sel(tuning=LAYER).item()))
        share = float(dataset["share"].sel(tuning=SKIP))
    return [
        at_most("share of the parameters that SCL-FT trains", LI, share, SMALL_SHARE, unmet=unmet),
        at_least(f"accuracy gained by the skip, mean up to {FEW} shots", LI, gain, 0.0, unmet=unmet),
        at_most(f"NC1 with the skip over NC1 without, up to {FEW} shots", LI, ratio, 1.0, unmet=unmet),
        bound_claim(dataset),
    ]


def _measured(setting: TransferFewshot, halves: Halves, repeat: int) -> xr.Dataset:
    """Every method at every number of shots, from one source."""
    seed = setting.seed + repeat
    source = train_source(halves.source["train"], setting.recipe, loss="cross_entropy", num_projections=0, seed=seed)
    shape = (len(setting.methods), len(setting.shots))
    accuracy, nc1, share = np.empty(shape), np.empty(shape), np.empty(len(setting.methods))
    for column, shots in enumerate(setting.shots):
        samples = _few(halves.target["train"], shots, seed)
        for row, method in enumerate(setting.methods):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = copy.deepcopy(source)
                model.head = nn.Linear(setting.width, samples.num_classes)
                learner = _learner(method, model, setting, samples)
                recipe = Recipe((), 0, setting.steps, len(samples), setting.target_learning_rate, 0.0)
                loss = functional.cross_entropy
                train(model, learner.parameters, samples, recipe, loss, before_step=learner.prepare)
            accuracy[row, column] = evaluate(model, halves.target["test"]).accuracy
            nc1[row, column] = _nc1(model, halves.target["train"])
            count = sum(parameter.numel() for parameter in learner.parameters)
            share[row] = count / sum(parameter.numel() for parameter in model.parameters())
    axes = ("tuning", "shots")
    tuned = xr.Dataset(
        {"accuracy": (axes, accuracy), "nc1": (axes, nc1), "share": ("tuning", share)},
        {"tuning": list(setting.methods), "shots": list(setting.shots)},
    )
    return tuned.merge(class_mean_errors(source, halves, setting.shots, draws=setting.draws, seed=seed))


def _learner(method: str, model: SmallVGG, setting: TransferFewshot, samples: LabelledData) -> _Learner:
    """Set a model up for a method."""
    if method == "full":
        return _Learner(list(model.parameters()), model.train)
    if method == "probe":
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        return _Learner(list(model.head.parameters()), model.eval)
    if method == LAYER:
        tuned = layer_finetune(model, setting.layer, head="head")
        return _Learner(tuned.parameters(), tuned.train)
    if method == SKIP:
        tuned = skip_finetune(model, setting.layer, samples.inputs[:2], head="head")
        return _Learner(tuned.parameters(), tuned.train)
    kind = LoRA(rank=setting.rank, init_scale=setting.width**-0.5) if method == "LoRA" else DeepLoRA(rank=setting.rank)
    adapters = inject(model, "hidden", kind=kind, seed=setting.seed)
    model.head.requires_grad_(True)
    (group,) = adapters.parameter_groups(setting.target_learning_rate)
    return _Learner([*group["params"], *model.head.parameters()], model.eval)


def _few(samples: LabelledData, shots: int, seed: int) -> LabelledData:
    """The same number of samples of every class, drawn at random."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    labels = samples.labels[order]
    rows = [order[labels == label][:shots] for label in range(samples.num_classes)]
    if any(len(chosen) < shots for chosen in rows):
        raise ValueError(f"`shots` must not exceed the samples of a class, got {shots}; {samples.name} has fewer")
    return samples.subset(torch.cat(rows))


def _nc1(model: nn.Module, samples: LabelledData) -> float:
    """NC1 of what the head reads."""
    return float(analyze(model, samples.loader(500), layers="head@in", quantities="nc1", progress=False)["nc1"].item())


EXPERIMENT = Experiment(
    name="transfer-fewshot",
    shows="Tuning one layer with a skip to the head: few parameters, for accuracy from few samples of new classes.",
    source="Li et al., arXiv 2212.12206; networks and data are smaller",
    small=TransferFewshot(),
    paper=TransferFewshot(
        data="cifar10",
        shots=(1, 5, 10, 20, 50, 100),
        channels=(32, 64, 128, 256),
        width=256,
        epochs=60,
        steps=200,
        num_repeats=5,
    ),
    durations=("40 s", "hours"),
    run=transfer_fewshot,
    draw=transfer_fewshot_figure,
    claims=claims,
)

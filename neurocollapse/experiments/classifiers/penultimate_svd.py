"""How few singular values of the penultimate weight move in training: W(t) = W(0) + ΔW(t) in four kinds of network."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from neurocollapse.data import Labelled
from neurocollapse.dynamics import WeightTracker
from neurocollapse.experiments.experiment import Experiment, at_most
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.models import HybridMLP, SmallVGG, SmallViT, initial_weight, mlp
from neurocollapse.plots.experiments.penultimate_svd import penultimate_svd_figure
from neurocollapse.theory import Verdict
from neurocollapse.train import evaluate, fit

SPLITS = ("train", "test")
FITTED = 0.9
"""Training accuracy from which a network counts as trained."""
ENERGY = 0.95
"""Part of ‖ΔW‖_F² that the counted singular values hold."""
STILL = 0.1
"""Part of the largest move below which a singular value has stayed where it was."""
SLIDES = "Qu, slides of 7 September 2023"
RANK = "Xu et al., arXiv 2602.06208: rank at most 2K"
ATTRIBUTES = {
    "accuracy": {"long_name": "accuracy after training", "units": "1"},
    "drift_rank": {
        "long_name": "singular values that hold 95 % of the change",
        "units": "1",
        "convention": "least k with Σ_{i≤k} σ_i² ≥ 0.95 ‖ΔW‖_F²; NaN where nothing has changed",
    },
    "weight": {"long_name": "name of the penultimate weight's layer"},
}


@dataclass(frozen=True)
class PenultimateSvd:
    """Setting of the experiment. The slides name the kinds of network only: all else is our choice.

    The penultimate weight is the last before the classifier: of a linear network, a perceptron and a VGG-style network
    the last hidden layer's, of a vision transformer that out of the last block's perceptron.

    Attributes
    ----------
    data : str
        A data spec of square images.
    networks : tuple of str
        Any of "linear", "MLP", "CNN", "ViT".
    width : int
        Features of every hidden layer, token, and of what the penultimate weight gives.
    num_hidden : int
        Hidden layers of the linear network and the perceptron.
    channels : tuple of int
        Channels of each block of the CNN.
    num_blocks, patch_size : int
        Blocks of the transformer, and height of its patches.
    init_scale : float
        ε: the penultimate weight starts as ε times an orthogonal matrix, so that all its singular values are equal;
        the other weights start as torch draws them.
    epochs, batch_size, learning_rate
        Settings of SGD with momentum 0.9 on the cross-entropy, without weight decay.
    every : int
        Steps between two records.
    seed : int
        Seed of weights and the order of batches.
    """

    data: str = "digits"
    networks: tuple[str, ...] = ("linear", "MLP", "CNN", "ViT")
    width: int = 64
    num_hidden: int = 3
    channels: tuple[int, ...] = (16, 64)
    num_blocks: int = 2
    patch_size: int = 4
    init_scale: float = 0.5
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 0.02
    every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.networks if kind not in _BUILDERS]
        if unknown or not self.networks:
            raise ValueError(f"`networks` must be some of {', '.join(_BUILDERS)}, got {', '.join(unknown) or 'none'}")


def penultimate_svd(setting: PenultimateSvd, workplace: Workplace) -> xr.Dataset:
    """Train each network and follow the singular values of its penultimate weight W(t), and of ΔW(t) = W(t) − W(0).

    Few singular values leave the plateau at ε on which all of them start, about K for K classes in the linear network,
    the perceptron and the CNN. The transformer's change is spread further: in the small setting 13 of 64 values
    hold 95 % of its ‖ΔW‖_F², where they are 6 or 7 in the others, and 24 of W move by more than a tenth of the largest
    move, where they are 8 to 10 in the others.

    Returns
    -------
    xarray.Dataset
        `singular_values`, `drift_singular_values` (network, step, component), `drift_rank` (network, step), `accuracy`
        (network, split), and the name and shape of each penultimate weight.
    """
    found = [
        workplace.part(kind, partial(_tracked, setting, workplace, kind)).expand_dims(network=[kind])
        for kind in setting.networks
    ]
    options: dict[str, Any] = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "outer"}
    dataset = xr.concat(found, dim="network", combine_attrs="override", **options)
    for name, attributes in ATTRIBUTES.items():
        dataset[name].attrs.update(attributes)
    return dataset


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """The change has few large singular values, and most singular values of the weight stay where they were."""
    return [verdict for kind in dataset["network"].values for verdict in _claims(dataset.sel(network=kind), str(kind))]


def _tracked(setting: PenultimateSvd, workplace: Workplace, kind: str) -> xr.Dataset:
    """Train one network under the tracker."""
    train, test = (workplace.samples(setting.data, split=split) for split in SPLITS)
    model, name = _start(setting, train, kind)
    path = workplace.file(f"{kind}-weights.nc")
    tracker = WeightTracker(layers=name, every=setting.every, components=setting.width, reference=None, path=path)
    fit(
        model,
        train,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        learning_rate=setting.learning_rate,
        optimizer="momentum",
        seed=setting.seed,
        events={"on_start": tracker, "after_batch": tracker},
        resume=workplace.file(f"{kind}.safetensors"),
        progress=workplace.progress,
    )
    tracked = tracker.to_dataset().isel(layer=0)[["singular_values", "drift_singular_values"]]
    accuracy = [evaluate(model, samples).accuracy for samples in (train, test)]
    dataset = tracked.rename(layer="weight").reset_coords().assign_coords(split=list(SPLITS))
    dataset.attrs = {"num_classes": train.num_classes}
    return dataset.assign(accuracy=("split", accuracy), drift_rank=("step", _drift_rank(dataset)))


def _start(setting: PenultimateSvd, train: Labelled, kind: str) -> tuple[nn.Module, str]:
    """A network before training and the name of its penultimate layer; torch's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(setting.seed)
        model, name = _BUILDERS[kind](setting, train[0][0].shape, train.num_classes)
    generator = torch.Generator().manual_seed(setting.seed)
    with torch.no_grad():
        weight = model.get_parameter(f"{name}.weight")
        num_rows, num_columns = weight.shape
        weight.copy_(initial_weight(num_rows, num_columns, "orth", setting.init_scale, generator=generator))
    return model, name


def _linear(setting: PenultimateSvd, shape: torch.Size, num_classes: int) -> tuple[nn.Module, str]:
    """A deep linear network."""
    model = HybridMLP(shape.numel(), setting.width, num_classes, num_nonlinear=0, num_linear=setting.num_hidden)
    return model, f"layers.{setting.num_hidden - 1}"


def _mlp(setting: PenultimateSvd, shape: torch.Size, num_classes: int) -> tuple[nn.Module, str]:
    """A perceptron with biases."""
    model = mlp(shape.numel(), setting.width, num_classes, depth=setting.num_hidden, batch_norm=False, bias=True)
    return model, f"layers.{setting.num_hidden - 1}.linear"


def _cnn(setting: PenultimateSvd, shape: torch.Size, num_classes: int) -> tuple[nn.Module, str]:
    """A VGG-style network."""
    return SmallVGG(shape[0], num_classes, widths=setting.channels, hidden=setting.width), "hidden"


def _vit(setting: PenultimateSvd, shape: torch.Size, num_classes: int) -> tuple[nn.Module, str]:
    """A vision transformer."""
    model = SmallViT(
        shape[-1],
        num_classes,
        in_channels=shape[0],
        patch_size=setting.patch_size,
        width=setting.width,
        depth=setting.num_blocks,
        hidden=2 * setting.width,
    )
    return model, f"blocks.{setting.num_blocks - 1}.mlp.contract"


_BUILDERS: dict[str, Callable[[PenultimateSvd, torch.Size, int], tuple[nn.Module, str]]] = {
    "linear": _linear,
    "MLP": _mlp,
    "CNN": _cnn,
    "ViT": _vit,
}


def _drift_rank(dataset: xr.Dataset) -> np.ndarray:
    """How many singular values hold 95 % of ‖ΔW‖_F², at every step."""
    energy = np.nan_to_num(dataset["drift_singular_values"].transpose("step", "component").values) ** 2
    total = energy.sum(1, keepdims=True)
    count = (energy.cumsum(1) < ENERGY * total).sum(1) + 1.0
    return np.where(total[:, 0] > 0, count, np.nan)


def _claims(dataset: xr.Dataset, kind: str) -> list[Verdict]:
    """Claims about one network."""
    last = dataset.dropna("component", subset=["singular_values"], how="all").isel(step=-1)
    first = dataset["singular_values"].isel(step=0)
    moves = abs(last["singular_values"] - first)
    unmet = _unmet(dataset, kind, num_components=last.sizes["component"])
    return [
        at_most(
            f"{kind}: σ_i that hold 95 % of ‖ΔW‖²",
            RANK,
            float(last["drift_rank"]),
            2.0 * dataset.attrs["num_classes"],
            unmet=unmet,
        ),
        at_most(
            f"{kind}: median / largest move of σ_i(W)", SLIDES, float(moves.median() / moves.max()), STILL, unmet=unmet
        ),
    ]


def _unmet(dataset: xr.Dataset, kind: str, num_components: int) -> list[str]:
    """Which assumptions fail: a trained network, and a weight that is large beside 2K."""
    accuracy, num_classes = float(dataset["accuracy"].sel(split="train")), int(dataset.attrs["num_classes"])
    reasons = []
    if accuracy < FITTED:
        reasons.append(f"{kind} reaches {accuracy:.1%} of its training samples, not {FITTED:.0%}")
    if num_components <= 2 * num_classes:
        reasons.append(f"{kind}: {num_components} singular values are not many beside {num_classes} classes")
    return reasons


EXPERIMENT = Experiment(
    name="penultimate-svd",
    shows="Training moves few singular values of the penultimate weight; in a ViT more than in other networks.",
    source=f"{SLIDES}, shape only",
    small=PenultimateSvd(),
    paper=PenultimateSvd(
        data="cifar10",
        width=256,
        channels=(64, 128, 256),
        num_blocks=6,
        epochs=50,
        batch_size=128,
        every=500,
    ),
    durations=("15 s", "hours"),
    run=penultimate_svd,
    draw=penultimate_svd_figure,
    claims=claims,
)

"""What depth does: linear and ReLU networks of growing depth, their test accuracy and their compression."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import xarray as xr

from neurocollapse.data import Labelled
from neurocollapse.data.synthetic import one_hot
from neurocollapse.experiments.experiment import Experiment, at_least, at_most
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.models import HybridMLP, init_weights
from neurocollapse.passes.analyze import analyze
from neurocollapse.plots.experiments.depth_role import depth_role_figure
from neurocollapse.support.progress import progress_bar
from neurocollapse.theory import Verdict
from neurocollapse.train import evaluate, fit

NETWORKS = ("linear", "ReLU")
SPLITS = ("train", "test")
RELU_FACTOR = math.sqrt(2)
"""A ReLU halves the mean square of what passes; weights larger by √2 make up for it."""
FITTED = 0.9
"""Training accuracy from which a network counts as trained."""
SAME_ACCURACY = 0.02
"""Test accuracies that differ by less are the same: 7 of 360 digits."""
SLIDES = "Qu, slides of 7 September 2023"
NEAR = 1.25
"""Training loss over that of least squares up to which a linear network counts as near its solution."""
LEAST_SQUARES = "one least squares solution, whatever the depth"
ATTRIBUTES = {
    "accuracy": {"long_name": "accuracy", "units": "1"},
    "loss": {"long_name": "loss", "units": "1", "convention": "(1/N) Σ‖f(x_i) − y_i‖², one-hot y"},
    "least_squares_loss": {"long_name": "least loss of a linear map without bias", "units": "1"},
    "compression": {"long_name": "compression", "symbol": "D_l", "units": "1", "convention": "tr Σ_W / tr Σ_B"},
    "depth": {"long_name": "number of weight matrices"},
    "layer": {"long_name": "layer, 0 is the input"},
}


@dataclass(frozen=True)
class DepthRole:
    """Setting of the experiment. The slides name networks and data only; all else is our choice.

    Attributes
    ----------
    data : str
        A data spec.
    samples_per_class : int or None
        Drawn again for every seed; None takes all there are.
    width : int
        Features of every hidden layer.
    depths : tuple of int
        Numbers of weight matrices, two at least, ascending from 2 or more.
    gain : float
        Factor by which a layer scales a signal at the start: orthogonal weights times `gain`, times √2 before a ReLU.
    batch_norm : bool
        Normalise before each ReLU.
    epochs, batch_size, learning_rate
        Settings of Adam on (1/N) Σ‖f(x_i) − y_i‖² with one-hot y, the learning rate falling along a cosine.
    num_seeds : int
        Networks of each kind and depth.
    seed : int
        The first seed: of samples, weights and the order of batches.
    """

    data: str = "digits"
    samples_per_class: int | None = 20
    width: int = 64
    depths: tuple[int, ...] = (2, 3, 5, 9)
    gain: float = 0.7
    batch_norm: bool = False
    epochs: int = 100
    batch_size: int = 50
    learning_rate: float = 2e-3
    num_seeds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.depths) < 2 or min(self.depths) < 2 or list(self.depths) != sorted(set(self.depths)):
            raise ValueError(f"`depths` must be two or more, ascending from 2 or more, got {self.depths}")


def depth_role(setting: DepthRole, workplace: Workplace) -> xr.Dataset:
    """Train linear and ReLU networks of each depth and measure accuracy and the compression of every layer.

    Depth compresses in both kinds: D_l = tr Σ_W / tr Σ_B of the last hidden layer falls with it, far further with ReLU.
    It raises test accuracy with ReLU only, and little: in the small setting from 93.6 % with two matrices to 95.5 %
    with three, which nine (94.8 %) do not exceed; other seeds gain less. Trained less, shallow networks lag behind, and
    the gain looks larger. With batch normalisation, and as few samples, depth lowers the test accuracy.

    Linear networks of any depth compute the same maps, and with more samples than features all of them approach one
    least squares solution, whose loss they end 4 to 16 % above in the small setting, the deeper the nearer.

    Returns
    -------
    xarray.Dataset
        `accuracy`, `loss` (network, depth, seed, split), `least_squares_loss` (seed), and `compression` (network,
        depth, seed, split, layer), layer 0 the input; NaN beyond a network's last hidden layer.
    """
    splits = {split: workplace.samples(setting.data, split=split) for split in SPLITS}
    seeds = range(setting.seed, setting.seed + setting.num_seeds)
    total = len(NETWORKS) * len(setting.depths) * len(seeds)
    with progress_bar(None, total=total, desc="networks", shown=workplace.progress) as bar:

        def part(kind: str, depth: int, seed: int) -> xr.Dataset:
            found = workplace.part(
                f"{kind}-{depth}-{seed}", partial(_trained, setting, splits, workplace, kind, depth, seed)
            )
            bar.update()
            return found

        found = [[[part(kind, depth, seed) for seed in seeds] for depth in setting.depths] for kind in NETWORKS]
    dataset = xr.combine_nested(found, concat_dim=["network", "depth", "seed"], combine_attrs="override")
    dataset = dataset.assign_coords(network=list(NETWORKS), depth=list(setting.depths), seed=list(seeds))
    least = [_least_squares_loss(_drawn(splits["train"], setting.samples_per_class, seed)) for seed in seeds]
    dataset = dataset.assign(least_squares_loss=("seed", least))
    for name, attributes in ATTRIBUTES.items():
        dataset[name].attrs.update(attributes)
    return dataset


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """Depth compresses, network by network and layer by layer; it raises test accuracy, but with ReLU only."""
    return [*_compression_claims(dataset, "linear"), *_compression_claims(dataset, "ReLU"), *_accuracy_claims(dataset)]


def _trained(
    setting: DepthRole, splits: Mapping[str, Labelled], workplace: Workplace, kind: str, depth: int, seed: int
) -> xr.Dataset:
    """Train one network and measure it on both splits."""
    train = _drawn(splits["train"], setting.samples_per_class, seed)
    model = _network(setting, train, linear=kind == "linear", num_hidden=depth - 1, seed=seed)
    fit(
        model,
        train,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        learning_rate=setting.learning_rate,
        schedule="cosine",
        loss="mse",
        seed=seed,
        resume=workplace.file(f"{kind}-{depth}-{seed}.safetensors"),
        progress=False,
    )
    measured = [_measured(model, samples, max(setting.depths)) for samples in (train, splits["test"])]
    dataset = xr.concat(measured, dim="split").assign_coords(split=list(SPLITS), layer=range(max(setting.depths)))
    return dataset.assign_attrs(num_train_samples=len(train), num_features=train[0][0].numel())


def _drawn(samples: Labelled, samples_per_class: int | None, seed: int) -> Labelled:
    """Some samples of each class, or all."""
    if samples_per_class is None:
        return samples
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    labels = samples.labels[order]
    return samples.subset(torch.cat([order[labels == k][:samples_per_class] for k in range(samples.num_classes)]))


def _least_squares_loss(samples: Labelled) -> float:
    """The least loss that a linear map without bias can have."""
    inputs, labels = next(iter(samples.loader(len(samples))))
    inputs, targets = inputs.flatten(1).double(), one_hot(labels, samples.num_classes)
    solution = torch.linalg.lstsq(inputs, targets, driver="gelsd").solution  # some pixels are 0 in every image
    return float((inputs @ solution - targets).square().sum()) / len(samples)


def _network(setting: DepthRole, train: Labelled, *, linear: bool, num_hidden: int, seed: int) -> HybridMLP:
    """A network before training; torch's global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        model = HybridMLP(
            train[0][0].numel(),
            setting.width,
            train.num_classes,
            num_nonlinear=0 if linear else num_hidden,
            num_linear=num_hidden if linear else 0,
            batch_norm=setting.batch_norm,
        )
    return init_weights(model, "orth", setting.gain if linear else RELU_FACTOR * setting.gain, seed=seed)


def _measured(model: HybridMLP, samples: Labelled, num_layers: int) -> xr.Dataset:
    """Accuracy, loss, and compression of input and hidden layers, filled up with NaN to `num_layers`."""
    found = evaluate(model, samples, loss="mse")
    analysis = analyze(model, samples.loader(512), layers="layers.*", include_input=True, progress=False)
    compression = np.full(num_layers, np.nan)
    compression[: analysis.sizes["layer"]] = analysis["compression"].values
    return xr.Dataset({"accuracy": found.accuracy, "loss": found.loss, "compression": ("layer", compression)})


def _compression_claims(dataset: xr.Dataset, kind: str) -> list[Verdict]:
    """Claims about one kind of network, by its worst seed."""
    values = dataset["compression"].sel(network=kind, split="train")
    first, last = (int(depth) for depth in dataset["depth"].values[[0, -1]])
    least, most = (values.sel(depth=depth, layer=depth - 1, drop=True) for depth in (first, last))
    factor = (most / values.sel(depth=last, layer=1, drop=True)) ** (1 / (last - 2))
    unmet = _untrained(dataset, kind)
    return [
        at_most(
            f"{kind}: last D, {last} layers / {first} layers", SLIDES, float((most / least).max()), 1.0, unmet=unmet
        ),
        at_most(f"{kind}: mean D_l/D_(l-1) of {last} layers", SLIDES, float(factor.max()), 1.0, unmet=unmet),
    ]


def _accuracy_claims(dataset: xr.Dataset) -> list[Verdict]:
    """Claims about the mean over the seeds: all deeper networks against the shallowest."""
    accuracy = dataset["accuracy"].sel(split="test").mean("seed")
    gain = accuracy.isel(depth=slice(1, None)).mean("depth") - accuracy.isel(depth=0)
    change = f"test accuracy gained beyond {int(dataset['depth'][0])} layers"
    linear, relu = (float(gain.sel(network=kind)) for kind in NETWORKS)
    unmet = {kind: _untrained(dataset, kind) for kind in NETWORKS}
    return [
        at_least(f"ReLU: {change}", SLIDES, relu, 0.0, unmet=unmet["ReLU"]),
        Verdict.judge(
            f"linear: {change}",
            LEAST_SQUARES,
            linear,
            -SAME_ACCURACY,
            SAME_ACCURACY,
            tolerance=0.0,
            unmet=[*unmet["linear"], *_far_from_least_squares(dataset)],
        ),
    ]


def _untrained(dataset: xr.Dataset, kind: str) -> list[str]:
    """Which assumption fails if not every network of a kind has learnt its training samples."""
    least = float(dataset["accuracy"].sel(network=kind, split="train").min())
    return (
        [] if least >= FITTED else [f"a {kind} network reaches {least:.1%} of its training samples, not {FITTED:.0%}"]
    )


def _far_from_least_squares(dataset: xr.Dataset) -> list[str]:
    """Which assumption fails if linear networks of different depth need not be one map."""
    samples, features = (dataset.attrs[name] for name in ("num_train_samples", "num_features"))
    if samples < features:
        return [f"{samples} samples of {features} features have many least squares solutions"]
    losses = dataset["loss"].sel(network="linear", split="train") / dataset["least_squares_loss"]
    farthest = float(losses.mean("seed").max())
    return [] if farthest <= NEAR else [f"a linear network's loss is {farthest:.2f} times that of least squares"]


EXPERIMENT = Experiment(
    name="depth-role",
    shows="Depth compresses linear and ReLU networks; test accuracy rises little, and with ReLU only.",
    source=f"{SLIDES}, shape only",
    small=DepthRole(),
    paper=DepthRole(
        data="fashion-mnist", samples_per_class=None, width=512, depths=tuple(range(2, 10)), epochs=50, batch_size=128
    ),
    durations=("15 s", "hours"),
    run=depth_role,
    draw=depth_role_figure,
    claims=claims,
)

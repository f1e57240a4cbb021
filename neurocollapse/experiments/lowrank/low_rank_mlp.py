"""A wide perceptron beside the same with a thin middle layer: numbers stored, operations, time and accuracy."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import nn

from neurocollapse.data import DataError, Labelled
from neurocollapse.experiments.experiment import SOFTWARE, Experiment, at_least, at_most, near
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.lowrank.costs import cost
from neurocollapse.lowrank.layer import factorize
from neurocollapse.plots.experiments.low_rank import draw_low_rank_mlp
from neurocollapse.support.progress import progress_bar
from neurocollapse.theory import Verdict
from neurocollapse.train import evaluate, fit

SOURCE = "Qu, slides of 7 September 2023, table of low-rank networks"
PRINTED_DATA = ("mnist", "fashion-mnist", "usps")
PRINTED_ACCURACY = {"full": 0.9509, "rank 10": 0.9457, "rank 1": 0.9086}
"""Averages over the three data sets."""
PRINTED_MILLIONS = {"full": 5.59, "rank 10": 1.67, "rank 1": 1.59}
PRINTED_SIZES = (784, 2000)
"""Inputs and width at which the printed numbers of parameters come about."""


@dataclass(frozen=True)
class LowRankMLP:
    """Setting. The source prints numbers of parameters and accuracies; the architecture is inferred from them.

    A 784–2000–2000–10 perceptron with biases has the printed 5.59 million parameters (5,592,010). One way to factorise
    it gives both other printed numbers, 1.67 and 1.59, cut after two digits: only the middle layer is replaced, by BA
    of inner width 2r (rank r needs 2r directions in the theory of deep linear networks) without a bias. That has
    1,670,010 parameters at r = 10 and 1,598,010 at r = 1. With inner width r it would be 1,630,010 and 1,594,010; with
    the first layer factorised too, a twentieth. On 8,000 images of MNIST (10 epochs, two seeds) these networks reach
    96.9 % (full), 96.9 % (rank 10) and 92.3 % (rank 1).

    Attributes
    ----------
    data : tuple of str
        Data specs; "usps" is the file `usps/usps.npz` in the data root.
    width : int
        Width of both hidden layers.
    ranks : tuple of int
        r of each factorised network.
    directions_per_rank : int
        Inner width of BA in units of r.
    start : str
        Where the factors start: "random", "svd" of the dense start, or "gradient".
    epochs, batch_size : int
    learning_rate : float
        Learning rate of Adam on the mean cross-entropy; falls along a cosine to a hundredth.
    num_seeds : int
        Runs of every network; seeds seed, seed + 1, …
    seed : int
    """

    data: tuple[str, ...] = ("digits",)
    width: int = 256
    ranks: tuple[int, ...] = (10, 1)
    directions_per_rank: int = 2
    start: str = "random"
    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    num_seeds: int = 3
    seed: int = 0


def low_rank_mlp(setting: LowRankMLP, workplace: Workplace) -> xr.Dataset:
    """Train the full and the factorised networks on every data set, and count what they cost.

    Returns
    -------
    xarray.Dataset
        Over `data, network, seed`; the networks are "full" and "rank r".
    """
    networks = {"full": 0, **{f"rank {rank}": rank for rank in setting.ranks}}
    seeds = [setting.seed + number for number in range(setting.num_seeds)]
    cells = [(d, n, s) for d in range(len(setting.data)) for n in range(len(networks)) for s in range(len(seeds))]
    found: dict[str, np.ndarray] = {}
    ranks = list(networks.values())
    for d, n, s in progress_bar(cells, desc="training", unit="run", shown=workplace.progress):
        part = workplace.part(f"data{d}-rank{ranks[n]}-seed{seeds[s]}", _run(setting, workplace, d, ranks[n], seeds[s]))
        for name, value in part.data_vars.items():
            shape = (len(setting.data), len(networks), len(seeds))
            found.setdefault(str(name), np.full(shape, np.nan))[d, n, s] = float(value)
    return _labelled(found, setting, list(networks), seeds)


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """What the source's table says, beside the measurement."""
    verdicts = [*_counts(dataset), *_printed_counts(dataset)]
    drop = _drop(dataset)
    if "rank 10" in drop:
        verdicts.append(at_most("accuracy lost at rank 10 ≤ 1.5 points", SOURCE, drop["rank 10"], 0.015))
    if "rank 1" in drop:
        verdicts.append(at_least("accuracy lost at rank 1 ≥ 2 points", SOURCE, drop["rank 1"], 0.02))
    if set(PRINTED_DATA) <= {str(name) for name in dataset["data"].values}:
        average = dataset["test_accuracy"].sel(data=list(PRINTED_DATA)).mean(["data", "seed"])
        for name, expected in PRINTED_ACCURACY.items():
            if name in dataset["network"]:
                claim = f"average accuracy of {name} = {expected}"
                verdicts.append(near(claim, SOURCE, float(average.sel(network=name)), expected))
    return verdicts


def network(num_inputs: int, width: int, num_classes: int, *, inner_width: int = 0) -> nn.Sequential:
    """The perceptron; with an inner width, its middle layer is BA of that width and has no bias."""
    layers: dict[str, nn.Module] = {
        "flat": nn.Flatten(),
        "first": nn.Linear(num_inputs, width),
        "relu1": nn.ReLU(),
        "middle": nn.Linear(width, width, bias=not inner_width),
        "relu2": nn.ReLU(),
        "last": nn.Linear(width, num_classes),
    }
    return nn.Sequential(OrderedDict(layers))


def _run(setting: LowRankMLP, workplace: Workplace, number: int, rank: int, seed: int) -> Callable[[], xr.Dataset]:
    """What trains one network on one data set with one seed."""

    def compute() -> xr.Dataset:
        train, test = (_samples(workplace, setting.data[number], split) for split in ("train", "test"))
        model = _start(setting, train, rank, seed)
        cheap = cost(model, train[0][0].unsqueeze(0))
        began = time.perf_counter()
        history = fit(
            model,
            train,
            epochs=setting.epochs,
            batch_size=setting.batch_size,
            learning_rate=setting.learning_rate,
            schedule="cosine",
            seed=seed,
            progress=False,
        )
        seconds = time.perf_counter() - began
        values = {
            "test_accuracy": evaluate(model, test).accuracy,
            "train_accuracy": history.accuracy[-1] if history.accuracy else math.nan,
            "seconds": seconds,
            "parameters": cheap.parameters,
            "bytes": cheap.bytes,
            "flops": cheap.flops,
            "num_inputs": train[0][0].numel(),
            "num_classes": train.num_classes,
        }
        return xr.Dataset({name: ((), float(value)) for name, value in values.items()})

    return compute


def _start(setting: LowRankMLP, train: Labelled, rank: int, seed: int) -> nn.Module:
    """One network at its start, drawn from a random state of its own."""
    inner = setting.directions_per_rank * rank
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(train[0][0].numel(), setting.width, train.num_classes, inner_width=inner)
    if not rank:
        return model
    if setting.start == "gradient":
        inputs, labels = next(iter(train.loader(len(train))))
        nn.functional.cross_entropy(model(inputs), labels).backward()
    return factorize(model, "middle", inner, start=setting.start, seed=seed)


def _samples(workplace: Workplace, spec: str, split: str) -> Labelled:
    """Open one data set."""
    if spec != "usps":
        return workplace.samples(spec, split=split)
    if workplace.data_root is None:
        raise DataError("usps needs a file: name the folder that holds usps/usps.npz with --data-root")
    return workplace.samples(f"npz:{workplace.data_root / 'usps' / 'usps.npz'}", split=split)


def _labelled(found: dict[str, np.ndarray], setting: LowRankMLP, networks: list[str], seeds: list[int]) -> xr.Dataset:
    """The measurements with their names and units."""
    runs, counts, sizes = ("data", "network", "seed"), ("data", "network"), ("data",)
    described = {
        "test_accuracy": (runs, "accuracy on unseen samples", "1"),
        "train_accuracy": (runs, "accuracy on the training samples in the last epoch", "1"),
        "seconds": (runs, "wall time of training", "s"),
        "parameters": (counts, "numbers in the parameters", "1"),
        "bytes": (counts, "bytes of the parameters", "B"),
        "flops": (counts, "floating-point operations of a forward pass of one sample", "1"),
        "num_inputs": (sizes, "values per sample", "1"),
        "num_classes": (sizes, "classes", "1"),
    }
    dataset = xr.Dataset(coords={"data": list(setting.data), "network": networks, "seed": seeds})
    for name, (dims, long_name, units) in described.items():
        values = found[name]
        whole = dims is runs
        shown = values if whole else _first(values, 3 - len(dims)).round().astype(np.int64)
        dataset[name] = (dims, shown, {"long_name": long_name, "units": units})
    inner = [0, *(setting.directions_per_rank * rank for rank in setting.ranks)]
    attributes = {"long_name": "inner width of the middle layer's factors, 0 for a dense layer", "units": "1"}
    dataset["inner_width"] = ("network", inner, attributes)
    return dataset.assign_attrs(architecture="inferred from the printed numbers of parameters")


def _first(values: np.ndarray, axes: int) -> np.ndarray:
    """The first entry along the last axes, for what is the same along them."""
    return values if axes == 0 else _first(values[..., 0], axes - 1)


def _counts(dataset: xr.Dataset) -> list[Verdict]:
    """The numbers of parameters against the formula of the architecture."""
    width, verdicts = int(dataset.attrs["width"]), []
    first = dataset.isel(data=0)
    inputs, classes = int(first["num_inputs"]), int(first["num_classes"])
    for name in dataset["network"].values:
        inner = int(first["inner_width"].sel(network=name))
        middle = 2 * width * inner if inner else width * width + width
        expected = inputs * width + width + middle + width * classes + classes
        measured = float(first["parameters"].sel(network=name))
        claim = f"{SOFTWARE}parameters of {name} = {expected:,}"
        verdicts.append(near(claim, "arithmetic", measured, expected, within=0.0))
    return verdicts


def _printed_counts(dataset: xr.Dataset) -> list[Verdict]:
    """The numbers of parameters in millions, cut after two digits, against the printed ones, where they apply."""
    verdicts = []
    for number in range(dataset.sizes["data"]):
        part = dataset.isel(data=number)
        if (int(part["num_inputs"]), int(dataset.attrs["width"])) == PRINTED_SIZES:
            for name, expected in PRINTED_MILLIONS.items():
                if name in part["network"]:
                    cut = math.floor(float(part["parameters"].sel(network=name)) / 1e4) / 100
                    verdicts.append(
                        near(f"millions of parameters of {name} = {expected}", SOURCE, cut, expected, within=1e-9)
                    )
            break
    return verdicts


def _drop(dataset: xr.Dataset) -> dict[str, float]:
    """Mean accuracy that each factorised network loses against the full one."""
    mean = dataset["test_accuracy"].mean(["data", "seed"])
    lost = mean.sel(network="full") - mean
    return {str(name): float(lost.sel(network=name)) for name in dataset["network"].values}


EXPERIMENT = Experiment(
    name="low-rank-mlp",
    shows="A hidden layer of rank 10 is nearly as accurate as a full one with 3.5 times the parameters; rank 1 is not.",
    source=SOURCE,
    small=LowRankMLP(),
    paper=LowRankMLP(data=PRINTED_DATA, width=2000, epochs=20, num_seeds=1),
    durations=("10 s", "2 h"),
    run=low_rank_mlp,
    draw=draw_low_rank_mlp,
    claims=claims,
)

"""What goes on in a classifier that already makes no error: neural collapse on training and test samples by epoch."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import nn

from neurocollapse.data import Labelled
from neurocollapse.experiments.experiment import Experiment, at_least, at_most
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.models import SmallVGG, mlp
from neurocollapse.plots.experiments.terminal_phase import terminal_phase_figure
from neurocollapse.support.choices import check_choice
from neurocollapse.theory import Verdict
from neurocollapse.tracking import track
from neurocollapse.train import evaluate, fit
from neurocollapse.train.events import Progress

NETWORKS = ("MLP", "CNN")
SPLITS = ("train", "test")
FALLING = {"nc1": "NC1", "nc2_norms": "NC2 of the norms", "nc2_angles": "NC2 of the angles", "nc3": "NC3"}
QUANTITIES = (*FALLING, "nc4", "ncm_error", "margin")
FALL = 0.99
"""What is left at most, at the end, of each measure that falls; standing still would leave 1. In the small setting with
seed 0 it is 0.86 of NC3 and at most 0.74 of the others."""
AVERAGED = 3
"""Measurements of which the median stands for the start of the terminal phase, and as many for its end: norms of class
means still go up and down from epoch to epoch while the learning rate is large."""
PAPYAN = "Papyan, Han, Donoho 2020, Figs. 2-7"
OURS = "measured with this library on digits"


@dataclass(frozen=True)
class TerminalPhase:
    """Setting of the experiment.

    Attributes
    ----------
    data : str
        A data spec of images with a test split.
    network : {"MLP", "CNN"}
    width, num_hidden : int
        Sizes of the perceptron's hidden layers.
    channels : tuple of int
        Channels of each block of the CNN.
    epochs, batch_size, learning_rate, weight_decay
        Settings of Adam on the cross-entropy, the learning rate falling to a hundredth along a cosine.
    every : int
        Epochs between two measurements.
    seed : int
        Seed of weights and batches.
    """

    data: str = "digits"
    network: str = "MLP"
    width: int = 128
    num_hidden: int = 3
    channels: tuple[int, ...] = (16, 32)
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    every: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("network", self.network, NETWORKS)
        if self.every < 1:
            raise ValueError(f"`every` must be at least 1, got {self.every}")


def terminal_phase(setting: TerminalPhase, workplace: Workplace) -> xr.Dataset:
    """Train far beyond the first epoch without a training error, and measure the last features on the way.

    Returns
    -------
    xarray.Dataset
        Along (split, epoch, layer): NC1 to NC4, `ncm_error` and the family "margin" of the penultimate layer, on
        training and on test samples; along (split, epoch) the `error` of the network.
    """
    samples = {split: workplace.samples(setting.data, split=split) for split in SPLITS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        model = _built(samples["train"], setting)
    trackers = {
        split: track(model, own.loader(500), layers="penultimate", quantities=list(QUANTITIES), progress=False)
        for split, own in samples.items()
    }

    def look(progress: Progress) -> None:
        if progress.epoch % setting.every == 0 or progress.epoch == setting.epochs:
            for split, tracker in trackers.items():
                tracker.record(progress.epoch, error=1.0 - evaluate(model, samples[split]).accuracy)

    fit(
        model,
        samples["train"],
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        learning_rate=setting.learning_rate,
        weight_decay=setting.weight_decay,
        schedule="cosine",
        seed=setting.seed,
        events={"on_start": look, "after_epoch": look},
        progress=workplace.progress,
    )
    runs = [tracker.to_dataset().rename(step="epoch").reset_coords(drop=True) for tracker in trackers.values()]
    dataset = xr.concat(runs, xr.Variable("split", list(SPLITS)), data_vars="all", combine_attrs="drop_conflicts")
    dataset["epoch"].attrs["long_name"] = "epochs of training"
    return dataset


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """What changes once the training error is zero."""
    train, test = (dataset.sel(split=split).isel(layer=-1) for split in SPLITS)
    terminal = terminal_epochs(dataset)
    unmet = (
        []
        if len(terminal) >= 2 * AVERAGED
        else [f"the training error is zero at {len(terminal)} measured epochs, too few for a start and an end"]
    )
    start, end = (_typical(train.sel(epoch=part)) for part in (terminal[:AVERAGED], terminal[-AVERAGED:]))
    found = [
        at_most(
            f"{words} falls after the training error is zero; what is left of it",
            PAPYAN,
            float(end[name] / start[name]),
            FALL,
            unmet=unmet,
        )
        for name, words in FALLING.items()
    ]
    gap = (test["nc1"] / train["nc1"]).sel(epoch=terminal)
    return [
        *found,
        at_least(
            "NC4: the network agrees with the nearest class mean no less often in the end, by",
            PAPYAN,
            float(end["nc4"] - start["nc4"]),
            0.0,
            unmet=unmet,
        ),
        at_most(
            "the nearest class mean errs no more often in the end, by",
            PAPYAN,
            float(end["ncm_error"] - start["ncm_error"]),
            0.0,
            unmet=unmet,
        ),
        at_least(
            "the margin efficiency rises, by",
            OURS,
            float(end["margin_efficiency"] - start["margin_efficiency"]),
            0.0,
            unmet=unmet,
        ),
        at_least(
            "NC1 of test samples stays above that of training samples, at least times",
            OURS,
            float(gap.min()) if gap.size else np.nan,
            1.0,
            unmet=unmet,
        ),
    ]


def terminal_epochs(dataset: xr.Dataset) -> np.ndarray:
    """The measured epochs from the first one without a training error to the last."""
    epochs, errors = dataset["epoch"].values, dataset["error"].sel(split="train").values
    zero = np.flatnonzero(errors == 0)
    return epochs[zero[0] :] if zero.size else epochs[:0]


def _typical(epochs: xr.Dataset) -> xr.Dataset:
    """The median over epochs; NaN of none."""
    names = [*FALLING, "nc4", "ncm_error", "margin_efficiency"]
    return epochs[names].median("epoch") if epochs.sizes["epoch"] else xr.Dataset(dict.fromkeys(names, np.nan))


def _built(samples: Labelled, setting: TerminalPhase) -> nn.Module:
    """The network, untrained."""
    inputs = samples[0][0]
    if setting.network == "MLP":
        return mlp(inputs.numel(), setting.width, samples.num_classes, depth=setting.num_hidden)
    return SmallVGG(inputs.shape[0], samples.num_classes, widths=setting.channels, hidden=setting.width)


EXPERIMENT = Experiment(
    name="terminal-phase",
    shows="After the last training error is gone, classes keep shrinking to points of a simplex frame.",
    source="Papyan, Han, Donoho, PNAS 117(40), 2020, Figs. 2-7; networks and data are smaller",
    small=TerminalPhase(),
    paper=TerminalPhase(data="mnist", network="CNN", channels=(32, 64), epochs=350, batch_size=128, every=10),
    durations=("40 s", "hours"),
    run=terminal_phase,
    draw=terminal_phase_figure,
    claims=claims,
)

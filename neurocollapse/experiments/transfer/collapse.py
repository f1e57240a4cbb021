"""Collapse on the new classes and how well they are told apart: sources of different losses and projections."""

from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import xarray as xr

from neurocollapse.data import LabelledData
from neurocollapse.experiments.experiment import Experiment, at_least, at_most
from neurocollapse.experiments.transfer.sources import LOSSES, Halves, Loss, Recipe, described, train_source
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.models import SmallVGG
from neurocollapse.passes.analyze import analyze
from neurocollapse.plots.experiments.transfer import transfer_collapse_figure
from neurocollapse.support.choices import check_choice
from neurocollapse.support.progress import progress_bar
from neurocollapse.theory import Verdict

PENULTIMATE = "relu"
"""The module of a SmallVGG whose output its head reads."""
LEAST_SPREAD = 0.02
"""Range of the accuracies from which on ranks say something: eight test images of the half of the digits."""
DRAWS = 2_000
"""Resamplings of the networks for an interval; its ends scatter by about 2 % of its length."""
LI = "Li et al., arXiv 2212.12206, Section 3"
VARIABLES = {
    "nc1_target": ("NC1 of the new classes", "tr(Σ_W Σ_B⁺)/K", "of training samples"),
    "cdnv_target": ("CDNV of the new classes", "", "of training samples"),
    "nc1_source": ("NC1 of the source's classes", "tr(Σ_W Σ_B⁺)/K", "of training samples"),
    "accuracy": ("accuracy of a linear probe on the new classes", "", "of test samples"),
}


@dataclass(frozen=True)
class TransferCollapse:
    """Setting of the experiment: networks and data are our choice.

    Attributes
    ----------
    data : str
        A data spec of images with a test split; half of its classes are the source's.
    losses : tuple of {"cross_entropy", "mse", "contrastive"}
        Losses of sources.
    projections : tuple of int
        Numbers of projections between the features and what the loss sees.
    epochs : tuple of int
        Lengths of training.
    num_repeats : int
        Sources of each kind.
    channels, width, batch_size, learning_rate
        See `Recipe`.
    seed : int
        Seed of the first repeat.
    """

    data: str = "digits"
    losses: tuple[Loss, ...] = LOSSES
    projections: tuple[int, ...] = (0, 1, 2)
    epochs: tuple[int, ...] = (1, 4, 16)
    num_repeats: int = 1
    channels: tuple[int, ...] = (8, 16)
    width: int = 32
    batch_size: int = 64
    learning_rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in self.losses:
            check_choice("losses", kind, LOSSES)
        if any(depth < 0 for depth in self.projections):
            raise ValueError(f"`projections` must be at least 0, got {min(self.projections)}")

    def recipe(self, epochs: int) -> Recipe:
        """How a source is trained."""
        return Recipe(self.channels, self.width, epochs, self.batch_size, self.learning_rate)


def transfer_collapse(setting: TransferCollapse, workplace: Workplace) -> xr.Dataset:
    """Train every source on half of the classes, and measure its features on both halves.

    Returns
    -------
    xarray.Dataset
        Along (loss, projections, epochs, repeat): `nc1_source`, `nc1_target` and `cdnv_target` of the penultimate
        features on training samples, and the `accuracy` of a linear probe on test samples of the new classes.
    """
    halves = Halves.of(setting.data, workplace)
    axes = {
        "loss": setting.losses,
        "projections": setting.projections,
        "epochs": setting.epochs,
        "repeat": range(setting.num_repeats),
    }
    sources = list(product(*axes.values()))
    rows = [
        workplace.part("-".join(map(str, source)), partial(_measured, setting, halves, *source))
        for source in progress_bar(sources, desc="sources", shown=workplace.progress)
    ]
    shape = tuple(len(values) for values in axes.values())
    variables = {
        name: (tuple(axes), np.reshape([float(row[name]) for row in rows], shape), described(VARIABLES[name]))
        for name in VARIABLES
    }
    return xr.Dataset(variables, {name: list(values) for name, values in axes.items()})


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """More collapse on the new classes goes with a better probe.

    What the source's own collapse says is not claimed, as versions of the source disagree: here, over all lengths of
    training, probes are worse the further the source's classes have collapsed (the figure's right panel).
    """
    accuracy = dataset["accuracy"].values.ravel()
    low, high = rank_correlation_interval(dataset["nc1_target"].values.ravel(), accuracy)
    spread = float(np.ptp(accuracy))
    unmet = [] if spread >= LEAST_SPREAD else [f"accuracies differ by {spread:.3f} only"]
    return [
        at_most(
            "rank correlation of NC1 of the new classes (training) with accuracy (test): upper end of 95 %",
            LI,
            high,
            0.0,
            unmet=unmet,
        ),
        at_least(
            "the interval of that correlation is narrower than all there can be, by",
            "a check of the number of networks",
            2.0 - (high - low),
            1.0,
            unmet=unmet,
        ),
    ]


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two samples, NaN where one of them is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (first, second)]
    if any(np.ptp(one) == 0 for one in ranks):
        return np.nan
    return float(np.corrcoef(*ranks)[0, 1])


def rank_correlation_interval(first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of Spearman's correlation over resamplings of the pairs; NaN of fewer than three pairs."""
    if len(first) < 3:
        return np.nan, np.nan
    rows = np.random.default_rng(seed).integers(len(first), size=(DRAWS, len(first)))
    drawn = np.array([rank_correlation(first[one], second[one]) for one in rows])
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return float(low), float(high)


def _measured(
    setting: TransferCollapse, halves: Halves, loss: Loss, depth: int, epochs: int, repeat: int
) -> xr.Dataset:
    """One source's numbers."""
    model = train_source(
        halves.source["train"], setting.recipe(epochs), loss=loss, num_projections=depth, seed=setting.seed + repeat
    )
    target = look(model, halves.target)
    source = analyze(model, halves.source["train"].loader(500), layers=PENULTIMATE, quantities="nc1", progress=False)
    found = {
        "nc1_source": source["nc1"],
        "nc1_target": target["nc1"],
        "cdnv_target": target["cdnv"],
        "accuracy": target["probe_accuracy_test"],
    }
    return xr.Dataset({name: values.item() for name, values in found.items()})


def look(model: SmallVGG, samples: dict[str, LabelledData], layers: object = PENULTIMATE) -> xr.Dataset:
    """NC1 and CDNV of training samples, and the accuracy of a linear probe on test samples, layer by layer."""
    return analyze(
        model,
        samples["train"].loader(500),
        layers=layers,
        quantities=["nc1", "cdnv"],
        probes=True,
        test_loader=samples["test"].loader(500),
        progress=False,
    )


EXPERIMENT = Experiment(
    name="transfer-collapse",
    shows="The more a network's features collapse on new classes, the better a linear probe tells these apart.",
    source="Li et al., arXiv 2212.12206; networks and data are smaller",
    small=TransferCollapse(),
    paper=TransferCollapse(data="cifar10", channels=(32, 64, 128), width=128, epochs=(5, 20, 60), num_repeats=2),
    durations=("40 s", "hours"),
    run=transfer_collapse,
    draw=transfer_collapse_figure,
    claims=claims,
)

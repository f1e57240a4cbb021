"""Which layer to transfer from: collapse on the new classes along depth, beside the accuracy of probes."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr

from neurocollapse.experiments.experiment import Experiment, at_least, at_most
from neurocollapse.experiments.transfer.collapse import look
from neurocollapse.experiments.transfer.sources import Halves, Recipe, described, train_source
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.plots.experiments.transfer import transfer_layerwise_figure
from neurocollapse.support.progress import progress_bar
from neurocollapse.theory import Verdict

LAYERS = ["blocks.*", "relu"]
"""Where features are taken: after every block, pooled, and what the head reads."""
POINT = 0.01
"""How much accuracy the choice by NC1 may cost."""
LI = "Li et al., arXiv 2212.12206, Section 3"
VARIABLES = {
    "nc1": ("NC1 of the new classes", "tr(Σ_W Σ_B⁺)/K", "of training samples"),
    "cdnv": ("CDNV of the new classes", "", "of training samples"),
    "accuracy": ("accuracy of a linear probe on the new classes", "", "of test samples"),
}


@dataclass(frozen=True)
class TransferLayerwise:
    """Setting of the experiment: networks and data are our choice.

    Attributes
    ----------
    data : str
        A data spec of images with a test split; half of its classes are the source's.
    num_repeats : int
        Sources, of different seeds.
    channels, width, epochs, batch_size, learning_rate
        See `Recipe`.
    seed : int
        Seed of the first repeat.
    """

    data: str = "digits"
    num_repeats: int = 5
    channels: tuple[int, ...] = (8, 16, 32)
    width: int = 32
    epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 3e-3
    seed: int = 0

    @property
    def recipe(self) -> Recipe:
        """How each source is trained."""
        return Recipe(self.channels, self.width, self.epochs, self.batch_size, self.learning_rate)


def transfer_layerwise(setting: TransferLayerwise, workplace: Workplace) -> xr.Dataset:
    """Train sources on half of the classes, and measure every layer on the other half.

    Returns
    -------
    xarray.Dataset
        Along (repeat, layer): `nc1` and `cdnv` of training samples of the new classes, `accuracy` of a linear probe on
        test samples.
    """
    halves = Halves.of(setting.data, workplace)
    repeats = progress_bar(range(setting.num_repeats), desc="sources", shown=workplace.progress)
    parts = [workplace.part(f"repeat-{repeat}", partial(_measured, setting, halves, repeat)) for repeat in repeats]
    dataset = xr.concat(parts, xr.Variable("repeat", range(setting.num_repeats)), combine_attrs="drop_conflicts")
    for name, words in VARIABLES.items():
        dataset[name].attrs = described(words)
    return dataset


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """The layer of least NC1 on the new classes is as good as any; the choice is between layers that differ."""
    lost = loss_of_choice(dataset)
    spread = float((dataset["accuracy"].max("layer") - dataset["accuracy"].min("layer")).mean())
    unmet = [] if spread > 2 * POINT else [f"the layers' accuracies differ by {spread:.3f}, so that any choice is good"]
    return [
        at_most(
            "accuracy lost by choosing the layer of least NC1 instead of the best, mean over networks",
            LI,
            float(lost.mean()),
            POINT,
            unmet=unmet,
        ),
        at_least(
            "accuracy gained over a layer chosen at random, mean over networks",
            "measured with this library on digits",
            float((dataset["accuracy"].max("layer") - lost - dataset["accuracy"].mean("layer")).mean()),
            POINT,
            unmet=unmet,
        ),
    ]


def loss_of_choice(dataset: xr.Dataset) -> xr.DataArray:
    """Accuracy of the best layer minus that of the layer of least NC1, for every network; at least 0."""
    chosen = dataset["accuracy"].isel(layer=dataset["nc1"].argmin("layer"))
    return (dataset["accuracy"].max("layer") - chosen).reset_coords(drop=True)


def _measured(setting: TransferLayerwise, halves: Halves, repeat: int) -> xr.Dataset:
    """One source's numbers."""
    model = train_source(
        halves.source["train"], setting.recipe, loss="cross_entropy", num_projections=0, seed=setting.seed + repeat
    )
    found = look(model, halves.target, layers=LAYERS)
    variables = {"nc1": found["nc1"], "cdnv": found["cdnv"], "accuracy": found["probe_accuracy_test"]}
    names = found["layer"].values.astype(str)
    return xr.Dataset({name: ("layer", np.asarray(one.values)) for name, one in variables.items()}, {"layer": names})


EXPERIMENT = Experiment(
    name="transfer-layerwise",
    shows="The layer whose features collapse most on new classes is the one to tell them apart with.",
    source="Li et al., arXiv 2212.12206; networks and data are smaller",
    small=TransferLayerwise(),
    paper=TransferLayerwise(data="cifar10", channels=(32, 64, 128, 256), width=256, epochs=60),
    durations=("15 s", "hours"),
    run=transfer_layerwise,
    draw=transfer_layerwise_figure,
    claims=claims,
)

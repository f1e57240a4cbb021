"""The law of data separation: every layer of a trained network improves the separation of the classes by one factor."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr
from torch import nn

from neurocollapse import models
from neurocollapse.data import Labelled
from neurocollapse.experiments.classifiers.perceptrons import Perceptron, train_perceptron
from neurocollapse.experiments.experiment import Experiment, at_least, at_most
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.metrics import fuzziness, geometric_decay
from neurocollapse.metrics.measure import measure
from neurocollapse.passes.collect import collect
from neurocollapse.plots.experiments.data_separation_law import data_separation_law_figure
from neurocollapse.theory import Verdict
from neurocollapse.train import evaluate

TRAINED = 0.95
"""Training accuracy from which a network counts as trained; the law is stated for trained networks."""
STRAIGHT = 0.95
"""R² from which a line is called straight."""
HE = "He and Su, PNAS 120(36), 2023"
MEASURES = {
    "fuzziness": ("separation fuzziness", "tr Σ_W Σ_B⁺, each class with weight 1/K"),
    "compression": ("compression", "tr Σ_W / tr Σ_B, each class with weight 1/K"),
}


@dataclass(frozen=True)
class DataSeparationLaw:
    """Setting of the experiment.

    Attributes
    ----------
    data : str
        A data spec.
    model : str or None
        A model of your own, as "package.module:factory", "torchvision:NAME", …; None trains perceptrons.
    checkpoint : str or None
        Its weights; only with `model`.
    layers : str
        Its layers, as `neurocollapse.collect` takes them; only with `model`.
    depths : tuple of int
        Hidden layers of the perceptrons.
    width : int
        Features of every hidden layer.
    init_scale : float
        ε of the orthogonal initial weights.
    epochs, batch_size : int
    optimizer, learning_rate, weight_decay, loss
        Options of `fit`; the learning rate falls to a hundredth along a cosine.
    seed : int
        Seed of weights and batches.
    """

    data: str = "digits"
    model: str | None = None
    checkpoint: str | None = None
    layers: str = "leaves"
    depths: tuple[int, ...] = (4, 8)
    width: int = 100
    init_scale: float = 1.0
    epochs: int = 40
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    loss: str = "cross_entropy"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("checkpoint", "layers"):
            if self.model is None and getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"`{name}` is about a model of your own, got {getattr(self, name)!r}; give `model` as well"
                )


def data_separation_law(setting: DataSeparationLaw, workplace: Workplace) -> xr.Dataset:
    """Measure tr(Σ_W Σ_B⁺) and D_l at every layer of trained networks, with the line through their logarithms.

    The law is about the first, which weighs every direction of the class means by its own size. The second sums over
    all directions, so large ones rule it; it falls too, but later layers do more of it.

    Returns
    -------
    xarray.Dataset
        Along (network, layer), layer 0 the input and NaN beyond a network's last: `fuzziness`, `compression`. Along
        (network, measure): `slope`, `slope_lower`, `slope_upper` (95 %), `intercept`, `r_squared`. Along `network`:
        `train_accuracy`, `num_layers`.

    References
    ----------
    He and Su, A law of data separation in deep learning, PNAS 120(36), 2023.
    """
    samples = workplace.samples(setting.data)
    if setting.model is not None:
        opened = models.open(setting.model, checkpoint=setting.checkpoint, seed=setting.seed)
        parts = {setting.model: _measured(opened, samples, setting.layers, workplace)}
    else:
        parts = {
            f"{depth} layers": workplace.part(f"depth-{depth}", partial(_trained, depth, setting, samples, workplace))
            for depth in setting.depths
        }
    dataset = xr.concat(parts.values(), dim="network", join="outer", combine_attrs="drop_conflicts")
    return _with_lines(dataset.assign_coords(network=list(parts)))


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """Claims about every trained network: log D falls on a straight line, and its slope is surely negative."""
    return [
        verdict for name in dataset["network"].values for verdict in _claims_of(dataset.sel(network=name), str(name))
    ]


def _claims_of(network: xr.Dataset, name: str) -> list[Verdict]:
    """The claims about one network."""
    accuracy = float(network["train_accuracy"])
    unmet = [] if accuracy >= TRAINED else [f"{name}: training accuracy {accuracy:.3f} is below {TRAINED}"]
    if int(network["num_layers"]) < 3:
        unmet.append(f"{name}: a line through fewer than three layers is always straight")
    law, ratio = network.sel(measure="fuzziness"), network.sel(measure="compression")
    words = "upper end of the slope's 95 % interval"
    return [
        at_least(f"{name}: ln tr(Σ_W Σ_B⁺) is a straight line: R²", HE, float(law["r_squared"]), STRAIGHT, unmet=unmet),
        at_most(f"{name}: tr(Σ_W Σ_B⁺) falls: {words}", HE, float(law["slope_upper"]), 0.0, unmet=unmet),
        at_most(f"{name}: D falls: {words}", HE, float(ratio["slope_upper"]), 0.0, unmet=unmet),
    ]


def _trained(depth: int, setting: DataSeparationLaw, samples: Labelled, workplace: Workplace) -> xr.Dataset:
    """Train a perceptron and measure its layers."""
    model, _ = train_perceptron(Perceptron(f"depth-{depth}", depth, 0), setting, samples, workplace)
    return _measured(model, samples, "layers.*", workplace)


def _measured(model: nn.Module, samples: Labelled, layers: str, workplace: Workplace) -> xr.Dataset:
    """Both measures at every layer, and the training accuracy."""
    moments = collect(
        model, samples.loader(500), layers=layers, include_input=True, covariance=True, progress=workplace.progress
    )
    values = {
        "fuzziness": [fuzziness(one).value for one in moments.values()],
        "compression": measure(moments)["compression"].values,
    }
    variables: dict[str, tuple[tuple[str, ...], object, Mapping[str, str]]] = {
        name: (("layer",), np.asarray(values[name]), {"long_name": words, "convention": convention, "units": "1"})
        for name, (words, convention) in MEASURES.items()
    }
    variables["train_accuracy"] = (
        (),
        evaluate(model, samples).accuracy,
        {"long_name": "training accuracy", "units": "1"},
    )
    variables["num_layers"] = ((), len(moments), {"long_name": "layers, the input among them", "units": "1"})
    layer = ("layer", np.arange(len(moments)), {"long_name": "layer, 0 is the input"})
    return xr.Dataset(variables, {"layer": layer})


def _with_lines(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with the least-squares line of each network and measure."""
    fits = [
        [geometric_decay(dataset[name].sel(network=network).values) for name in MEASURES]
        for network in dataset["network"].values
    ]
    fields = {"slope": "slope", "slope_lower": "lower", "slope_upper": "upper"}
    fields |= {"intercept": "intercept", "r_squared": "r_squared"}
    lines = {
        name: (
            ("network", "measure"),
            [[getattr(fit, field) for fit in row] for row in fits],
            {"long_name": f"{name.replace('_', ' ')} of the line through the natural logarithm", "units": "1"},
        )
        for name, field in fields.items()
    }
    return dataset.assign(lines).assign_coords(measure=list(MEASURES))


EXPERIMENT = Experiment(
    name="data-separation-law",
    shows="Every layer of a trained network improves the separation of the classes by the same factor.",
    source="He and Su, PNAS 120(36), 2023; networks of 4, 8 and 20 layers (width and training inferred)",
    small=DataSeparationLaw(),
    paper=DataSeparationLaw(data="fashion-mnist", depths=(4, 8, 20), epochs=100),
    durations=("20 s", "hours"),
    run=data_separation_law,
    draw=data_separation_law_figure,
    claims=claims,
)

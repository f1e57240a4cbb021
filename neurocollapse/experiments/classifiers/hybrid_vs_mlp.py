"""A perceptron whose deep layers are linear against one whose layers are all nonlinear: what each layer does."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr

from neurocollapse.experiments.classifiers.perceptrons import Perceptron, train_perceptron
from neurocollapse.experiments.experiment import Experiment, at_least, at_most
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.metrics import geometric_decay
from neurocollapse.passes.analyze import analyze
from neurocollapse.plots.experiments.hybrid_vs_mlp import hybrid_vs_mlp_figure
from neurocollapse.probes import PROBES
from neurocollapse.theory import Verdict
from neurocollapse.train import evaluate

TRAINED = 0.95
"""Training accuracy from which a network counts as trained: what is said of layers is said of such networks."""
SATURATED = 0.01
"""Accuracies of probes that differ by less count as the same."""
READ_OFF = 0.02
"""The same where the source's statement is read off a curve from 0 to 1, which shows no more than that."""
STRAIGHT = 0.95
"""R² from which a line is called straight."""
FALLEN = 0.95
"""Part of the rank before the linear layers up to which the last one's has fallen: 0.64 on digits, 0.88 on CIFAR-10."""
WANG = "Wang et al., JMLR 26(220), 2025, Section 4"
QUANTITIES = (
    "compression",
    "separation",
    "discrimination",
    "within_trace",
    "between_trace",
    "probe_accuracy_train",
    "probe_accuracy_test",
    "ncm_accuracy_train",
    "ncm_accuracy_test",
    "numerical_rank",
    "effective_rank",
)


@dataclass(frozen=True)
class HybridVsMLP:
    """Setting of the experiment; both networks have bias-free layers and orthogonal initial weights.

    Attributes
    ----------
    data : str
        A data spec.
    num_layers, num_nonlinear : int
        Hidden layers of each network; those of the hybrid that are Linear, BatchNorm, ReLU. Its others are Linear.
    width : int
        Features of every hidden layer.
    init_scale : float
        ε of the orthogonal initial weights.
    mlp_output_scale, hybrid_output_scale : float
        α: the factor behind the head. The source trains the hybrid with 100.
    epochs, batch_size : int
    optimizer, learning_rate, weight_decay, loss
        Options of `fit`; "momentum" is SGD with momentum 0.9. The learning rate falls to a hundredth along a cosine,
        and "mse" is (1/N) Σ‖f(x_i) − y_i‖².
    probe : str
        One of `neurocollapse.probes.PROBES`.
    probe_samples : int
        Probes and ranks see so many training samples at most.
    seed : int
        Seed of weights, batches and the choice of samples.
    """

    data: str = "digits"
    num_layers: int = 7
    num_nonlinear: int = 3
    width: int = 256
    init_scale: float = 0.45
    mlp_output_scale: float = 1.0
    hybrid_output_scale: float = 1.0
    epochs: int = 60
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 5e-4
    weight_decay: float = 1e-4
    loss: str = "mse"
    probe: str = "mse"
    probe_samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.num_nonlinear <= self.num_layers - 2:
            raise ValueError(
                f"`num_nonlinear` must lie in [1, num_layers − 2], for a line through three layers, got "
                f"{self.num_nonlinear} of {self.num_layers}"
            )
        if self.probe not in PROBES:
            raise ValueError(f"`probe` must be one of {', '.join(map(repr, PROBES))}, got {self.probe!r}")


CIFAR10_REDUCED = HybridVsMLP(data="cifar10", init_scale=0.5, learning_rate=3e-4)
"""The source's data at a quarter of its width, in minutes instead of hours."""

PAPER = HybridVsMLP(
    data="cifar10",
    width=1024,
    init_scale=0.1,
    hybrid_output_scale=100.0,
    epochs=400,
    optimizer="momentum",
    learning_rate=1e-4,
    probe_samples=5000,
)


def hybrid_vs_mlp(setting: HybridVsMLP, workplace: Workplace) -> xr.Dataset:
    """Train both networks and measure every layer: probes, rank, compression and separation.

    Nonlinear layers make the classes linearly separable; after that the hybrid's linear layers do what the deep
    nonlinear layers of the plain perceptron do, and do it further: they compress by a constant factor each.

    Returns
    -------
    xarray.Dataset
        Along (network, layer), layer 0 the input: `compression`, `separation`, `discrimination`, the traces, accuracy
        of the linear probe and the nearest class mean, ranks. Along `network`: `train_accuracy`, `test_accuracy`, and
        the line through ln D_l from layer `num_nonlinear` on (`linear_slope`, its 95 % interval, `linear_r_squared`).
        `loss` (network, epoch).

    References
    ----------
    Wang et al., Understanding deep representation learning via layerwise feature compression and discrimination,
    JMLR 26(220), 2025, Section 4.
    """
    num_linear = setting.num_layers - setting.num_nonlinear
    networks = (
        Perceptron("MLP", setting.num_layers, 0, setting.mlp_output_scale),
        Perceptron("hybrid", setting.num_nonlinear, num_linear, setting.hybrid_output_scale),
    )
    measured = [workplace.part(one.name, partial(_measured, one, setting, workplace)) for one in networks]
    dataset = xr.concat(measured, dim="network", combine_attrs="drop_conflicts")
    return dataset.assign_coords(network=[one.name for one in networks])


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """Separable from the last nonlinear layer on; then a steady decay, which takes the hybrid further."""
    mlp, hybrid = dataset.sel(network="MLP"), dataset.sel(network="hybrid")
    since = int(dataset.attrs["num_nonlinear"])
    linear = hybrid["compression"].values[since:]
    rank = hybrid["numerical_rank"].values[since:]
    of_mlp, of_hybrid = _untrained(mlp), _untrained(hybrid)
    middle = (int(dataset.attrs["num_layers"]) + 1) // 2
    return [
        _saturates(mlp, f"the MLP's features are separable from layer {middle} on", middle, READ_OFF, of_mlp),
        _saturates(
            hybrid, f"the hybrid's are from layer {since}, its last nonlinear one, on", since, SATURATED, of_hybrid
        ),
        at_most("D falls at each linear layer: its largest ratio", WANG, _largest_ratio(linear), 1.0, unmet=of_hybrid),
        at_least(
            "ln D is a straight line over the linear layers: R²",
            WANG,
            float(hybrid["linear_r_squared"]),
            STRAIGHT,
            unmet=of_hybrid,
        ),
        at_most(
            "the MLP compresses too: D of the last over D of the first hidden layer",
            WANG,
            float(mlp["compression"][-1] / mlp["compression"][1]),
            0.5,
            unmet=of_mlp,
        ),
        at_most(
            "linear layers compress further: last D of the hybrid over the MLP's",
            WANG,
            float(hybrid["compression"][-1] / mlp["compression"][-1]),
            0.5,
            unmet=[*of_mlp, *of_hybrid],
        ),
        at_most("the rank rises at no linear layer: largest ratio", WANG, _largest_ratio(rank), 1.0, unmet=of_hybrid),
        at_most(
            f"the rank falls over them: that of the last over that of layer {since}",
            WANG,
            float(rank[-1] / rank[0]),
            FALLEN,
            unmet=of_hybrid,
        ),
        at_least(
            "the class means separate: S of the hybrid's last layer less that of the input",
            WANG,
            float(hybrid["separation"][-1] - hybrid["separation"][0]),
            0.1,
            unmet=of_hybrid,
        ),
    ]


def _measured(network: Perceptron, setting: HybridVsMLP, workplace: Workplace) -> xr.Dataset:
    """Train one network and measure all its layers."""
    train, test = (workplace.samples(setting.data, split=split) for split in ("train", "test"))
    model, history = train_perceptron(network, setting, train, workplace)
    kept = train.subset(np.random.default_rng(setting.seed).permutation(len(train)).tolist())  # probes see the first
    dataset = analyze(
        model,
        kept.loader(500),
        layers="layers.*",
        include_input=True,
        probes=setting.probe,  # type: ignore[arg-type]  # the setting has been checked
        probe_samples=setting.probe_samples,
        test_loader=test.loader(500),
        progress=workplace.progress,
    )
    fit = geometric_decay(dataset["compression"].values[setting.num_nonlinear :])
    found = dataset[list(QUANTITIES)].drop_vars([name for name in dataset.coords if name != "layer"], errors="ignore")
    found = found.assign_coords(layer=np.arange(setting.num_layers + 1))
    found["layer"].attrs["long_name"] = "layer, 0 is the input"
    words = "line through ln D_l from layer num_nonlinear on"
    numbers = {
        "train_accuracy": (evaluate(model, train).accuracy, "training accuracy"),
        "test_accuracy": (evaluate(model, test).accuracy, "test accuracy"),
        "linear_slope": (fit.slope, f"slope of the {words}"),
        "linear_slope_lower": (fit.lower, "lower end of the slope's 95 % interval"),
        "linear_slope_upper": (fit.upper, "upper end of the slope's 95 % interval"),
        "linear_r_squared": (fit.r_squared, f"R² of the {words}"),
    }
    scalars = {name: ((), value, {"long_name": text, "units": "1"}) for name, (value, text) in numbers.items()}
    loss = ("epoch", np.array(history.loss), {"long_name": "training loss", "units": "1", "convention": setting.loss})
    found = found.assign(scalars).assign(loss=loss).assign_coords(epoch=np.arange(1, len(history) + 1))
    return found.assign_attrs(num_layers=setting.num_layers, num_nonlinear=setting.num_nonlinear)


def _saturates(network: xr.Dataset, claim: str, since: int, allowed: float, unmet: list[str]) -> Verdict:
    """A claim that the probe reads no layer from one on worse than the best of all, on training samples."""
    accuracy = network["probe_accuracy_train"].values
    gap = float(accuracy.max() - accuracy[since:].min())
    return at_most(f"{claim}: what the probe loses against its best", WANG, gap, allowed, unmet=unmet)


def _largest_ratio(values: np.ndarray) -> float:
    """The largest ratio of neighbours: at most 1 where nothing rises."""
    return float((values[1:] / values[:-1]).max())


def _untrained(network: xr.Dataset) -> list[str]:
    """The reason for which the claims say nothing of a network, if there is one."""
    accuracy = float(network["train_accuracy"])
    if accuracy >= TRAINED:
        return []
    return [f"the {network['network'].item()} is not trained: training accuracy {accuracy:.3f}, below {TRAINED}"]


EXPERIMENT = Experiment(
    name="hybrid-vs-mlp",
    shows="Nonlinear layers separate the classes, and linear layers suffice to compress them.",
    source="Wang et al., JMLR 26(220), 2025, Section 4: hybrid and nonlinear network on CIFAR-10",
    small=HybridVsMLP(),
    paper=PAPER,
    durations=("40 s", "several hours"),
    run=hybrid_vs_mlp,
    draw=hybrid_vs_mlp_figure,
    claims=claims,
)

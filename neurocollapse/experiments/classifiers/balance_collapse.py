"""Balanced last layers make the last features collapse: what weight decay does to balance, bound, D and κ."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import xarray as xr

from neurocollapse.experiments.classifiers.perceptrons import Perceptron, Recipe, train_perceptron
from neurocollapse.experiments.experiment import SOFTWARE, Experiment, at_least, at_most
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.plots.experiments.balance_collapse import balance_collapse_figure
from neurocollapse.theory import Verdict, verify
from neurocollapse.train import evaluate

TRAINED = 0.97
"""Training accuracy from which a network counts as trained."""
CLOSE = 3.0
"""How many times the measured D its bound may be with the most weight decay: 2.1 to 2.5 with two linear layers, 1.2
with more, over five seeds on digits."""
FALLEN = 0.85
"""Part of D without weight decay up to which D has fallen with the most of it."""
THEOREM = "Theorem 6 (balance implies collapse), in this documentation"
JACOT = "Jacot, Súkeník, Wang, Mondelli, arXiv 2410.04887: balance spreads κ evenly over the last layers"
OURS = "measured with this library on digits"
ATTRIBUTES = {
    "compression": (
        "compression",
        "D_l",
        "of what enters the linear layers (0), and of each output",
    ),
    "last_compression": ("compression of the last features", "D_{L-1}", "tr Σ_W / tr Σ_B"),
    "last_bound": ("bound of D of the last features", "", "Theorem 6, from balance, output and the layer before"),
    "floor": ("compression of the output", "D_out", "tr Σ_W / tr Σ_B"),
    "excess": ("imbalance of the last two weights", "δ⁺", "max(0, λ_max(W_{L−1}W_{L−1}ᵀ − W_LᵀW_L))"),
    "tail_condition": ("condition number of all linear layers together", "κ(B_0)", "largest over K-th singular value"),
    "head_condition": ("condition number of the head", "κ(W_L)", "largest over K-th singular value"),
    "accuracy": ("training accuracy", "", ""),
}


@dataclass(frozen=True)
class BalanceCollapse:
    """Setting of the experiment: networks and data are our choice.

    Attributes
    ----------
    data : str
        A data spec.
    tails : tuple of int
        Numbers of linear layers that networks end with, the head included; two at least.
    weight_decays : tuple of float
        Two at least, ascending.
    bias : bool
        Give the linear layers biases. The head's then fits the mean of the labels in the weights' place.
    num_nonlinear, width
        Hidden layers (Linear, BatchNorm, ReLU) before the linear ones, and features of every hidden layer.
    init_scale : float
        ε of the orthogonal initial weights.
    epochs, batch_size : int
    optimizer, learning_rate, loss
        Options of `fit`; "momentum" is SGD with momentum 0.9, and the learning rate falls to a hundredth along a
        cosine.
    seed : int
        Seed of weights and batches.
    """

    data: str = "digits"
    tails: tuple[int, ...] = (2, 3, 4)
    weight_decays: tuple[float, ...] = (0.0, 1e-3, 5e-3)
    bias: bool = False
    num_nonlinear: int = 1
    width: int = 48
    init_scale: float = 0.5
    epochs: int = 40
    batch_size: int = 128
    optimizer: str = "momentum"
    learning_rate: float = 3e-2
    loss: str = "mse"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tails or min(self.tails) < 2 or len(set(self.tails)) < len(self.tails):
            raise ValueError(f"`tails` must be numbers of linear layers from 2 on, each once, got {self.tails}")
        if len(self.weight_decays) < 2 or list(self.weight_decays) != sorted(set(self.weight_decays)):
            raise ValueError(f"`weight_decays` must be two or more, ascending, got {self.weight_decays}")


def balance_collapse(setting: BalanceCollapse, workplace: Workplace) -> xr.Dataset:
    """Train networks that end with several linear layers, with more and more weight decay, and verify each.

    Weight decay balances the last two weights, and what balance leaves is all that D of the last features can exceed
    the output's by: D falls as its bound does. Without biases the linear layers together become better conditioned;
    with them worse, because nothing but the head's bias has to fit the mean of the labels, and that direction decays.

    Returns
    -------
    xarray.Dataset
        Along (tail, weight_decay): `last_compression`, `last_bound`, `floor`, `excess`, `tail_condition`,
        `head_condition`, `accuracy`; `compression` also along `layer`, NaN beyond a tail's last features.
    """
    found = [
        [
            workplace.part(f"{tail}-{decay}", partial(_measured, tail, decay, setting, workplace))
            for decay in setting.weight_decays
        ]
        for tail in setting.tails
    ]
    dataset = xr.combine_nested(found, concat_dim=["tail", "weight_decay"], join="outer", combine_attrs="override")
    return dataset.transpose("tail", "weight_decay", "layer").assign_coords(
        tail=("tail", list(setting.tails), {"long_name": "linear layers at the end, the head included"}),
        weight_decay=("weight_decay", list(setting.weight_decays), {"long_name": "weight decay", "units": "1"}),
    )


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """The bound is one, and a close one; weight decay lowers imbalance and D, and conditions the layers."""
    biased = dataset.attrs["bias"] == str(True)
    return [verdict for tail in dataset["tail"].values for verdict in _claims_of(dataset.sel(tail=tail), biased)]


def _claims_of(networks: xr.Dataset, biased: bool) -> list[Verdict]:
    """What is said of all networks with so many linear layers."""
    tail = int(networks["tail"])
    name, unmet = f"{tail} linear layers", _unmet(networks)
    last, room = networks["last_compression"], networks["last_bound"] / networks["last_compression"]
    even = networks["head_condition"] / networks["tail_condition"] ** (1 / tail)
    condition = _change(networks["tail_condition"])
    words = f"{name}: κ of all together, with the most weight decay over that without"
    conditioning = (
        [at_least(f"{words} (the biases fit the mean)", OURS, condition, 1.0, unmet=unmet)]
        if biased
        else [
            at_most(words, OURS, condition, 1.0, unmet=unmet),
            at_most(f"{name}: κ(W_L) over its even share κ(B_0)^(1/L)", JACOT, _worst(even), 1.0, unmet=unmet),
        ]
    )
    imbalance = _largest_ratio(networks["excess"])
    return [
        at_least(
            f"{SOFTWARE}{name}: D of the last features is at most its bound: bound over D", THEOREM, -_worst(-room), 1.0
        ),
        at_most(f"{name}: with the most weight decay bound over D", OURS, float(room[-1]), CLOSE, unmet=unmet),
        at_most(f"{name}: imbalance falls with weight decay: largest ratio", OURS, imbalance, 1.0, unmet=unmet),
        at_most(f"{name}: D falls with weight decay: largest ratio", OURS, _largest_ratio(last), 1.0, unmet=unmet),
        at_most(f"{name}: D with the most weight decay over that without", OURS, _change(last), FALLEN, unmet=unmet),
        *conditioning,
    ]


def _measured(tail: int, decay: float, setting: BalanceCollapse, workplace: Workplace) -> xr.Dataset:
    """Train one network and verify the layers it ends with."""
    samples = workplace.samples(setting.data)
    network = Perceptron(f"{tail}-{decay}", setting.num_nonlinear, tail - 1, bias=setting.bias)
    model, _ = train_perceptron(network, Recipe.of(setting, weight_decay=decay), samples, workplace)
    verification = verify(model, samples.loader(500))
    table = verification.dataset
    last = table.isel(layer=-1)
    numbers: dict[str, Any] = {
        "last_compression": last["compression"],
        "last_bound": last["balance_upper"],
        "floor": last["compression_floor"],
        "excess": verification.assumptions["last_layer_excess"].value,
        "tail_condition": table["readout_condition"][0],
        "head_condition": last["readout_condition"],
        "accuracy": evaluate(model, samples).accuracy,
    }
    found = xr.Dataset(
        {name: ((), float(value)) for name, value in numbers.items()}
        | {"compression": ("layer", table["compression"].values)},
        coords={"layer": ("layer", table["layer"].values, {"long_name": "layer, 0 is what enters the linear ones"})},
    )
    for name, (words, symbol, convention) in ATTRIBUTES.items():
        found[name].attrs = {"long_name": words, "symbol": symbol, "units": "1", "convention": convention}
    return found


def _unmet(networks: xr.Dataset) -> list[str]:
    """Which networks are not trained."""
    found = zip(networks["weight_decay"].values, networks["accuracy"].values, strict=True)
    return [
        f"weight decay {decay:g}: training accuracy {accuracy:.3f} is below {TRAINED}"
        for decay, accuracy in found
        if accuracy < TRAINED
    ]


def _largest_ratio(values: xr.DataArray) -> float:
    """The largest ratio of neighbours: at most 1 where nothing rises."""
    return float((values[1:].values / values[:-1].values).max())


def _change(values: xr.DataArray) -> float:
    """The last over the first."""
    return float(values[-1] / values[0])


def _worst(values: xr.DataArray) -> float:
    """The largest; NaN if one is undefined."""
    return float(values.max(skipna=False))


EXPERIMENT = Experiment(
    name="balance-implies-collapse",
    shows="Weight decay balances the last layers, and balance proves the collapse of the last features.",
    source="Jacot, Súkeník, Wang, Mondelli, arXiv 2410.04887, with measured constants; networks are ours",
    small=BalanceCollapse(),
    paper=BalanceCollapse(
        data="mnist",
        weight_decays=(0.0, 1e-4, 5e-4, 1e-3, 5e-3),
        num_nonlinear=3,
        width=512,
        epochs=100,
        learning_rate=1e-2,
    ),
    durations=("30 s", "hours"),
    run=balance_collapse,
    draw=balance_collapse_figure,
    claims=claims,
)

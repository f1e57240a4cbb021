"""The shape of D in a linear tail: its certified band, and a geometric transient onto a floor that the output sets."""

import itertools
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr

from neurocollapse.experiments.classifiers.perceptrons import Perceptron, Recipe, train_perceptron
from neurocollapse.experiments.experiment import SOFTWARE, Experiment, at_least, at_most
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.passes.analyze import analyze
from neurocollapse.plots.experiments.tail_shape import tail_shape_figure
from neurocollapse.theory import Verdict, verify
from neurocollapse.train import evaluate

LOSSES = {"mse": "MSE", "cross_entropy": "cross-entropy"}
INITS = {"orth": "orthogonal", "norm": "Gaussian"}
BIASES = {"without": "", "with": ", biases"}
TRAINED = 0.97
"""Training accuracy from which a network counts as trained."""
ROUNDING = 1e-9
"""How far outside its certified band rounding may carry D, as a part of it."""
LEAST_VISIBLE, MOST_VISIBLE = 0.9, 1.1
"""Where the visible part of D stays, over D of the output, from the first linear layer on: 0.95 to 1.02 on digits, up
to 1.10 on 2,000 images of MNIST. With the cross-entropy it falls by more, 1.17 and upwards."""
CONSTANT = 0.03
"""Largest deviation from its mean, as a part of it, up to which the gain of the invisible part is constant: up to
0.015 from orthogonal starts on digits."""
BENDS = 0.1
"""By how much the last decay ratio exceeds the first: on a straight line they are the same."""
PREDICTED = 0.15
"""How far the prediction may be from D, as a part of it."""
EXPLAINED = 1.05
"""Upper bound over decay ratio up to which bands explain a step."""
ALIKE = 0.1
"""How much biases may change D, as a part of it."""
THEOREM = "Theorem 4 (split certificate), in this documentation"
FLOOR = "floor and transient, the corollary of Theorem 4 in this documentation"
OURS = "measured with this library on digits"
NUMBERS = (
    "compression",
    "decay_ratio",
    "certified_lower",
    "certified_upper",
    "split_upper",
    "split_spectral_upper",
    "explanation_length",
    "compression_visible",
    "compression_invisible",
    "compression_floor",
    "compression_law",
)
"""Variables taken from the verification's dataset."""


@dataclass(frozen=True)
class TailShape:
    """Setting of the experiment: a hybrid for every loss, kind of initial weights, and with or without biases.

    Attributes
    ----------
    data : str
        A data spec.
    losses : tuple of str
        Any of "mse", "cross_entropy".
    inits : tuple of str
        Any of "orth" and "norm" (Gaussian), as `init_weights` takes them.
    biases : tuple of str
        Any of "without", "with".
    num_nonlinear, num_linear, width
        Hidden layers of either kind, and features of each.
    init_scale : float
        ε of the initial weights.
    epochs, batch_size : int
    optimizer, learning_rate, weight_decay
        Options of `fit`; the learning rate falls to a hundredth along a cosine.
    seed : int
        Seed of weights and batches.
    """

    data: str = "digits"
    losses: tuple[str, ...] = tuple(LOSSES)
    inits: tuple[str, ...] = tuple(INITS)
    biases: tuple[str, ...] = tuple(BIASES)
    num_nonlinear: int = 2
    num_linear: int = 4
    width: int = 64
    init_scale: float = 0.45
    epochs: int = 30
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("losses", LOSSES), ("inits", INITS), ("biases", BIASES)):
            chosen = getattr(self, name)
            if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
                found = ", ".join(map(str, chosen)) or "none"
                raise ValueError(f"`{name}` must be some of {', '.join(known)}, each once, got {found}")
        if self.num_nonlinear < 1 or self.num_linear < 2:
            raise ValueError(
                f"`num_nonlinear` must be at least 1 and `num_linear` 2, for two steps to compare, got "
                f"{self.num_nonlinear} and {self.num_linear}"
            )


def tail_shape(setting: TailShape, workplace: Workplace) -> xr.Dataset:
    """Train the hybrids and verify their linear tails.

    D = visible + invisible at every layer. The spread that the output sees is the output's own from the first linear
    layer on (mean squared error, orthogonal start); what it does not see shrinks by a nearly constant gain. So D falls
    geometrically onto a floor that the training loss sets, and ln D is no straight line. With the cross-entropy the
    visible part comes down to the floor within the tail, and from a Gaussian start the gain is not constant.

    Returns
    -------
    xarray.Dataset
        Along (network, layer), layer 0 what enters the tail: the numbers of `nc.verify` about the tail, and
        `invisible_gain` of each step; along `network`: `accuracy`, and the coordinates `loss`, `init`, `bias`.
    """
    kinds = list(itertools.product(setting.losses, setting.inits, setting.biases))
    names = [f"{LOSSES[loss]}, {INITS[init]}{BIASES[bias]}" for loss, init, bias in kinds]
    found = [workplace.part("-".join(kind), partial(_measured, *kind, setting, workplace)) for kind in kinds]
    dataset = xr.concat(found, dim="network", combine_attrs="drop_conflicts")
    losses, inits, biases = (("network", list(values)) for values in zip(*kinds, strict=True))
    return dataset.assign_coords(network=names, loss=losses, init=inits, bias=biases)


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """Every D lies in its band; what the visible part and the gain of the rest do depends on loss and start."""
    found = []
    for name in map(str, dataset["network"].values):
        network = dataset.sel(network=name)
        found += [_in_band(network, name), *_about(network, name, _unmet(network, name))]
    return [*found, *_about_biases(dataset)]


def _in_band(network: xr.Dataset, name: str) -> Verdict:
    """The theorem, which cannot fail unless the software does."""
    measured = network["compression"]
    sides = xr.concat([measured / network["certified_lower"], network["certified_upper"] / measured], "side")
    claim = f"{SOFTWARE}{name}: D of every layer lies in its certified band: least room to a side"
    return at_least(claim, THEOREM, -_largest(-sides), 1 - ROUNDING)


def _about(network: xr.Dataset, name: str, unmet: list[str]) -> list[Verdict]:
    """What is said of one loss and one kind of start."""
    gains = network["invisible_gain"][1:]
    varies = _largest(abs(gains / gains.mean() - 1))
    gain = f"{name}: gain of the invisible part over the layers, largest deviation from its mean"
    if network["init"] == "norm":
        return [at_least(f"{gain}: not constant", OURS, varies, CONSTANT, unmet=unmet)]
    visible = (network["compression_visible"] / network["compression_floor"])[1:]
    if network["loss"] == "cross_entropy":
        claim = f"{name}: visible part over D of the output falls: first linear layer over the last"
        return [at_least(claim, OURS, float(visible[0] / visible[-1]), MOST_VISIBLE, unmet=unmet)]
    ratios, deviation = network["decay_ratio"][1:], network["compression_law"] / network["compression"] - 1
    bands = (network["split_upper"] / network["decay_ratio"])[1:]
    bend = float(ratios[-1] - ratios[0])
    words = f"{name}: visible part over D of the output, from the first linear layer on"
    return [
        at_least(f"{words}, least", FLOOR, -_largest(-visible), LEAST_VISIBLE, unmet=unmet),
        at_most(f"{words}, largest", FLOOR, _largest(visible), MOST_VISIBLE, unmet=unmet),
        at_most(gain, FLOOR, varies, CONSTANT, unmet=unmet),
        at_least(f"{name}: ln D bends: last ratio less the first", FLOOR, bend, BENDS, unmet=unmet),
        at_most(f"{name}: floor + transient is off D by", FLOOR, _largest(abs(deviation)), PREDICTED, unmet=unmet),
        at_most(f"{name}: 16 bands explain each step: bound over ratio", OURS, _largest(bands), EXPLAINED, unmet=unmet),
    ]


def _about_biases(dataset: xr.Dataset) -> list[Verdict]:
    """The same network with biases: they fold into the tail and change little."""
    found = []
    names = [str(name) for name in dataset["network"].values]
    for name in names:
        biased = name + BIASES["with"]
        if biased in names:
            both = [dataset.sel(network=one) for one in (name, biased)]
            unmet = [reason for one, own in zip(both, (name, biased), strict=True) for reason in _unmet(one, own)]
            change = float(abs(both[1]["compression"].values / both[0]["compression"].values - 1).max())
            found.append(at_most(f"{name}: biases change D of any layer by", OURS, change, ALIKE, unmet=unmet))
    return found


def _largest(values: xr.DataArray) -> float:
    """The largest of all; NaN if one is undefined."""
    return float(values.max(skipna=False))


def _unmet(network: xr.Dataset, name: str) -> list[str]:
    """Why a network does not count as trained."""
    accuracy = float(network["accuracy"])
    return [] if accuracy >= TRAINED else [f"{name}: training accuracy {accuracy:.3f} is below {TRAINED}"]


def _measured(loss: str, init: str, bias: str, setting: TailShape, workplace: Workplace) -> xr.Dataset:
    """Train one network and verify its tail."""
    samples = workplace.samples(setting.data)
    network = Perceptron(
        f"{loss}-{init}-{bias}", setting.num_nonlinear, setting.num_linear, bias=bias == "with", init=init
    )
    model, _ = train_perceptron(network, Recipe.of(setting, loss=loss), samples, workplace)
    loader = samples.loader(500)
    found = verify(model, loader).dataset[list(NUMBERS)].drop_vars(["layer_name", "feature_dimension"])
    found["layer"].attrs["long_name"] = "layer, 0 is what enters the tail"
    features = analyze(model, loader, layers="layers.*", progress=False)
    between = features["between_trace"].values[setting.num_nonlinear - 1 :]
    invisible = found["compression_invisible"].values
    gains = np.full(len(invisible), np.nan)
    gains[1:] = invisible[1:] / invisible[:-1] * between[1:] / between[:-1]
    words = {"long_name": "gain of the spread that the output does not see", "symbol": "g_l", "units": "1"}
    accuracy = ((), evaluate(model, samples).accuracy, {"long_name": "training accuracy", "units": "1"})
    found.attrs = {}  # of one network, and of a verification
    return found.assign(invisible_gain=("layer", gains, words), accuracy=accuracy)


EXPERIMENT = Experiment(
    name="tail-shape",
    shows="In a linear tail D falls geometrically onto a floor that the training loss sets, inside a certified band.",
    source="split certificate, theorems in this documentation; networks are Wang et al.'s hybrids, the data our choice",
    small=TailShape(),
    paper=TailShape(data="cifar10", num_nonlinear=3, width=512, epochs=200, learning_rate=3e-4),
    durations=("40 s", "hours"),
    run=tail_shape,
    draw=tail_shape_figure,
    claims=claims,
)

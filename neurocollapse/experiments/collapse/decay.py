"""How initial scale, its kind and depth set the decay of D_l: small networks on orthonormal data.

Four experiments share one run: `collapse-depth`, `collapse-scale`, `collapse-init` and `scale-tradeoff`.
"""

import itertools
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import xarray as xr

from neurocollapse.data.synthetic import balanced_labels, near_orthonormal, one_hot
from neurocollapse.experiments.collapse.decay_claims import TRAINED, decay_claims, tradeoff_claims
from neurocollapse.experiments.collapse.stack import Stack, descend_stack, features, stacked
from neurocollapse.experiments.experiment import Experiment
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.metrics import compression, geometric_decay
from neurocollapse.models.linear import linear_weights
from neurocollapse.plots.experiments.collapse import draw_decay, draw_tradeoff
from neurocollapse.statistics import ClassMoments
from neurocollapse.support.quiet import one_thread

NETWORK = ("activation", "depth", "init_scale", "init", "seed")
"""The dimensions along which networks differ."""
RECORDS = 1000
"""Losses kept of a run, about."""


@dataclass(frozen=True)
class Collapse:
    """Setting: every combination of depth, scale, kind and activation is trained.

    Attributes
    ----------
    depths
        L, weight matrices of a network.
    init_scales
        ε of the initialisation.
    inits
        Kinds of initialisation, see `neurocollapse.models.linear.DeepLinear`.
    activations
        "linear", "relu" (after every layer but the last).
    num_classes, samples_per_class, width
        K, n, and the features of the data and of each hidden layer; the K·n samples are orthonormal.
    learning_rate
        η of gradient descent on the half mean of squares over all N·K output entries.
    linear_tolerance, relu_tolerance
        The loss at which training stops. At 1e-6 what is left of it still exceeds the within-class spread of the last
        layers of deep linear networks; ReLU networks approach zero too slowly to go far below.
    num_steps
        The most steps to take.
    num_seeds, seed
        Networks of each kind, and the first of their seeds (of data and weights).
    """

    depths: tuple[int, ...] = (4, 6)
    init_scales: tuple[float, ...] = (0.5,)
    inits: tuple[str, ...] = ("orth",)
    activations: tuple[str, ...] = ("linear", "relu")
    num_classes: int = 5
    samples_per_class: int = 10
    width: int = 50
    learning_rate: float = 1.0
    linear_tolerance: float = TRAINED["linear"]
    relu_tolerance: float = TRAINED["relu"]
    num_steps: int = 20_000
    num_seeds: int = 4
    seed: int = 0


def collapse(setting: Collapse, workplace: Workplace) -> xr.Dataset:
    """Train all networks and measure D at every layer, and the loss along training.

    Returns
    -------
    xarray.Dataset
        `compression` along (activation, depth, init_scale, init, seed, layer) with layer 0 the data, NaN beyond the
        last hidden layer; the straight line through its logarithm; `loss` along step, NaN after the end.

    Raises
    ------
    ValueError
        If an activation is neither "linear" nor "relu", or the samples do not fit into the width.
    """
    for activation in setting.activations:
        if activation not in ("linear", "relu"):
            raise ValueError(f"`activations` must be 'linear' or 'relu', got {activation!r}")
    with one_thread():
        parts = [
            workplace.part(f"{activation}-{depth}", partial(_trained, setting, activation, depth, workplace))
            for activation, depth in itertools.product(setting.activations, setting.depths)
        ]
    dataset = xr.merge(parts, join="outer", compat="no_conflicts")
    order = {"activation": list(setting.activations), "depth": list(setting.depths)}
    return _described(dataset.sel(order))


def _trained(setting: Collapse, activation: str, depth: int, workplace: Workplace) -> xr.Dataset:
    """All networks of one depth and activation, in one stack."""
    relu = activation == "relu"
    seeds = range(setting.seed, setting.seed + setting.num_seeds)
    kinds = list(itertools.product(setting.init_scales, setting.inits, seeds))
    num_samples = setting.num_classes * setting.samples_per_class
    widths = [setting.width] * depth + [setting.num_classes]
    labels = balanced_labels(setting.num_classes, setting.samples_per_class)
    inputs = torch.stack([near_orthonormal(num_samples, setting.width, seed=seed).T for *_, seed in kinds])
    every = max(1, setting.num_steps // RECORDS)
    stack = descend_stack(
        stacked([linear_weights(widths, init, scale, seed=seed) for scale, init, seed in kinds]),
        inputs,
        one_hot(labels).T.contiguous(),
        learning_rate=setting.learning_rate,
        num_steps=setting.num_steps,
        tolerance=setting.relu_tolerance if relu else setting.linear_tolerance,
        relu=relu,
        every=every,
        progress=workplace.progress,
    )
    layers = features(stack.weights, inputs, relu=relu)[:-1]
    values = np.array([[compression(ClassMoments.from_features(one.T, labels)) for one in layer] for layer in layers]).T
    shape = (len(setting.init_scales), len(setting.inits), setting.num_seeds)
    coords = {
        "activation": [activation],
        "depth": [depth],
        "init_scale": list(setting.init_scales),
        "init": list(setting.inits),
        "seed": list(seeds),
    }
    return _measured(stack, values, shape, every).assign_coords(coords)


def _measured(stack: Stack, values: np.ndarray, shape: tuple[int, ...], every: int) -> xr.Dataset:
    """The numbers of one stack; D as an array of shape (networks, layers)."""
    fits = [geometric_decay(one) for one in values]
    single = {
        "steps": stack.steps.double().numpy(),
        "final_loss": stack.final_loss.numpy(),
        "converged": stack.converged.double().numpy(),
        "slope": np.array([fit.slope for fit in fits]),
        "r_squared": np.array([fit.r_squared for fit in fits]),
    }
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        name: (NETWORK, array.reshape(1, 1, *shape)) for name, array in single.items()
    }
    variables["compression"] = ((*NETWORK, "layer"), values.reshape(1, 1, *shape, -1))
    variables["loss"] = ((*NETWORK, "step"), stack.losses.T.numpy().reshape(1, 1, *shape, -1))
    records = len(stack.losses)
    return xr.Dataset(variables, coords={"layer": np.arange(values.shape[1]), "step": every * np.arange(records)})


def _described(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with what each variable is."""
    about = {
        "compression": ("within- over between-class variability", "D_l"),
        "loss": ("half mean of squared errors over all output entries", ""),
        "steps": ("steps of gradient descent taken", ""),
        "final_loss": ("loss at the end", ""),
        "converged": ("1 where the loss fell to the tolerance", ""),
        "slope": ("slope of ln D_l against l, least squares over the layers 0 … L−1", r"\ln D_{l+1}/D_l"),
        "r_squared": ("R² of the straight line through ln D_l", "R^2"),
    }
    for name, (long_name, symbol) in about.items():
        dataset[name].attrs.update(long_name=long_name, units="1", **({"symbol": symbol} if symbol else {}))
    return dataset


SOURCE = "Yaras et al., arXiv 2306.01154; Wang et al., JMLR 26(220), 2025"
SCALES = Collapse(depths=(4,), init_scales=(0.5, 0.25, 0.125), learning_rate=10.0, num_steps=4000)
KINDS = Collapse(depths=(8,), inits=("orth", "norm", "unif"), num_steps=100_000, num_seeds=6)

DEPTH = Experiment(
    name="collapse-depth",
    shows="Every layer divides D by the same factor, which the depth hardly changes.",
    source=SOURCE,
    small=Collapse(),
    paper=Collapse(depths=(6, 8, 10), num_steps=100_000, num_seeds=8),
    durations=("12 s", "5 min"),
    run=collapse,
    draw=draw_decay,
    claims=decay_claims,
)
SCALE = Experiment(
    name="collapse-scale",
    shows="A smaller initial scale compresses more at every layer.",
    source=SOURCE,
    small=SCALES,
    paper=SCALES,
    durations=("3 s", "3 s"),
    run=collapse,
    draw=draw_decay,
    claims=decay_claims,
)
INIT = Experiment(
    name="collapse-init",
    shows="Normal and uniform initial weights let D decay as geometrically as orthogonal ones, and a little faster.",
    source=SOURCE,
    small=replace(KINDS, activations=("linear",), num_steps=8000),
    paper=KINDS,
    durations=("8 s", "3 min"),
    run=collapse,
    draw=draw_decay,
    claims=decay_claims,
)
TRADEOFF = Experiment(
    name="scale-tradeoff",
    shows="What a small initial scale gains in compression it costs in training time.",
    source=SOURCE,
    small=SCALES,
    paper=SCALES,
    durations=("3 s", "3 s"),
    run=collapse,
    draw=draw_tradeoff,
    claims=tradeoff_claims,
)

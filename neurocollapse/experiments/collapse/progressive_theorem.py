"""A deep linear network trained on noisy orthonormal data, and the theorem about it."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import xarray as xr
from torch import Tensor

from neurocollapse.data.synthetic import balanced_labels, noisy_orthonormal, one_hot
from neurocollapse.experiments.experiment import SOFTWARE, Experiment, at_least, near
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.metrics import compression, discrimination, geometric_decay
from neurocollapse.models.linear import linear_weights
from neurocollapse.plots.experiments.progressive_theorem import draw_progressive_theorem
from neurocollapse.statistics import ClassMoments
from neurocollapse.support.numbers import short
from neurocollapse.support.quiet import one_thread
from neurocollapse.theory import Verdict, Verification, verify
from neurocollapse.theory.posterior import POSTERIOR
from neurocollapse.train.descent import Descent, cosine, descend

COMPRESSION = (11.999, 3.482, 0.984, 0.276, 0.0775, 0.0217)
"""D_0 … D_5 as printed, of one seed, with the first sample of every class counted as its class mean."""
DISCRIMINATION = (0.9681, 0.9716, 0.9761, 0.9809, 0.9859)
"""S_1 … S_5 as printed, of one seed."""
MISSING = (0.02433, 0.01965, 0.01497, 0.01055, 0.00679)
SPREAD = (0.02333, 0.01891, 0.01434, 0.00987, 0.00613)
"""Mean and standard deviation of 1 − S_1 … 1 − S_5 over 512 networks, seeds 1000 to 1511, in the setting as printed."""
POPULATION = 512
PERCENT = 0.025
"""Per cent of networks that must lie on either side of a printed one for it to count as one of them."""
MANY = 16
"""Networks whose mean S_l is straight but for one draw in 4000; that of eight bends in one of 80, of four in one of 15.
"""
ROUNDING = 1e-12
"""S_l that differ by less are equal, as they are before training, when orthogonal layers change no angle."""
SMALL_RATE = 0.4
"""Rate up to which its leading order suffices: D falls faster by 1 % at 0.28, by 2 % at 0.36 and by 5 % at 0.51."""
SOURCE = "published program of Wang et al., JMLR 26(220), 2025"
OURS = "measured with this library"
THEOREM = "Wang et al., JMLR 26(220), 2025, Theorem 4"


@dataclass(frozen=True)
class ProgressiveTheorem:
    """Setting of the experiment, as the source prints it.

    Attributes
    ----------
    num_classes, samples_per_class : int
    width, depth : int
        Features of the data and of every hidden layer; number of weight matrices.
    noise : float
        Frobenius norm of what is added to orthonormal samples.
    init_scale : float
        ε of the orthogonal initialisation.
    output_scale : float
        α: the network's output is α W_{L:1} x.
    learning_rate : float
        Learning rate of the loss Σ‖α W_{L:1} x_i − y_i‖² / N; falls to a tenth along a cosine.
    num_steps : int
    tolerance : float
        Loss at which training stops; nothing is claimed of networks above the printed one.
    num_seeds, seed : int
        Networks of the experiment, and the first of their seeds (of data and weights).
    """

    num_classes: int = 3
    samples_per_class: int = 10
    width: int = 50
    depth: int = 6
    noise: float = 1.0
    init_scale: float = 0.3
    output_scale: float = 100.0
    learning_rate: float = 0.1
    num_steps: int = 2000
    tolerance: float = 1e-11
    num_seeds: int = 64
    seed: int = 0


def progressive_theorem(setting: ProgressiveTheorem | None = None, *, seed: int | None = None) -> Verification:
    """Train the network and verify progressive compression and separation on it. Takes a few seconds.

    Parameters
    ----------
    setting : ProgressiveTheorem, optional
        Default: the printed one.
    seed : int, optional
        Seed of data and initial weights; default: the setting's.

    References
    ----------
    Qu, slides of 7 September 2023; Wang et al., JMLR 26(220), 2025.
    """
    setting = setting or ProgressiveTheorem()
    weights, inputs, labels = train_linear_network(setting, seed=setting.seed if seed is None else seed)
    return verify(weights, inputs, labels, output_scale=setting.output_scale)


def train_linear_network(setting: ProgressiveTheorem, *, seed: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Train a deep linear network and return its weights, the inputs (samples, features) and the labels (samples,).

    Parameters
    ----------
    setting : ProgressiveTheorem
        Sizes, data and training.
    seed : int
        Seed of the data and of the initial weights.
    """
    result, inputs, labels = _descended(setting, seed)
    return list(result.weights), inputs, labels


def progressive_seeds(setting: ProgressiveTheorem, workplace: Workplace) -> xr.Dataset:
    """Train one network a seed; what every layer does, counted properly and as the source counts, and its bracket.

    The printed D_0 = 11.999 lies three standard deviations below K(n−1)/(K−1) = 13.5, where noisy orthonormal samples
    scatter. The source's program adds the class mean up in the memory of the class's first sample, which then has no
    deviation from it: at every layer D comes out (n−1)/n as large, about. `compression_as_printed` counts in the same
    way; ratios of neighbouring layers and S are hardly touched.

    Returns
    -------
    xarray.Dataset
        Along (seed, layer), layer 0 the data and l the output of W_l, l < L.
    """
    seeds = list(range(setting.seed, setting.seed + setting.num_seeds))
    with one_thread():
        networks = [_measured(setting, seed) for seed in seeds]
    dataset = xr.concat(networks, xr.Variable("seed", seeds))
    samples = setting.samples_per_class / setting.output_scale**2
    dataset["rate"] = setting.init_scale**2 / samples ** (1 / setting.depth)
    about = {
        "compression": ("within- over between-class variability", "D_l"),
        "compression_as_printed": ("the same, with the first sample of each class counted as its mean", "D_l"),
        "decay_ratio": ("D of this layer over D of the one before", "D_l/D_{l-1}"),
        "discrimination": ("1 − largest signed cosine of uncentred class means", "S_l"),
        "posterior_lower": ("lower bound of the decay ratio, a posteriori", ""),
        "posterior_upper": ("upper bound of the decay ratio, a posteriori", ""),
        "loss": ("sum of squared errors over the number of samples, at the end", ""),
        "minimum_norm": ("distance of the network from the exact fit of least norm, relative", ""),
        "rate": ("decay ratio of the theorem, with the output scale α", r"\varepsilon^2 (\alpha^2/n)^{1/L}"),
    }
    for name, (long_name, symbol) in about.items():
        dataset[name].attrs = {"long_name": long_name, "units": "1", **({"symbol": symbol} if symbol else {})}
    return dataset


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """What is printed, against the mean of the seeds, the rate of the theorem, and the a-posteriori brackets."""
    untrained = _untrained(dataset)
    unmet = [*_not_as_printed(dataset), *untrained]
    mean = dataset.mean("seed")
    verdicts = []
    for layer, printed in enumerate(COMPRESSION):
        claim, measured = f"D_{layer} = {printed:g}, counted as printed", _layer(mean["compression_as_printed"], layer)
        verdicts.append(near(claim, SOURCE, measured, printed, unmet=unmet))
    for layer in range(1, len(DISCRIMINATION) + 1):
        verdicts += _missing(dataset["discrimination"], layer, unmet)
    verdicts += [_straight(mean["discrimination"].values[1:], dataset.sizes["seed"], unmet), _rate(mean, untrained)]
    room = xr.concat(
        [dataset["decay_ratio"] / dataset["posterior_lower"], dataset["posterior_upper"] / dataset["decay_ratio"]],
        "side",
    ).isel(layer=slice(1, None))
    lost = int(room.isnull().any(("side", "layer")).sum())
    reasons = [f"{lost} of {dataset.sizes['seed']} networks have no bracket"] if lost else []
    claim = f"{SOFTWARE}every D_l/D_l−1 lies in its proven bracket (least room, as a factor)"
    return [*verdicts, at_least(claim, POSTERIOR.reference, float(room.min()), 1.0, unmet=reasons)]


def _layer(values: xr.DataArray, layer: int) -> float:
    """The value at a layer, NaN where the network has none."""
    return float(values[layer]) if layer < len(values) else math.nan


def _missing(discrimination: xr.DataArray, layer: int, unmet: list[str]) -> list[Verdict]:
    """The mean 1 − S_l, against networks of other seeds; and where the one printed network stands among these."""
    count, known, printed = discrimination.sizes["seed"], MISSING[layer - 1], 1 - DISCRIMINATION[layer - 1]
    values = 1 - discrimination.isel(layer=layer) if layer < discrimination.sizes["layer"] else None
    mean = math.nan if values is None else float(values.mean())
    below = math.nan if values is None else float((values < printed).mean())
    room = NormalDist().inv_cdf(0.995) * SPREAD[layer - 1] * (1 / count + 1 / POPULATION) ** 0.5
    few = [f"{count} networks are too few to tell where one stands"] if count * PERCENT < 1 else []
    claim = f"1 − S_{layer} = {printed:.4f} is one network's: share of networks below it"
    return [
        near(f"mean 1 − S_{layer} as of {POPULATION} others", OURS, mean, known, within=room / known, unmet=unmet),
        Verdict.judge(claim, SOURCE, below, lower=PERCENT, upper=1 - PERCENT, tolerance=0.0, unmet=[*unmet, *few]),
    ]


def _straight(growth: np.ndarray, num_networks: int, unmet: list[str]) -> Verdict:
    """The mean S_1, …, S_L−1 against a straight line."""
    reasons = [*unmet]
    if len(growth) < 3:
        reasons.append("a line through fewer than three points is always straight")
    if num_networks < MANY:
        reasons.append(f"the mean of fewer than {MANY} networks may bend by chance")
    grows = len(growth) > 2 and np.ptp(growth) > ROUNDING
    straight = float(np.corrcoef(np.arange(len(growth)), growth)[0, 1]) if grows else math.nan
    claim = "S_1, …, S_L−1 grow along a straight line (correlation with l)"
    return at_least(claim, SOURCE, straight, 0.99, unmet=reasons)


def _rate(mean: xr.Dataset, unmet: list[str]) -> Verdict:
    """The factor per layer against ε²(α²/n)^{1/L}."""
    factor, rate = geometric_decay(mean["compression"].values).factor, float(mean["rate"])
    reasons = [*unmet, *([f"the rate {short(rate, 3)} is not small"] if rate > SMALL_RATE else [])]
    return near("D_l/D_l−1 = ε²(α²/n)^(1/L)", THEOREM, factor, rate, unmet=reasons)


def _descended(setting: ProgressiveTheorem, seed: int) -> tuple[Descent, Tensor, Tensor]:
    """The descent of one seed, its inputs and its labels."""
    num_samples = setting.num_classes * setting.samples_per_class
    inputs = noisy_orthonormal(num_samples, setting.width, noise=setting.noise, seed=seed)
    labels = balanced_labels(setting.num_classes, setting.samples_per_class)
    widths = [setting.width] * setting.depth + [setting.num_classes]
    result = descend(
        linear_weights(widths, "orth", setting.init_scale, seed=seed),
        inputs,
        one_hot(labels),
        learning_rate=cosine(setting.learning_rate, setting.learning_rate / 10, setting.num_steps),
        num_steps=setting.num_steps,
        tolerance=setting.tolerance,
        reduction="sum_over_samples",
        output_scale=setting.output_scale,
    )
    return result, inputs, labels


def _measured(setting: ProgressiveTheorem, seed: int) -> xr.Dataset:
    """The network of one seed."""
    trained, inputs, labels = _descended(setting, seed)
    weights = trained.weights
    verification = verify(weights, inputs, labels, output_scale=setting.output_scale)
    table = verification.to_dataset()[["compression", "decay_ratio", "posterior_lower", "posterior_upper"]]
    features = [inputs]
    for weight in weights[:-1]:
        features.append(features[-1] @ weight.T)
    moments = [ClassMoments.from_features(layer, labels) for layer in features]
    firsts = slice(None, None, setting.samples_per_class)
    without = [
        float((layer[firsts] - one.mean).square().sum() / one.scatter.sum())
        for layer, one in zip(features, moments, strict=True)
    ]
    values = np.array([compression(one) for one in moments])
    return xr.Dataset(
        {
            **{str(name): ("layer", table[name].values) for name in table.data_vars},
            "compression_as_printed": ("layer", values * (1 - np.array(without))),
            "discrimination": ("layer", [discrimination(one) for one in moments]),
            "loss": trained.loss,
            "minimum_norm": verification.assumptions["minimum_norm"].residual,
        },
        coords={"layer": np.arange(setting.depth)},
    )


def _untrained(dataset: xr.Dataset) -> list[str]:
    """Whether a network was left above the printed tolerance."""
    printed = ProgressiveTheorem().tolerance
    late = int((dataset["loss"] > printed).sum())
    return (
        [f"{late} of {dataset.sizes['seed']} networks were not trained to a loss of {short(printed)}"] if late else []
    )


def _not_as_printed(dataset: xr.Dataset) -> list[str]:
    """In which ways the setting differs from the printed one."""
    printed = ProgressiveTheorem()
    names = ("num_classes", "samples_per_class", "width", "depth", "noise", "init_scale", "output_scale")
    return [
        f"printed for {name} = {getattr(printed, name)}"
        for name in names
        if dataset.attrs[name] != getattr(printed, name)
    ]


EXPERIMENT = Experiment(
    name="progressive-theorem",
    shows="A trained deep linear network compresses at the rate of the theorem and separates linearly.",
    source="Qu, slides of 7 September 2023; Wang et al., JMLR 26(220), 2025",
    small=ProgressiveTheorem(),
    paper=ProgressiveTheorem(num_seeds=200),
    durations=("5 s", "15 s"),
    run=progressive_seeds,
    draw=draw_progressive_theorem,
    claims=claims,
)

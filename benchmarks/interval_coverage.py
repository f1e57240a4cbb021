"""How often intervals of 95 % hold the true D, ratio and slope: `python benchmarks/interval_coverage.py --draws 500`.

Three layers see the same samples of Gaussian or heavy-tailed classes whose means and variances are known. Prints, for
each number of classes and of samples per class, the share of draws whose intervals hold the truth, and the mean of the
raw and of the unbiased D of the first layer over its true value.
"""

import argparse
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np
import torch

from neurocollapse.metrics import Layer, Rows, SampleWarning, Weighting
from neurocollapse.metrics.catalogue import chosen_quantities
from neurocollapse.metrics.measure import Extra, measured
from neurocollapse.metrics.uncertainty import influences
from neurocollapse.statistics import ClassMoments, MomentCollection

CLASSES, SAMPLES = (3, 10, 30, 100), (5, 10, 20, 50, 200)
FEATURES = 24
DEVIATIONS = (1.6, 1.0, 0.7)
"""Deviations of the noise in the three layers, beside class means of variance one."""
COMMON = 0.8
"""Share of a layer's noise that all layers have in common; with 0.6 of their own its variance is one."""
COVERED = ("D", "ratio", "slope")
CHOSEN = chosen_quantities(
    ("compression", "compression_interval", "decay_ratio_interval", "decay_slope_interval", "unbiased")
)
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--noise", nargs="+", choices=(*NOISES, *OTHERS), default=tuple(NOISES))
    options = parser.parse_args(arguments)
    columns = ["classes", "samples a class", "noise", *COVERED, "raw D", "unbiased D"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    warnings.simplefilter("ignore", SampleWarning)  # few samples are what it is about
    for noise, num_classes, size in product(options.noise, options.classes, options.samples):
        found = coverage((NOISES | OTHERS)[noise], num_classes, size, options.draws, seed=num_classes + size)
        shares = [f"{100 * found[name]:.1f} %" for name in COVERED]
        cells = [num_classes, size, noise, *shares, f"{found['raw D']:.3f}", f"{found['unbiased D']:.3f}"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def coverage(draw: Draw, num_classes: int, size: int, draws: int, *, seed: int) -> Mapping[str, float]:
    """Share of the draws whose intervals hold the population's D, ratio and slope; mean D over the true one.

    Parameters
    ----------
    draw
        Noise of variance one, of a shape.
    num_classes, size, draws
        Classes, samples of each, and data sets.
    seed
        Of class means and noise.
    """
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(num_classes, FEATURES))
    labels = np.repeat(np.arange(num_classes), size)
    between = float(((centres - centres.mean(axis=0)) ** 2).sum()) / num_classes
    truth = np.array([FEATURES * one**2 / between for one in DEVIATIONS])
    ratio, slope = truth[1:] / truth[:-1], float(np.polyfit(np.arange(len(truth)), np.log(truth), 1)[0])
    found = []
    for _ in range(draws):
        common, own = draw(generator, (len(labels), FEATURES)), draw(generator, (3, len(labels), FEATURES))
        rest = math.sqrt(1 - COMMON**2)
        layers = [centres[labels] + s * (COMMON * common + rest * one) for s, one in zip(DEVIATIONS, own, strict=True)]
        one = intervals(layers, labels)
        low, high = one["decay_slope_interval"]
        found.append(
            [
                _held(one["compression_interval"], truth),
                _held(one["decay_ratio_interval"][1:], ratio),
                low <= slope <= high,
                one["compression"][0] / truth[0],
                one["compression_unbiased"][0] / truth[0],
            ]
        )
    return dict(zip((*COVERED, "raw D", "unbiased D"), np.mean(found, axis=0).tolist(), strict=True))


def intervals(
    layers: Sequence[np.ndarray], labels: np.ndarray, weighting: Weighting = "equal"
) -> dict[str, np.ndarray]:
    """All intervals of layers that saw the same samples, with D raw and unbiased."""
    collection = MomentCollection({f"{i}": ClassMoments.from_features(z, labels) for i, z in enumerate(layers)})
    rows = [
        influences(Layer(moments, weighting), Rows(torch.as_tensor(z), torch.as_tensor(labels)))
        for moments, z in zip(collection.values(), layers, strict=True)
    ]
    table = torch.stack(rows)
    dataset = measured(collection, CHOSEN, weighting, Extra(influence=(table @ table.T).numpy()))
    return {str(name): values.values for name, values in dataset.data_vars.items()}


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Gaussian noise of variance one."""
    return generator.normal(size=shape)


def heavy(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Student's t with five degrees of freedom, scaled to variance one."""
    return generator.standard_t(5, size=shape) * math.sqrt(3 / 5)


def stretched(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Multivariate t with five degrees of freedom, of variance one: all features of a sample are large together."""
    return generator.normal(size=shape) * np.sqrt(3 / generator.chisquare(5, size=(*shape[:-1], 1)))


NOISES = {"Gaussian": normal, "Student t₅": heavy}
"""Those for which the intervals hold what they promise."""
OTHERS = {"multivariate t₅": stretched}
"""Those for which they are too short."""


def _held(bounds: np.ndarray, truth: np.ndarray) -> float:
    """Share of intervals, shape (values, 2), that hold the truth."""
    return float(np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])))


if __name__ == "__main__":
    main()

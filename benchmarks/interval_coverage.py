"""How often intervals of 95 % hold the true D, ratio and slope: `python benchmarks/interval_coverage.py --draws 500`.

Three layers see the same samples of Gaussian or heavy-tailed classes whose means and variances are known. Prints, for
each number of classes and of samples per class, the share of draws whose intervals hold the truth, the mean of the raw,
of the unbiased and of the corrected D of the first layer over its true value, and the share without a corrected D.
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
from neurocollapse.metrics.influence import influences
from neurocollapse.metrics.layer import InfluenceSums
from neurocollapse.metrics.measure import Extra, measured
from neurocollapse.statistics import ClassMoments, MomentCollection

CLASSES, SAMPLES = (3, 10, 30, 100), (5, 10, 20, 50, 200)
FEATURES = 24
DEVIATIONS = (1.6, 1.0, 0.7)
"""Deviations of the noise in the three layers, beside class means of variance one."""
COMMON = 0.8
"""Share of a layer's noise that all layers have in common; with 0.6 of their own its variance is one."""
COVERED = ("D", "ratio", "slope")
MEANS = ("raw D", "unbiased D", "corrected D")
MISSING = "no corrected D"
CHOSEN = chosen_quantities(("compression", "compression_unbiased", "uncertainty"))
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--noise", nargs="+", choices=NOISES, default=tuple(NOISES))
    options = parser.parse_args(arguments)
    columns = ["classes", "samples a class", "noise", *COVERED, *MEANS, MISSING]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    warnings.simplefilter("ignore", SampleWarning)  # few samples are what it is about
    for noise, num_classes, size in product(options.noise, options.classes, options.samples):
        found = coverage(NOISES[noise], num_classes, size, options.draws, seed=num_classes + size)
        shares = [f"{100 * found[name]:.1f} %" for name in COVERED]
        means = [f"{found[name]:.3f}" for name in MEANS]
        cells = [num_classes, size, noise, *shares, *means, f"{100 * found[MISSING]:.1f} %"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def coverage(draw: Draw, num_classes: int, size: int, draws: int, *, seed: int) -> Mapping[str, float]:
    """Share of the draws whose intervals hold the population's D, ratio and slope; mean D over the true one.

    Means are over the draws in which the number is defined.

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
                one["compression_corrected"][0] / truth[0],
                np.isnan(one["compression_corrected"][0]),
            ]
        )
    return dict(zip((*COVERED, *MEANS, MISSING), np.nanmean(found, axis=0).tolist(), strict=True))


def intervals(
    layers: Sequence[np.ndarray], labels: np.ndarray, weighting: Weighting = "equal"
) -> dict[str, np.ndarray]:
    """All intervals of layers that saw the same samples, with D raw and unbiased."""
    collection = MomentCollection({f"{i}": ClassMoments.from_features(z, labels) for i, z in enumerate(layers)})
    rows = [
        influences(Layer(moments, weighting), Rows(torch.as_tensor(z), torch.as_tensor(labels)))
        for moments, z in zip(collection.values(), layers, strict=True)
    ]
    table = torch.stack([one.compression for one in rows])
    sums = InfluenceSums.of(table @ table.T, torch.stack([one.sums() for one in rows]))
    dataset = measured(collection, CHOSEN, weighting, Extra(influence=sums))
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


NOISES = {"Gaussian": normal, "Student t₅": heavy, "multivariate t₅": stretched}


def _held(bounds: np.ndarray, truth: np.ndarray) -> float:
    """Share of intervals, shape (values, 2), that hold the truth."""
    return float(np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])))


if __name__ == "__main__":
    main()

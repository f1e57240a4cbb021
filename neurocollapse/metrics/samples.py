"""What the numbers of classes and of samples alone do to a measurement."""

import math

import numpy as np
from numpy.typing import NDArray

from neurocollapse.metrics.spectrum import FEWEST
from neurocollapse.metrics.unbiased import between_noise, within_trace_unbiased
from neurocollapse.metrics.variability import within_trace
from neurocollapse.metrics.weighting import Weighting
from neurocollapse.statistics import ClassMoments, MomentCollection
from neurocollapse.support.numbers import short
from neurocollapse.support.text import listed, visible

WORTH_SAYING = 0.1
"""Relative bias of D, and difference from the papers' D, from which a warning says so."""
NAMED = 6
"""Most absent classes that are named one by one."""


class SampleWarning(UserWarning):
    """A result that stands, but shows how few classes or samples there are rather than the network."""


def sample_notes(
    collection: MomentCollection,
    weighting: Weighting | None,
    compression: NDArray[np.float64],
    between: NDArray[np.float64],
) -> list[str]:
    """A line each for one class, absent classes, two classes, classes of different size, and few samples.

    Where no weighting was asked for, the numbers are those of "equal".
    """
    moments = next(iter(collection.values()))
    present, num_classes = moments.present.numel(), moments.num_classes
    if present == 0:
        return []
    notes = []
    if present < num_classes:
        absent = [str(index) for index, count in enumerate(moments.count.tolist()) if not count]
        notes.append(
            f"no samples of {len(absent)} of {num_classes} classes ({listed(absent, most=NAMED)}): they are left out "
            f"of every number, and K is {present}"
        )
    if present == 1:
        notes.append("only one class has samples: D, separation and the angles between class means are undefined")
    if present == 2:
        notes.append(
            "with two classes the centred class means are opposite, whatever the features: separation S is always 0, "
            "and NC2 always reads as collapsed"
        )
    if weighting is None:
        notes += _notes_on_unequal(collection, compression, between)
    return notes + _notes_on_few(collection, weighting or "equal", compression, between)


def spectrum_note(collection: MomentCollection) -> list[str]:
    """A line if a layer has few samples for its features, so that its sample covariance has too low a rank."""
    few = {name: one for name, one in collection.items() if one.num_samples < FEWEST * one.num_features}
    if not few:
        return []
    worst = min(few, key=lambda name: few[name].num_samples / few[name].num_features)
    others = f"; this is the worst of {len(few)} layers" if len(few) > 1 else ""
    return [
        f"{few[worst].num_samples} samples for {few[worst].num_features} features at {visible(worst, most=60)}: "
        "ranks of the sample covariance are too low, the decay of its eigenvalues too steep; only "
        f"participation_ratio_corrected allows for that{others}"
    ]


def _notes_on_unequal(
    collection: MomentCollection, compression: NDArray[np.float64], between: NDArray[np.float64]
) -> list[str]:
    """A line if the papers' convention gives another D on classes of different size, with the layer of the worst."""
    worst, shift = "", WORTH_SAYING
    for (name, moments), equal, spread in zip(collection.items(), compression, between, strict=True):
        if not 0 < equal < np.inf:
            continue
        papers = within_trace(moments, weighting="papers") / spread
        if abs(math.log(papers / equal)) > shift:
            shift = abs(math.log(papers / equal))
            here, there = short(equal, 3), short(papers, 3)
            worst = f"D is {here} at {visible(name, most=60)}, and {there} with 1/N within and 1/K between"
    counts = next(iter(collection.values())).count
    sizes = f"{counts[counts > 0].min()} to {counts.max()} samples per class"
    return [f'{sizes}, all with weight 1/K: {worst}; choose by weighting="equal" or "papers"'] if worst else []


def _notes_on_few(
    collection: MomentCollection, weighting: Weighting, compression: NDArray[np.float64], between: NDArray[np.float64]
) -> list[str]:
    """A line if D would be another with more samples, with the layer where that is most so."""
    first = next(iter(collection.values()))
    counts = first.count[first.present].numpy()
    if counts.size < 2:
        return []
    few = f"few samples per class (smallest {counts.min()}, median {np.median(counts):g})"
    if counts.min() == 1:
        return [f"{few}: a single sample shows no spread within its class, so D reads too low"]
    worst, many, shift = "", 0.0, WORTH_SAYING
    for (name, moments), raw, spread in zip(collection.items(), compression, between, strict=True):
        if not 0 < raw < np.inf:
            continue
        estimate = _without_bias(moments, weighting, spread)
        if estimate / raw - 1 > shift:
            worst, many, shift = f"{short(raw, 3)} at {visible(name, most=60)}", estimate, estimate / raw - 1
    if not worst:
        return []
    said = f"about {short(many, 3)} with many" if np.isfinite(many) else "and its class means cannot be told from noise"
    others = f"; this is the worst of {len(collection)} layers" if len(collection) > 1 else ""
    return [f"{few}: D is {worst}, {said}{others}"]


def _without_bias(moments: ClassMoments, weighting: Weighting, between: float) -> float:
    """The unbiased D; infinite where the class means cannot be told from noise."""
    between -= between_noise(moments, weighting)
    return within_trace_unbiased(moments, weighting=weighting) / between if between > 0 else float("inf")

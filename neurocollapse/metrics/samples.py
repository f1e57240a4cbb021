"""What the numbers of classes and of samples alone do to a measurement."""

from collections.abc import Sequence

import numpy as np

from neurocollapse.metrics.weighting import Weighting, class_weights
from neurocollapse.statistics import ClassMoments, MomentCollection
from neurocollapse.support.text import listed, visible

WORTH_SAYING = 0.1
"""Relative bias of D from which few samples are warned of."""
NAMED = 6
"""Absent classes named one by one."""


class SampleWarning(UserWarning):
    """A result that stands, but shows how few classes or samples there are rather than the network."""


def sample_notes(
    collection: MomentCollection, weighting: Weighting, compression: Sequence[float], between: Sequence[float]
) -> list[str]:
    """A line each for one class, absent classes, two classes, and few samples."""
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
    return notes + _notes_on_few(collection, weighting, compression, between)


def compression_with_many(moments: ClassMoments, weighting: Weighting, between: float) -> float:
    r"""About what D would be with many samples of each class, given the between-class trace as it is.

    With :math:`t_k = q_k / (n_k - 1)` for the squared deviations :math:`q_k` of class k, the within-class trace is
    :math:`\sum_k n_k t_k / N`, and the between-class trace is too large by :math:`\sum_k p_k (1 - p_k) t_k / n_k`.

    Returns
    -------
    float
        Infinite where the class means cannot be told from noise; NaN where a class has a single sample.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[0.0], [2.0], [7.0], [9.0]], [0, 0, 1, 1])
    >>> round(compression_with_many(moments, "equal", 12.25), 12)  # 2 / (12.25 - 0.5)
    0.170212765957
    """
    present = moments.present
    count, weights = moments.count[present].double(), class_weights(moments, weighting)
    if bool((count == 1).any()):
        return float("nan")
    trace = moments.scatter[present] / (count - 1)
    between -= float((weights * (1 - weights) * trace / count).sum())
    return float((count * trace).sum() / count.sum()) / between if between > 0 else float("inf")


def _notes_on_few(
    collection: MomentCollection, weighting: Weighting, compression: Sequence[float], between: Sequence[float]
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
        estimate = compression_with_many(moments, weighting, spread) if 0 < raw < np.inf else np.nan
        if estimate / raw - 1 > shift:
            worst, many, shift = f"{raw:.3g} at {visible(name, most=60)}", estimate, estimate / raw - 1
    if not worst:
        return []
    said = f"about {many:.3g} with many" if np.isfinite(many) else "and its class means cannot be told from noise"
    others = f"; this is the worst of {len(collection)} layers" if len(collection) > 1 else ""
    return [f"{few}: D is {worst}, {said}{others}"]

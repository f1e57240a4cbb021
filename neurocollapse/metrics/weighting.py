"""How much each class counts, and class means about their weighted mean."""

from collections.abc import Iterator

import torch
from torch import Tensor

from neurocollapse.metrics.arguments import check_moments
from neurocollapse.statistics import ClassMoments
from neurocollapse.support.choices import Weighting, check_choice

_SAMPLES = "1/N over samples"
WITHIN = {"equal": "each class with weight 1/K, 1/n_k within it", "frequency": _SAMPLES, "papers": _SAMPLES}
"""How Σ_W is weighted, in words."""
_CLASSES = "each class with weight 1/K, centred at the mean of the class means"
BETWEEN = {
    "equal": _CLASSES,
    "frequency": "each class with weight n_k/N, centred at the mean of the samples",
    "papers": _CLASSES,
}
"""How Σ_B is weighted and centred, in words."""


def check_weighting(weighting: str) -> None:
    """Raise unless `weighting` is one of the conventions; called before a long run, too."""
    check_choice("weighting", weighting, Weighting)


def within_weights(moments: ClassMoments, weighting: Weighting) -> Tensor:
    """Weight in Σ_W of each class that is present, float64, summing to one."""
    check_weighting(weighting)
    return _weights(moments, by_samples=weighting != "equal")


def between_weights(moments: ClassMoments, weighting: Weighting) -> Tensor:
    """Weight p_k in Σ_B of each class that is present, float64, summing to one."""
    check_weighting(weighting)
    return _weights(moments, by_samples=weighting == "frequency")


def _weights(moments: ClassMoments, *, by_samples: bool) -> Tensor:
    """n_k/N, or 1/K."""
    check_moments(moments)
    count = moments.count[moments.present].double()
    return count / count.sum() if by_samples else torch.full_like(count, 1.0 / max(1, count.numel()))


def centred_blocks(moments: ClassMoments, weights: Tensor) -> Iterator[Tensor]:
    """Class means minus their weighted mean, in column blocks of shape (present classes, ≤ block features)."""
    for block in moments.mean_blocks():
        relative = block - block[:1]  # equal means become exactly zero, whatever the weights round to
        yield relative - weights @ relative

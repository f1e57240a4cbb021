"""How much each class counts, and class means about their weighted mean."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from neurocollapse.statistics import ClassMoments
from neurocollapse.support.choices import check_choice

Weighting = Literal["equal", "frequency"]
"""Of the classes in Σ_B: each with 1/K, or each with its share n_k/N of the samples."""

BETWEEN = {
    "equal": "each class with weight 1/K, centred at the mean of the class means",
    "frequency": "each class with weight n_k/N, centred at the mean of the samples",
}
"""How Σ_B is weighted and centred, in words."""


def check_weighting(weighting: str) -> None:
    """Raise unless `weighting` is one of the two conventions; called before a long run, too."""
    check_choice("weighting", weighting, Weighting)


def class_weights(moments: ClassMoments, weighting: Weighting) -> Tensor:
    """Weight p_k of each class that is present, float64, summing to one."""
    check_weighting(weighting)
    count = moments.count[moments.present].double()
    return count / count.sum() if weighting == "frequency" else torch.full_like(count, 1.0 / max(1, count.numel()))


def centred_blocks(moments: ClassMoments, weights: Tensor) -> Iterator[Tensor]:
    """Class means minus their weighted mean, in column blocks of shape (present classes, ≤ block features)."""
    for block in moments.mean_blocks():
        relative = block - block[:1]  # equal means become exactly zero, whatever the weights round to
        yield relative - weights @ relative

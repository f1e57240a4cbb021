"""Relative error of D, the within-class over the between-class trace, for several ways to accumulate it.

All methods see the same float32 features in batches; the truth is the two-pass computation in float64. Class means
have entries of order one; the within-class standard deviation is given as a fraction of the class means' norm.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurocollapse.statistics import ClassBatch, ClassMoments, MomentAccumulator

SPREADS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
BATCH_SIZE = 256
NUM_CLASSES = 10


class Sample(NamedTuple):
    """Features of shape (samples, features), their labels, and the number of classes."""

    features: Tensor
    labels: Tensor
    num_classes: int

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and labels, batch by batch."""
        return zip(self.features.split(BATCH_SIZE), self.labels.split(BATCH_SIZE), strict=True)


Method = Callable[[Sample], float]


def measure(
    spread: float, *, num_samples: int = 10_000, num_features: int = 512, num_classes: int = 10
) -> dict[str, Any]:
    """D in truth, and the relative error of every method."""
    sample = draw(spread, num_samples, num_features, num_classes)
    truth = two_pass(sample)
    errors = {name: abs(method(sample) / truth - 1) for name, method in METHODS.items()}
    return {"spread": spread, "compression": truth, "relative_error": errors}


def draw(spread: float, num_samples: int, num_features: int, num_classes: int) -> Sample:
    """Normal features around normal class means, rounded to float32."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (num_samples,), generator=generator)
    noise = torch.randn(num_samples, num_features, generator=generator, dtype=torch.float64)
    return Sample((means[labels] + spread * noise).float(), labels, num_classes)


def two_pass(sample: Sample) -> float:
    """The truth: class means first, then deviations, in float64."""
    features = sample.features.double()
    count = torch.bincount(sample.labels, minlength=sample.num_classes)
    means = torch.zeros(sample.num_classes, features.shape[1], dtype=torch.float64)
    means = means.index_add_(0, sample.labels, features) / count.unsqueeze(1)
    return ratio_of_traces((features - means[sample.labels]).square().sum(), means, len(features))


def raw_moments(sample: Sample, *, features: torch.dtype, totals: torch.dtype) -> float:
    """Σ‖z‖² − Σ n_k ‖μ_k‖²; products in the first dtype, sums over batches in the second."""
    sums = torch.zeros(sample.num_classes, sample.features.shape[1], dtype=totals)
    square = torch.zeros((), dtype=totals)
    for batch, labels in sample.batches():
        values = batch.to(features)
        sums += torch.zeros(sums.shape, dtype=features).index_add_(0, labels, values).to(totals)
        square += values.square().sum().to(totals)
    count = torch.bincount(sample.labels, minlength=sample.num_classes).to(totals).unsqueeze(1)
    return ratio_of_traces(square - (sums.square() / count).sum(), sums / count, len(sample.features))


def chan(sample: Sample) -> float:
    """Mean and scatter of every batch, merged by Chan's formula: float64 copies of every batch, two passes over it."""
    count = torch.zeros(sample.num_classes, 1, dtype=torch.float64)
    means = torch.zeros(sample.num_classes, sample.features.shape[1], dtype=torch.float64)
    scatter = torch.zeros((), dtype=torch.float64)
    for batch, labels in sample.batches():
        values = batch.double()
        own_count = torch.bincount(labels, minlength=sample.num_classes).unsqueeze(1)
        own_means = torch.zeros_like(means).index_add_(0, labels, values) / own_count.clamp(min=1)
        total = (count + own_count).clamp(min=1)
        difference = own_means - means
        scatter += (values - own_means[labels]).square().sum()
        scatter += (difference.square() * (count * own_count / total)).sum()
        means += difference * (own_count / total)
        count += own_count
    return ratio_of_traces(scatter, means, len(sample.features))


def ours(sample: Sample, *, precision: str) -> float:
    """The library's accumulator."""
    accumulator = MomentAccumulator(sample.num_classes, sample.features.shape[1], precision=precision)
    for batch, labels in sample.batches():
        accumulator.update(batch, ClassBatch(labels, sample.num_classes))
    moments: ClassMoments = accumulator.moments()
    return ratio_of_traces(moments.scatter.sum(), moments.mean, moments.num_samples)


def ratio_of_traces(scatter: Tensor, means: Tensor, num_samples: int) -> float:
    """tr Σ_W / tr Σ_B with every class weighted equally in Σ_B."""
    between = (means - means.mean(dim=0)).square().sum() / len(means)
    return float(scatter / num_samples / between)


METHODS: dict[str, Method] = {
    "raw f32": lambda sample: raw_moments(sample, features=torch.float32, totals=torch.float32),
    "raw f32, f64 totals": lambda sample: raw_moments(sample, features=torch.float32, totals=torch.float64),
    "raw f64": lambda sample: raw_moments(sample, features=torch.float64, totals=torch.float64),
    "Chan f64": chan,
    "ours single": lambda sample: ours(sample, precision="single"),
    "ours double": lambda sample: ours(sample, precision="double"),
}

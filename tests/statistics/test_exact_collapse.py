"""Collapsed, missing and degenerate classes have exact, documented answers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from neurocollapse.metrics import between_trace, compression, decay_ratio, separation, total_trace, within_trace
from neurocollapse.statistics import ClassMoments

Stream = Callable[..., Any]


def collapsed(num_features: int, dtype: torch.dtype = torch.float32, repeats: int = 37) -> Any:
    """Classes of one repeated point each, whose multiples round in every dtype."""
    generator = torch.Generator().manual_seed(1)
    points = (torch.randn(5, num_features, generator=generator) / 3 + 100).to(dtype)
    labels = torch.randperm(5 * repeats, generator=generator) % 5
    return points[labels], labels


@pytest.mark.parametrize("covariance", [False, True])
@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("num_features", [3, 128, 300])
def test_full_collapse_is_exactly_zero(
    num_features: int, dtype: torch.dtype, precision: str, covariance: bool, stream: Stream
) -> None:
    features, labels = collapsed(num_features, dtype)
    moments = stream(features, labels, 5, batch_size=11, precision=precision, covariance=covariance).moments()
    assert moments.scatter.tolist() == [0.0] * 5
    assert within_trace(moments) == 0.0
    assert compression(moments) == 0.0
    assert torch.equal(moments.mean, torch.stack([features[labels == k][0] for k in range(5)]).double())
    if moments.within_scatter is not None:
        assert not moments.within_scatter.any()


@pytest.mark.parametrize("covariance", [False, True])
def test_full_collapse_stays_exactly_zero_through_merges(covariance: bool, stream: Stream) -> None:
    features, labels = collapsed(300)
    parts = [
        stream(features[rows], labels[rows], 5, precision=precision, covariance=covariance).moments()
        for rows, precision in zip(torch.arange(len(labels)).split(40), ["single", "double"] * 3, strict=False)
    ]
    merged = ClassMoments.empty(5, 300, covariance=covariance)
    for part in parts:
        merged = part.merge(merged)
    assert compression(merged) == 0.0
    assert merged.scatter.tolist() == [0.0] * 5
    if merged.within_scatter is not None:
        assert not merged.within_scatter.any()


def test_a_collapsed_class_stays_zero_while_another_moves_its_reference(stream: Stream) -> None:
    features, labels = collapsed(300)
    features[labels == 3] += torch.linspace(0, 5, int((labels == 3).sum())).unsqueeze(1)
    features[(labels == 3).nonzero()[:3]] += 1e4  # the median of three outliers is one
    scatter = stream(features, labels, 5, batch_size=3).moments().scatter
    assert (scatter == 0).tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("num_classes", range(2, 13))
@pytest.mark.parametrize("num_features", [1, 400])
def test_constant_features_have_no_compression(num_features: int, num_classes: int, stream: Stream) -> None:
    moments = stream(torch.full((20, num_features), 0.1), torch.arange(20) % num_classes, num_classes).moments()
    assert (within_trace(moments), between_trace(moments), total_trace(moments)) == (0.0, 0.0, 0.0)
    assert math.isnan(compression(moments))
    assert math.isnan(separation(moments))


def test_coinciding_means_of_spread_classes_are_infinitely_far_from_collapse() -> None:
    moments = ClassMoments.from_features([[1.0], [-1.0], [2.0], [-2.0]], [0, 0, 1, 1])
    assert compression(moments) == math.inf


def test_one_class_has_a_within_trace_and_no_compression() -> None:
    moments = ClassMoments.from_features([[0.0, 0.0], [2.0, 4.0]], [0, 0])
    assert within_trace(moments) == pytest.approx(5.0, rel=1e-15)  # norms are squared after their root
    assert between_trace(moments) == 0.0
    assert math.isnan(compression(moments))
    assert math.isnan(separation(moments))


@pytest.mark.parametrize("num_features", [2, 200])
def test_one_sample_per_class_is_collapsed(num_features: int, stream: Stream) -> None:
    features = torch.randn(7, num_features, generator=torch.Generator().manual_seed(0))
    moments = stream(features, torch.arange(7), 7).moments()
    assert moments.scatter.tolist() == [0.0] * 7
    assert compression(moments) == 0.0


def test_absent_classes_change_no_trace_and_have_nan_means(stream: Stream) -> None:
    features, labels = collapsed(4)
    features = features + torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
    dense = stream(features, labels, 5).moments()
    sparse = stream(features, 2 * labels + 1, 12).moments()
    assert sparse.present.tolist() == [1, 3, 5, 7, 9]
    assert torch.equal(sparse.mean[1:10:2], dense.mean)
    assert sparse.mean[::2].isnan().all()
    assert not sparse.scatter[::2].any()
    for measure in (within_trace, between_trace, compression, separation):
        assert measure(sparse) == measure(dense)


def test_more_classes_than_features_are_measured(stream: Stream) -> None:
    labels = torch.arange(60) % 20
    features = labels.unsqueeze(1) * torch.tensor([[1.0, 0.0]])
    moments = stream(features, labels, 20).moments()
    assert compression(moments) == 0.0
    assert between_trace(moments) == pytest.approx((20**2 - 1) / 12, rel=1e-15)  # variance of 0 … 19


def test_no_samples_have_no_traces() -> None:
    moments = ClassMoments.empty(3, 4)
    assert moments.num_samples == 0
    assert moments.mean.isnan().all()
    for measure in (within_trace, between_trace, total_trace, compression, separation):
        assert math.isnan(measure(moments))
    assert repr(moments) == "ClassMoments(0 samples, 0 of 3 classes present, 4 features)"


def test_no_labels_give_empty_moments() -> None:
    moments = ClassMoments.from_features(torch.empty(0, 4), [])
    assert (moments.num_samples, moments.num_classes, moments.num_features) == (0, 0, 4)


def test_collapse_within_the_layers_shows_in_the_decay_ratio() -> None:
    ratios = decay_ratio([1e-2, 0.0, 0.0, 1e-3])
    assert math.isnan(ratios[0])
    assert ratios[1] == 0.0
    assert math.isnan(ratios[2])
    assert ratios[3] == math.inf

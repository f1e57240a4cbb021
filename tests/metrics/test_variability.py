"""Traces and covariances are the naive ones, under both weightings and every invariance."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from neurocollapse.metrics import (
    Weighting,
    between_class_covariance,
    between_trace,
    compression,
    total_trace,
    within_class_covariance,
    within_trace,
)
from neurocollapse.statistics import ClassMoments

EXACT = 1e-13  # some hundred roundings of float64
WEIGHTINGS: tuple[Weighting, ...] = ("equal", "frequency", "papers")


def unbalanced(num_features: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Classes of 1, 4, 9, 16 and 25 samples, the fourth of seven classes absent."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.tensor([0, 1, 2, 4, 6]), torch.tensor([1, 4, 9, 16, 25]))
    means = 3 * torch.randn(7, num_features, generator=generator, dtype=torch.float64) + 5
    return means[labels] + torch.randn(55, num_features, generator=generator, dtype=torch.float64), labels


def naive(features: Tensor, labels: Tensor, weighting: str) -> tuple[Tensor, Tensor, Tensor]:
    """Within-class covariance in this weighting and by samples, and between-class covariance, all by loops."""
    classes = sorted(set(labels.tolist()))
    means = {k: sum(z for z, y in zip(features, labels.tolist(), strict=True) if y == k) for k in classes}
    counts = {k: labels.tolist().count(k) for k in classes}
    means = {k: means[k] / counts[k] for k in classes}
    shares = {k: counts[k] / len(labels) for k in classes}
    even = dict.fromkeys(classes, 1 / len(classes))
    weights, inside = shares if weighting == "frequency" else even, even if weighting == "equal" else shares
    centre: Any = sum(weights[k] * means[k] for k in classes)
    samples = list(zip(features, labels.tolist(), strict=True))
    within: Any = sum(inside[y] / counts[y] * torch.outer(z - means[y], z - means[y]) for z, y in samples)
    pooled: Any = sum(torch.outer(z - means[y], z - means[y]) for z, y in samples)
    between: Any = sum(weights[k] * torch.outer(means[k] - centre, means[k] - centre) for k in classes)
    return within, pooled / len(labels), between


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("num_features", [1, 6, 130])
def test_traces_and_covariances_equal_the_naive_ones(num_features: int, weighting: Weighting) -> None:
    features, labels = unbalanced(num_features)
    moments = ClassMoments.from_features(features, labels, 7, covariance=True)
    within, pooled, between = naive(features, labels, weighting)
    scale = float(within.trace() + between.trace())
    torch.testing.assert_close(within_class_covariance(moments), pooled, rtol=0, atol=EXACT * scale)
    torch.testing.assert_close(
        between_class_covariance(moments, weighting=weighting), between, rtol=0, atol=EXACT * scale
    )
    assert within_trace(moments, weighting=weighting) == pytest.approx(float(within.trace()), rel=EXACT)
    assert between_trace(moments, weighting=weighting) == pytest.approx(float(between.trace()), rel=EXACT)
    expected = float(within.trace() / between.trace())
    assert compression(moments, weighting=weighting) == pytest.approx(expected, rel=EXACT)


def test_within_and_frequency_weighted_between_add_up_to_the_total() -> None:
    features, labels = unbalanced()
    moments = ClassMoments.from_features(features, labels)
    total = float((features - features.mean(dim=0)).square().sum()) / len(features)
    both = (one(moments, weighting="frequency") for one in (within_trace, between_trace))
    assert sum(both) == pytest.approx(total, rel=EXACT)
    assert total_trace(moments) == pytest.approx(total, rel=EXACT)


def test_the_equal_weighting_is_the_default_and_differs_where_classes_are_unbalanced() -> None:
    moments = ClassMoments.from_features(*unbalanced())
    assert between_trace(moments) == between_trace(moments, weighting="equal")
    assert between_trace(moments) != pytest.approx(between_trace(moments, weighting="frequency"), rel=1e-2)
    assert within_trace(moments) == within_trace(moments, weighting="equal")
    assert compression(moments) == compression(moments, weighting="equal")


def test_the_papers_pair_samples_within_with_classes_between() -> None:
    """Classes of 200, 50 and 10 samples, whose spread falls with their size: all three conventions differ."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([200, 50, 10]))
    deviation = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)[labels].unsqueeze(1)
    features = torch.eye(3, 8, dtype=torch.float64)[labels]
    features = features + deviation * torch.randn(260, 8, generator=generator, dtype=torch.float64)
    moments = ClassMoments.from_features(features, labels)
    equal, frequency, papers = (compression(moments, weighting=one) for one in WEIGHTINGS)
    by_samples = within_trace(moments, weighting="frequency")
    assert papers == pytest.approx(by_samples / between_trace(moments, weighting="equal"), rel=EXACT)
    assert equal > 2 * papers
    assert frequency == pytest.approx(by_samples / between_trace(moments, weighting="frequency"), rel=EXACT)
    assert frequency > 1.2 * papers


def test_the_weightings_agree_where_classes_are_balanced() -> None:
    features, _ = unbalanced()
    moments = ClassMoments.from_features(features, torch.arange(55) % 5)
    for measure in (within_trace, between_trace, compression):
        equal, *others = (measure(moments, weighting=weighting) for weighting in WEIGHTINGS)
        assert others == pytest.approx([equal] * 2, rel=EXACT)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_orthonormal_class_means_have_a_between_trace_of_one_minus_one_over_k(num_classes: int) -> None:
    moments = ClassMoments.from_features(torch.eye(num_classes), torch.arange(num_classes), covariance=True)
    assert between_trace(moments) == pytest.approx(1 - 1 / num_classes, rel=EXACT)
    expected = (torch.eye(num_classes) - 1 / num_classes).double() / num_classes
    torch.testing.assert_close(between_class_covariance(moments), expected, rtol=0, atol=1e-7)  # 1/K in float32
    assert compression(moments) == 0.0


def test_handmade_numbers() -> None:
    features, labels = [[0.0], [2.0], [7.0], [7.0], [7.0], [7.0]], [0, 0, 1, 1, 1, 1]
    moments = ClassMoments.from_features(features, labels)
    assert within_trace(moments) == 0.5
    assert within_trace(moments, weighting="papers") == pytest.approx(1 / 3, rel=EXACT)
    assert between_trace(moments) == 9.0
    assert between_trace(moments, weighting="frequency") == pytest.approx(8.0, rel=EXACT)
    assert compression(moments) == pytest.approx(1 / 18, rel=EXACT)
    assert compression(moments, weighting="papers") == pytest.approx(1 / 27, rel=EXACT)
    assert compression(moments, weighting="frequency") == pytest.approx(1 / 24, rel=EXACT)


def transformed(features: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor, float]]:
    """The same samples turned, moved, scaled, relabelled or repeated, and the factor of their traces."""
    generator = torch.Generator().manual_seed(9)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))
    order = torch.randperm(7, generator=generator)
    shuffled = torch.randperm(len(labels), generator=generator)
    return {
        "rotation": (features @ rotation, labels, 1.0),
        "translation": (features + 100.0, labels, 1.0),
        "scale": (-3.0 * features, labels, 9.0),
        "permutation of labels": (features, order[labels], 1.0),
        "permutation of samples": (features[shuffled], labels[shuffled], 1.0),
        "repetition": (features.repeat(3, 1), labels.repeat(3), 1.0),
        "zero features beside": (torch.cat([features, torch.zeros(len(labels), 2)], dim=1), labels, 1.0),
    }


@pytest.mark.parametrize("change", transformed(*unbalanced()))
def test_traces_scale_by_the_square_and_compression_not_at_all(change: str) -> None:
    features, labels = unbalanced()
    plain = ClassMoments.from_features(features, labels)
    other_features, other_labels, factor = transformed(features, labels)[change]
    other = ClassMoments.from_features(other_features, other_labels)
    tolerance = 1e-11 if change == "translation" else EXACT  # an offset of 100 costs two digits of the means
    assert within_trace(other) == pytest.approx(factor * within_trace(plain), rel=tolerance)
    for weighting in WEIGHTINGS:
        assert between_trace(other, weighting=weighting) == pytest.approx(
            factor * between_trace(plain, weighting=weighting), rel=tolerance
        )
        assert compression(other, weighting=weighting) == pytest.approx(
            compression(plain, weighting=weighting), rel=tolerance
        )


def test_between_class_covariance_has_the_trace_and_the_rank_of_the_means() -> None:
    moments = ClassMoments.from_features(*unbalanced(130))
    for weighting in WEIGHTINGS:
        covariance = between_class_covariance(moments, weighting=weighting)
        expected = between_trace(moments, weighting=weighting)
        assert float(covariance.trace()) == pytest.approx(expected, rel=EXACT)
        assert int(torch.linalg.matrix_rank(covariance, hermitian=True)) == 4  # five classes present
        assert torch.equal(covariance, covariance.T)


def test_wide_layers_are_measured_in_column_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = unbalanced(130)
    whole = ClassMoments.from_features(features, labels)
    expected = within_trace(whole), between_trace(whole), between_class_covariance(whole)
    monkeypatch.setattr("neurocollapse.statistics.moments.BLOCK_ELEMENTS", 70)  # ten columns of seven classes
    assert within_trace(whole) == pytest.approx(expected[0], rel=EXACT)
    assert between_trace(whole) == pytest.approx(expected[1], rel=EXACT)
    torch.testing.assert_close(between_class_covariance(whole), expected[2], rtol=EXACT, atol=EXACT)


def test_no_samples_have_no_covariance() -> None:
    moments = ClassMoments.empty(3, 4, covariance=True)
    assert within_class_covariance(moments).isnan().all()
    assert between_class_covariance(moments).isnan().all()


def test_one_class_has_no_between_class_covariance() -> None:
    moments = ClassMoments.from_features([[1.0, 2.0], [3.0, 5.0]], [1, 1])
    assert not between_class_covariance(moments).any()
    assert math.isnan(compression(moments))


def test_without_the_scatter_matrix_the_error_says_how_to_get_it() -> None:
    with pytest.raises(ValueError, match="collect them with covariance=True"):
        within_class_covariance(ClassMoments.empty(2, 3))


@pytest.mark.parametrize("moments", [ClassMoments.empty(2, 3), ClassMoments.from_features(*unbalanced())])
@pytest.mark.parametrize("measure", [between_trace, between_class_covariance])
def test_an_unknown_weighting_is_refused(measure: Any, moments: ClassMoments) -> None:
    with pytest.raises(ValueError, match="`weighting` must be one of 'equal', 'frequency', 'papers', got 'balanced'"):
        measure(moments, weighting="balanced")

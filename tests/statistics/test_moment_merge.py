"""Moments are values: they merge exactly, in any order and split, and grow without changing."""

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurocollapse.statistics import ClassMoments

EXACT = 1e-12  # some thousand roundings of float64

Samples = list[tuple[int, list[float]]]


@st.composite
def labelled_samples(draw: st.DrawFn, max_samples: int = 12) -> tuple[int, Samples]:
    """A number of features, and samples of up to four classes, in float32 as features come."""
    width = draw(st.integers(1, 3))
    value = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
    sample = st.tuples(st.integers(0, 3), st.lists(value, min_size=width, max_size=width))
    return width, draw(st.lists(sample, max_size=max_samples))


def moments_of(samples: Samples, width: int, covariance: bool = True) -> ClassMoments:
    features = torch.tensor([values for _, values in samples], dtype=torch.float64).reshape(len(samples), width)
    return ClassMoments.from_features(features, [label for label, _ in samples], 4, covariance=covariance)


def exact_scatter(samples: Samples, k: int) -> Fraction:
    """Σ‖z − μ‖² of class k in rational numbers."""
    members = [[Fraction(value) for value in values] for label, values in samples if label == k]
    total = Fraction(0)
    for column in zip(*members, strict=True):
        total += sum(value * value for value in column) - sum(column) ** 2 / len(column)
    return total


def assert_same(found: ClassMoments, expected: ClassMoments) -> None:
    """Equal counts, and means and scatters equal but for rounding."""
    assert torch.equal(found.count, expected.count)
    scale = float(torch.cat([expected.mean.nan_to_num().abs().flatten(), torch.ones(1)]).max())
    torch.testing.assert_close(found.mean, expected.mean, rtol=EXACT, atol=EXACT * scale, equal_nan=True)
    torch.testing.assert_close(found.scatter, expected.scatter, rtol=EXACT, atol=(EXACT * scale) ** 2)
    if found.within_scatter is not None and expected.within_scatter is not None:
        tolerance = EXACT * float(expected.scatter.sum()) + (EXACT * scale) ** 2
        torch.testing.assert_close(found.within_scatter, expected.within_scatter, rtol=0, atol=tolerance)


@settings(deadline=None, max_examples=60)
@given(labelled_samples())
def test_scatter_is_the_one_of_rational_arithmetic(drawn: tuple[int, Samples]) -> None:
    width, samples = drawn
    scatter = moments_of(samples, width).scatter
    for k in range(4):
        expected = float(exact_scatter(samples, k))
        assert float(scatter[k]) == pytest.approx(expected, rel=EXACT, abs=1e-300)


@settings(deadline=None, max_examples=60)
@given(labelled_samples(), st.lists(st.integers(0, 12), max_size=3), st.randoms(use_true_random=False))
def test_any_split_merged_in_any_order_gives_the_whole(drawn: tuple[int, Samples], cuts: list[int], rng: Any) -> None:
    width, samples = drawn
    shuffled = rng.sample(samples, len(samples))
    bounds = [0, *sorted(cuts), len(samples)]
    parts = [moments_of(shuffled[a:b], width) for a, b in pairwise(bounds)]
    while len(parts) > 1:  # a random merge tree, empty parts among its leaves
        left, right = (parts.pop(rng.randrange(len(parts))) for _ in range(2))
        parts.append(left.merge(right))
    assert_same(parts[0], moments_of(samples, width))


@settings(deadline=None, max_examples=40)
@given(labelled_samples(6), labelled_samples(6), labelled_samples(6))
def test_merge_is_commutative_and_associative(one: Any, two: Any, three: Any) -> None:
    width = min(one[0], two[0], three[0])
    a, b, c = (moments_of([(k, z[:width]) for k, z in samples], width) for _, samples in (one, two, three))
    assert_same(a.merge(b), b.merge(a))
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))


@settings(deadline=None, max_examples=30)
@given(labelled_samples())
def test_no_samples_are_the_neutral_element(drawn: tuple[int, Samples]) -> None:
    width, samples = drawn
    moments, empty = moments_of(samples, width), ClassMoments.empty(4, width, covariance=True)
    for merged in (moments.merge(empty), empty.merge(moments)):
        assert torch.equal(merged.scatter, moments.scatter)
        assert torch.equal(merged.mean.nan_to_num(), moments.mean.nan_to_num())


def test_merging_changes_neither_side() -> None:
    left = ClassMoments.from_features([[1.0], [2.0]], [0, 1])
    right = ClassMoments.from_features([[5.0], [9.0]], [0, 0], 2)
    before = [tensor.clone() for part in (left, right) for tensor in (part.reference, part.offset_sum, part.count)]
    left.merge(right)
    after = [tensor for part in (left, right) for tensor in (part.reference, part.offset_sum, part.count)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_merged_scatter_of_two_points_is_half_their_squared_distance() -> None:
    left = ClassMoments.from_features([[0.0, 0.0]], [0], covariance=True)
    merged = left.merge(ClassMoments.from_features([[4.0, 2.0]], [0], covariance=True))
    assert merged.scatter.tolist() == [10.0]
    assert merged.within_scatter is not None
    assert merged.within_scatter.tolist() == [[8.0, 4.0], [4.0, 2.0]]


def test_single_and_double_parts_merge(stream: Any, two_pass: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(200, 150, generator=generator), torch.arange(200) % 3
    single = stream(features[:90], labels[:90], 3).moments()
    double = stream(features[90:], labels[90:], 3, precision="double").moments()
    merged = single.merge(double)
    assert merged.reference.dtype == torch.float64
    expected = two_pass(features, labels, 3).scatter
    torch.testing.assert_close(merged.scatter, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (ClassMoments.empty(3, 2), r"\(classes, features\) = \(2, 2\) with \(3, 2\)"),
        (ClassMoments.empty(2, 5), r"\(classes, features\) = \(2, 2\) with \(2, 5\)"),
        (ClassMoments.empty(2, 2, covariance=True), "covariance=True"),
    ],
)
def test_what_does_not_fit_is_not_merged(other: ClassMoments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassMoments.empty(2, 2).merge(other)


def test_padding_adds_absent_classes_only() -> None:
    moments = ClassMoments.from_features([[1.0, 2.0], [3.0, 4.0]], [0, 0], covariance=True)
    padded = moments.padded(3)
    assert (padded.num_classes, padded.count.tolist()) == (3, [2, 0, 0])
    assert torch.equal(padded.mean[:1], moments.mean)
    assert padded.mean[1:].isnan().all()
    assert padded.within_scatter is moments.within_scatter
    assert moments.padded(1) is moments
    with pytest.raises(ValueError, match="cannot pad 1 classes to 0"):
        moments.padded(0)


@pytest.mark.parametrize(
    "features",
    [
        [[1, 2], [3, 4]],
        np.array([[1, 2], [3, 4]], dtype=np.int16),
        np.array([[3.0, 4.0], [1.0, 2.0]], dtype=">f4")[::-1],
        torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True),
        torch.tensor([[1.0, 3.0], [2.0, 4.0]], dtype=torch.bfloat16).T,
    ],
    ids=["list", "int16", "reversed big-endian", "with gradient", "transposed"],
)
def test_features_may_be_any_array(features: Any) -> None:
    assert ClassMoments.from_features(features, [0, 0]).mean.tolist() == [[2.0, 3.0]]


def test_read_only_features_are_left_alone() -> None:
    features = np.ones((2, 3))
    features.setflags(write=False)
    assert ClassMoments.from_features(features, [0, 1]).num_samples == 2


@pytest.mark.parametrize("shape", [(4,), (4, 2, 2)])
def test_features_must_be_a_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`features` must have shape \(samples, features\), got"):
        ClassMoments.from_features(torch.zeros(shape), [0, 1, 0, 1])

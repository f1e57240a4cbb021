"""Numerical and effective rank against the definition, closed forms and invariances."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from neurocollapse.probes import effective_rank, numerical_rank

# Both ranks come from singular values with relative errors of 1e-14; the double takes them from the Gram matrix (1e-8
# of the largest). No sum of these cases is within that of its threshold.
RELATIVE = 1e-6
SHAPES = [(40, 7), (7, 40), (12, 12), (1, 5), (5, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.95, 0.999])
def test_numerical_rank_is_the_least_k_that_reaches_the_share(
    double: Any, shape: tuple[int, int], share: float
) -> None:
    features = np.random.default_rng(3).normal(size=shape) * np.logspace(0, -2, shape[1])
    values = double.spectrum(features)
    k, total = 0, 0.0
    while total < share * sum(values):
        total, k = total + values[k], k + 1
    assert numerical_rank(features, share=share) == k


@pytest.mark.parametrize("shape", SHAPES)
def test_effective_rank_is_the_exponential_of_the_entropy(double: Any, shape: tuple[int, int]) -> None:
    features = np.random.default_rng(4).normal(size=shape) + 0.5
    values = double.spectrum(features)[: min(shape)]
    shares = [value / sum(values) for value in values]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(features) == pytest.approx(expected, rel=RELATIVE)


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (3, 3), (20, 19), (40, 38), (60, 57), (100, 95)])
def test_rounding_does_not_decide_ties_of_equal_singular_values(double: Any, size: int, expected: int) -> None:
    turned = [scale * double.rotation(size, seed) for seed in range(5) for scale in (1, 1e-3, 0.7)]
    assert {numerical_rank(matrix) for matrix in (np.eye(size), *turned)} == {expected}


def test_a_sum_just_short_of_the_share_does_not_reach_it() -> None:
    assert numerical_rank(np.diag([0.95, 0.05])) == 1
    assert numerical_rank(np.diag([0.95 - 1e-10, 0.05 + 1e-10])) == 2


@pytest.mark.parametrize("size", [1, 2, 30])
def test_equal_singular_values_have_full_effective_rank(double: Any, size: int) -> None:
    tall = 7 * np.vstack([double.rotation(size), np.zeros((4, size))])
    assert effective_rank(tall) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_matrix_of_known_rank(double: Any, rank: int) -> None:
    features = double.rotation(30)[:, :rank] @ double.rotation(9, seed=2)[:rank]
    assert numerical_rank(features, share=1) == rank
    assert effective_rank(features) == pytest.approx(rank, rel=1e-12)


def test_the_features_are_not_centred() -> None:
    constant = np.full((6, 4), 3.7)
    assert numerical_rank(constant) == 1
    assert effective_rank(constant) == pytest.approx(1, rel=1e-12)


def test_two_unequal_singular_values() -> None:
    features = np.diag([3.0, 1.0])
    assert [numerical_rank(features, share=share) for share in (0.7, 0.75, 0.76, 1)] == [1, 1, 2, 2]
    assert effective_rank(features) == pytest.approx(4 / 3**0.75, rel=1e-12)  # exp(H(3/4, 1/4)), worked out by hand


def test_zero_features_have_rank_zero_and_no_effective_rank() -> None:
    assert numerical_rank(np.zeros((4, 3))) == 0
    assert math.isnan(effective_rank(np.zeros((4, 3))))


def test_rank_at_full_collapse_is_at_most_the_number_of_classes(double: Any) -> None:
    means, labels = np.random.default_rng(0).normal(size=(4, 20)), np.arange(80) % 4
    assert numerical_rank(means[labels], share=1 - 1e-9) == 4
    assert effective_rank(means[labels]) <= 4


def test_ranks_ignore_rotation_scale_and_order(double: Any) -> None:
    features = np.random.default_rng(8).normal(size=(50, 6)) * [5, 3, 2, 1, 0.5, 0.1]
    order = np.random.default_rng(9).permutation(50)
    for other in (features @ double.rotation(6), 1e4 * features, 1e-4 * features, features[order], features[:, ::-1]):
        assert numerical_rank(other) == numerical_rank(features)
        assert effective_rank(other) == pytest.approx(effective_rank(features), rel=1e-12)


def test_tensors_and_low_precision_are_taken() -> None:
    features = torch.eye(4, dtype=torch.bfloat16, requires_grad=True)
    assert numerical_rank(features) == 4
    assert effective_rank(features) == pytest.approx(4)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([1.0, 2.0], r"`features` must have shape \(samples, features\), got \(2,\)"),
        (np.zeros((0, 3)), r"at least one sample and one feature, got shape \(0, 3\)"),
        ([[1.0], [np.nan]], r"`features` must be finite, got NaN or infinity in row 1"),
        ([[np.inf]], r"in row 0"),
        ([["a"]], r"`features` must be a matrix of numbers, got list"),
    ],
)
def test_features_that_have_no_rank_are_refused(features: Any, message: str) -> None:
    for rank in (numerical_rank, effective_rank):
        with pytest.raises(ValueError, match=message):
            rank(features)


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan"), "most", True, None])
def test_shares_outside_the_unit_interval_are_refused(share: Any) -> None:
    with pytest.raises(ValueError, match=r"`share` must be a number in \(0, 1\]"):
        numerical_rank(np.eye(3), share=share)

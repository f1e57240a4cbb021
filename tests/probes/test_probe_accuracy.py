"""The linear probes and the nearest class mean against doubles, closed forms and invariances."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize

from neurocollapse.probes import (
    Accuracy,
    accuracy,
    linear_probe_accuracy,
    mse_probe_accuracy,
    nearest_class_mean_accuracy,
)
from neurocollapse.probes.features import rounding

PROBES = [linear_probe_accuracy, mse_probe_accuracy, nearest_class_mean_accuracy]
Probe = Callable[..., Accuracy]


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("num_features", [1, 4])
def test_nearest_class_mean_is_what_a_loop_finds(double: Any, num_classes: int, num_features: int) -> None:
    train, labels = double.blobs(60, num_features, num_classes=num_classes)
    test, targets = double.blobs(40, num_features, num_classes=num_classes, seed=1)
    found = nearest_class_mean_accuracy(train, labels, test, targets)
    assert found.train == double.nearest(train, labels, train, labels)
    assert found.test == double.nearest(train, labels, test, targets)


@pytest.mark.parametrize("num_classes", [3, 4])
def test_the_linear_probe_minimises_the_documented_loss(double: Any, num_classes: int) -> None:
    train, labels = double.blobs(60, 3, num_classes=num_classes)
    test, targets = double.blobs(200, 3, num_classes=num_classes, seed=1)
    mean, scale = train.mean(axis=0), train.std(axis=0)
    inputs = (train - mean) / scale

    def loss(parameters: np.ndarray) -> float:
        weights, bias = np.split(parameters.reshape(4, num_classes), [3])
        scores = inputs @ weights + bias
        log_sums = np.log(np.exp(scores).sum(axis=1))
        return float((log_sums - scores[np.arange(60), labels]).sum() + (weights**2).sum() / 2)

    best = optimize.minimize(loss, np.zeros(4 * num_classes), method="BFGS", options={"gtol": 1e-4}).x
    weights, bias = np.split(best.reshape(4, num_classes), [3])
    found = linear_probe_accuracy(train, labels, test, targets)
    for part, truth, share in ((train, labels, found.train), (test, targets, found.test)):
        predicted = ((part - mean) / scale @ weights + bias).argmax(axis=1)
        # Both optima carry errors near 1e-3 of the weights: one sample in 200 may lie that close to a boundary.
        assert share == pytest.approx((predicted == truth).mean(), abs=1 / 200 + 1e-9)
    assert found.converged


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_the_mse_probe_solves_the_normal_equations(double: Any, num_classes: int) -> None:
    train, labels = double.blobs(60, 4, num_classes=num_classes, spread=1.5)
    test, targets = double.blobs(40, 4, num_classes=num_classes, spread=1.5, seed=1)
    kept = (labels > 0) | (np.arange(60) % 3 > 0)  # classes of unequal size need their own shares
    train, labels = train[kept], labels[kept]
    augmented = np.hstack([train, np.ones((len(train), 1))])
    normal, right = np.zeros((5, 5)), np.zeros((5, num_classes))
    for row, label in zip(augmented, labels, strict=True):
        normal += np.outer(row, row)
        right[:, label] += row
    solution = np.linalg.solve(normal, right)
    found = mse_probe_accuracy(train, labels, test, targets)
    for part, truth, share in ((train, labels, found.train), (test, targets, found.test)):
        predicted = (np.hstack([part, np.ones((len(part), 1))]) @ solution).argmax(axis=1)
        assert share == (predicted == truth).mean()


def test_least_squares_miss_the_class_in_the_middle_and_logistic_regression_does_not() -> None:
    labels = np.repeat([0, 1, 2], 20)
    features = 10.0 * labels[:, None] + np.linspace(-1, 1, 60)[np.random.default_rng(0).permutation(60), None]
    assert linear_probe_accuracy(features, labels, features, labels).train == 1.0
    assert mse_probe_accuracy(features, labels, features, labels).train < 0.7  # the middle's fitted score is flat: 1/3


def test_the_mse_probe_ignores_invertible_affine_maps(double: Any) -> None:
    train, labels = double.blobs(60, 4, spread=1.5)
    test, targets = double.blobs(30, 4, spread=1.5, seed=1)
    change = double.rotation(4) * [1e-3, 1.0, 40.0, 7.0] @ double.rotation(4, seed=2)
    moved = mse_probe_accuracy(train @ change + 100, labels, test @ change + 100, targets)
    assert moved == mse_probe_accuracy(train, labels, test, targets)


def test_the_mse_probe_fits_any_labels_of_few_samples() -> None:
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(11, 10)), generator.integers(3, size=11)
    assert mse_probe_accuracy(features, labels, features, labels).train == 1.0


def test_the_mse_probe_gives_features_that_repeat_the_least_norm(double: Any) -> None:
    train, labels = double.blobs(60, 4, spread=1.5)
    test, targets = double.blobs(30, 4, spread=1.5, seed=1)
    twice = mse_probe_accuracy(np.hstack([train, train]), labels, np.hstack([test, 0 * test]), targets)
    half = mse_probe_accuracy(train, labels, test / 2, targets)  # both copies carry half of the weights
    assert twice == half


@pytest.mark.parametrize(("dtype", "share"), [(np.float32, 0.5), (np.float64, 1.0)])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_what_is_smaller_than_the_rounding_is_not_read(dtype: Any, share: float, kind: str) -> None:
    labels = np.arange(40) % 2
    features = np.stack([np.full(40, 1e3), 1e-5 * labels], axis=1).astype(dtype)  # ε‖Z‖_F: 7.5e-4 and 5.6e-11
    given = features if kind == "numpy" else torch.from_numpy(features)
    assert mse_probe_accuracy(given, labels, given, labels).train == share
    assert rounding(features.astype(np.float64).tolist()) == np.finfo(np.float64).eps
    assert rounding(torch.arange(3)) == rounding(np.arange(3)) == np.finfo(np.float64).eps


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_collapsed_and_orthogonal_classes_are_told_apart(probe: Probe, num_classes: int, dtype: Any) -> None:
    labels = np.arange(20) % num_classes
    features = 3 * np.eye(num_classes, 6, dtype=dtype)[labels]
    assert probe(features, labels, features[:7], labels[:7]) == (1.0, 1.0, True)


@pytest.mark.parametrize("probe", PROBES)
def test_a_single_feature_is_enough_for_two_classes(probe: Probe) -> None:
    train, test = [[0.0], [1.0], [10.0], [11.0]], [[2.0], [9.0], [30.0], [4.0]]
    assert probe(train, [0, 0, 1, 1], test, [0, 1, 1, 1])[:2] == (1.0, 0.75)


def test_the_nearest_mean_fails_where_a_line_does_not(double: Any) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(100) % 2
    features = np.stack([labels - 0.5, 50 * generator.normal(size=100)], axis=1)
    assert linear_probe_accuracy(features, labels, features, labels).train == 1.0
    assert nearest_class_mean_accuracy(features, labels, features, labels).train < 0.9


@pytest.mark.parametrize("probe", PROBES)
def test_the_order_of_samples_features_and_classes_does_not_matter(double: Any, probe: Probe) -> None:
    train, labels = double.blobs(60, 4, spread=1.5)
    test, targets = double.blobs(30, 4, spread=1.5, seed=1)
    order, names = np.random.default_rng(0).permutation(60), np.array([7, 0, 3])
    expected = probe(train, labels, test, targets)
    assert 0.5 < expected.test < 1
    assert probe(train[order], labels[order], test, targets)[:2] == expected[:2]
    assert probe(train[:, ::-1], labels, test[:, ::-1], targets)[:2] == expected[:2]
    assert probe(train, names[labels], test, names[targets])[:2] == expected[:2]


def test_the_nearest_mean_ignores_rotation_shift_and_scale(double: Any) -> None:
    train, labels = double.blobs(60, 4, spread=1.5)
    test, targets = double.blobs(30, 4, spread=1.5, seed=1)
    turn = 40 * double.rotation(4)
    # A shift of 1e6 leaves ten of float64's sixteen digits: the closest call here is decided by its third.
    moved = nearest_class_mean_accuracy(train @ turn + 1e6, labels, test @ turn + 1e6, targets)
    assert moved == nearest_class_mean_accuracy(train, labels, test, targets)


def test_the_nearest_mean_is_not_lost_far_from_the_origin() -> None:
    labels, far = np.arange(8) % 2, 2.0**40  # all numbers here are exact in float64, the square of their means is not
    features = far + np.stack([4.0 * labels, np.arange(8) // 2], axis=1)
    test = np.array([[far + 1, far + 1.5], [far + 3, far + 1.5]])
    assert nearest_class_mean_accuracy(features, labels, test, [0, 1])[:2] == (1.0, 1.0)


@pytest.mark.parametrize("row", [0, 4, 7])
@pytest.mark.parametrize("size", [1e6, 1e9, 1e16])
def test_the_nearest_mean_of_other_classes_does_not_depend_on_where_an_outlier_stands(row: int, size: float) -> None:
    labels = np.arange(40) % 4
    test = 5 * np.eye(4)[labels] + 0.1 * np.random.default_rng(0).normal(size=(40, 4))
    train = test.copy()
    train[row, 0] = size  # moves the mean of its own class out of reach: the ten samples of that class are lost
    assert nearest_class_mean_accuracy(train, labels, test, labels).test == 0.75


def test_the_nearest_mean_tells_classes_apart_that_are_far_from_all_others() -> None:
    features = np.array([[0.0], [1.0], [2.0**40], [2.0**40 + 2]])
    assert nearest_class_mean_accuracy(features, [0, 1, 2, 3], features, [0, 1, 2, 3])[:2] == (1.0, 1.0)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("exponent", [-1000, -500, 390, 500, 1000])
def test_the_scale_of_all_features_does_not_matter_at_any_size(double: Any, probe: Probe, exponent: int) -> None:
    train, labels = double.blobs(60, 4, spread=1.5)
    test, targets = double.blobs(30, 4, spread=1.5, seed=1)
    scaled = probe(np.ldexp(train, exponent), labels, np.ldexp(test, exponent), targets)
    assert scaled == probe(train, labels, test, targets)


def test_the_linear_probe_ignores_the_scale_of_each_feature(double: Any) -> None:
    train, labels = double.blobs(60, 4, spread=1.5)
    test, targets = double.blobs(30, 4, spread=1.5, seed=1)
    scale, shift = np.array([1e-4, 1.0, 50.0, 1e5]), np.array([3.0, -2.0, 1e3, 0.0])
    expected = linear_probe_accuracy(train, labels, test, targets)
    assert linear_probe_accuracy(train * scale + shift, labels, test * scale + shift, targets) == expected


@pytest.mark.parametrize("probe", PROBES)
def test_fewer_than_two_classes_or_no_test_samples_leave_it_undefined(probe: Probe) -> None:
    one = probe(np.eye(3), [2, 2, 2], np.eye(3), [2, 2, 2])
    assert math.isnan(one.train)
    assert math.isnan(one.test)
    assert math.isnan(probe(np.zeros((0, 3)), [], np.eye(3), [0, 1, 2]).test)
    untested = probe(np.eye(3), [0, 1, 1], np.zeros((0, 3)), [])
    assert untested.train == 1.0
    assert math.isnan(untested.test)


@pytest.mark.parametrize("probe", PROBES)
def test_one_sample_a_class_is_enough(probe: Probe) -> None:
    assert probe(np.eye(3), [0, 1, 2], np.eye(3) * 2, [0, 1, 2]) == (1.0, 1.0, True)


@pytest.mark.parametrize("probe", PROBES)
def test_constant_features_give_everyone_the_same_class(probe: Probe) -> None:
    labels = np.array([0, 0, 0, 1, 2])  # the linear probe says the most frequent class, ties go to the lowest: both 0
    assert probe(np.full((5, 3), 0.1), labels, np.full((2, 3), 0.1), [0, 1])[:2] == (0.6, 0.5)


@pytest.mark.parametrize("probe", PROBES)
def test_classes_that_only_one_part_has(probe: Probe) -> None:
    train, labels = 5 * np.eye(4)[[0, 0, 2, 2]], [0, 0, 2, 2]
    assert probe(train, labels, train[[0, 2]], [0, 9])[:2] == (1.0, 0.5)  # 9 is new: it cannot be right
    assert probe(train, labels, train[:2], [0, 0])[:2] == (1.0, 1.0)


def test_a_probe_that_does_not_converge_says_so_without_a_warning(double: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(accuracy, "MAX_ITERATIONS", 1)
    train, labels = double.blobs(60, 4)
    assert not linear_probe_accuracy(train, labels, train, labels).converged


def test_other_warnings_of_the_solver_still_come_out(double: Any) -> None:
    with pytest.warns(UserWarning, match="else"), accuracy._told_convergence() as problems:
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert problems == []


def test_tensors_are_taken_as_they_are() -> None:
    features, labels = torch.eye(4, requires_grad=True), torch.tensor([0, 1, 2, 3])
    for probe in PROBES:
        assert probe(features, labels, features.bfloat16(), labels)[:2] == (1.0, 1.0)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [0, 1], [[1.0]], [0]), r"`features` must have shape \(samples, features\), got \(2,\)"),
        ((np.eye(2), [0, 1], np.eye(3), [0, 1, 1]), r"`test_features` must have the 2 columns of `features`, got 3"),
        ((np.eye(2), [0, 1], [[np.nan, 1.0]], [0]), r"`test_features` must be finite, got NaN or infinity in row 0"),
        ((np.eye(2), [0], np.eye(2), [0, 1]), r"got 1 labels for 2 samples"),
        ((np.eye(2), [0, 1], np.eye(2), [0]), r"got 1 labels for 2 samples"),
        ((np.eye(2), [0.0, 1.5], np.eye(2), [0, 1]), r"`labels` must hold integers"),
        ((np.eye(2), [0, -1], np.eye(2), [0, 1]), r"non-negative integers, got -1 at position 1"),
    ],
)
def test_bad_input_is_named(probe: Probe, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe(*arguments)

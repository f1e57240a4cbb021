"""Intervals of D, decay ratios and the slope: the jackknife by its definition, and how often they cover the truth."""

import math

import numpy as np
import pytest
import torch

import neurocollapse as nc
from benchmarks.interval_coverage import COVERED, NOISES, Draw, coverage, intervals, normal
from neurocollapse.metrics import Layer, Quantity, QuantityError, Rows, Weighting
from neurocollapse.metrics.unbiased import compression_unbiased
from neurocollapse.metrics.uncertainty import influences
from neurocollapse.statistics import ClassMoments


@pytest.mark.parametrize("weighting", ["equal", "frequency", "papers"])
def test_influences_are_the_derivatives_of_log_compression(weighting: Weighting) -> None:
    """Moving a sample's weight by ε moves log D by ε ψ_i, up to the factors that undo shrinking: checked by weights."""
    generator = np.random.default_rng(0)
    sizes = np.array([5, 9, 14])
    labels = np.repeat(np.arange(3), sizes)
    features = 2 * generator.normal(size=(3, 4))[labels] + generator.normal(size=(28, 4))
    shares = sizes / 28 if weighting == "frequency" else np.full(3, 1 / 3)
    inside = np.full(3, 1 / 3) if weighting == "equal" else sizes / 28

    def log_compression(weights: np.ndarray) -> float:
        """log D of the weighted empirical distribution: each class's trace and mean under its samples' weights."""
        parts = [(weights[labels == k], features[labels == k]) for k in range(3)]
        means = np.stack([w @ z / w.sum() for w, z in parts])
        traces = [w @ ((z - m) ** 2).sum(axis=1) / w.sum() for (w, z), m in zip(parts, means, strict=True)]
        centred = means - shares @ means
        return math.log(inside @ traces) - math.log(shares @ (centred**2).sum(axis=1))

    moments = ClassMoments.from_features(features, labels)
    found = influences(Layer(moments, weighting), Rows(torch.as_tensor(features), torch.as_tensor(labels))).numpy()
    within = nc.metrics.within_trace(moments, weighting=weighting)
    between = nc.metrics.between_trace(moments, weighting=weighting)
    unbiased_within = nc.metrics.unbiased.within_trace_unbiased(moments, weighting=weighting)
    unbiased_between = nc.metrics.unbiased.between_trace_unbiased(moments, weighting=weighting)
    for index in (0, 6, 20):
        step, up, down = 1e-5, np.ones(28), np.ones(28)
        up[index] += step
        down[index] -= step
        slope = (log_compression(up) - log_compression(down)) / (2 * step)
        # the weighted statistic is the biased one: put its parts on the scale of the unbiased
        n = sizes[labels[index]]
        square = ((features[index] - features[labels == labels[index]].mean(axis=0)) ** 2).sum()
        spread = ((features[labels == labels[index]] - features[labels == labels[index]].mean(axis=0)) ** 2).sum() / n
        part_within = inside[labels[index]] / n * (square - spread) / within
        part_between = part_within - slope
        shrunk = n / (n - 1)
        expected = (
            shrunk**1.5 * part_within * within / unbiased_within - shrunk * part_between * between / unbiased_between
        )
        assert found[index] == pytest.approx(expected, rel=1e-6)  # central differences with step 1e-5


def test_the_layers_errors_go_together() -> None:
    """Two layers with the same features: each D is uncertain, their ratio is exactly one."""
    generator = np.random.default_rng(1)
    labels = np.arange(60) % 3
    features = 2 * generator.normal(size=(3, 8))[labels] + generator.normal(size=(60, 8))
    found = intervals([features, 3 * features], labels)
    lower, upper = found["compression_interval"][0]
    assert lower < found["compression_unbiased"][0] < upper
    assert upper / lower > 1.2
    assert found["decay_ratio_interval"][1] == pytest.approx([1, 1], abs=1e-6)  # roots of roundings of 1e-16
    assert np.isnan(found["decay_ratio_interval"][0]).all()
    assert found["decay_slope_interval"] == pytest.approx([0, 0], abs=1e-6)


def test_intervals_shrink_with_the_root_of_the_samples() -> None:
    generator = np.random.default_rng(2)
    centres = generator.normal(size=(5, 16))
    widths = []
    for size in (40, 640):
        labels = np.repeat(np.arange(5), size)
        lower, upper = intervals([centres[labels] + generator.normal(size=(5 * size, 16))], labels)[
            "compression_interval"
        ][0]
        widths.append(math.log(upper / lower))
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.25)  # widths are estimates, too


def test_intervals_cover_the_truth() -> None:
    """A sample of the slow test below; with 120 draws a coverage of 95 % has a standard error of 2 %."""
    found = coverage(normal, 5, 30, 120, seed=4)
    for name in COVERED:
        assert 0.88 <= found[name] <= 1, name


def test_the_bias_of_few_samples_is_undone_by_the_same_draws() -> None:
    """D = 3.0 with five samples of each of ten classes: the raw number is a little over half of it."""
    found = coverage(normal, 10, 5, 60, seed=15)
    assert found["raw D"] < 0.6
    assert found["unbiased D"] == pytest.approx(1, abs=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("draw", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize(
    ("num_classes", "size", "least"),
    [(3, 20, 0.92), (10, 50, 0.92), (30, 20, 0.92), (100, 20, 0.92), (3, 200, 0.92), (10, 5, 0.90), (40, 5, 0.90)],
)
def test_intervals_cover_the_truth_in_500_draws(draw: Draw, num_classes: int, size: int, least: float) -> None:
    found = coverage(draw, num_classes, size, 500, seed=num_classes + size)
    for name in COVERED:
        assert least <= found[name] <= 0.985, (name, found[name])
    assert found["unbiased D"] == pytest.approx(1, abs=0.03)  # a quotient: 0.024 too large at 10 classes of 5, t₅
    assert found["raw D"] < found["unbiased D"]


def test_undefined_numbers_have_no_interval() -> None:
    labels = np.arange(12) % 3
    collapsed = np.repeat(np.eye(3), 4, axis=0).reshape(3, 4, 3).transpose(1, 0, 2).reshape(12, 3)
    spread = collapsed * 5 + np.random.default_rng(0).normal(size=(12, 3))
    found = intervals([spread, collapsed], labels)
    assert np.isfinite(found["compression_interval"][0]).all()
    assert np.isnan(found["compression_interval"][1]).all()
    assert np.isnan(found["decay_ratio_interval"][1]).all()
    assert np.isnan(found["decay_slope_interval"]).all()  # one layer makes no line
    twice = intervals([spread, collapsed, 2 * collapsed], labels)
    assert np.isnan(twice["decay_ratio_interval"]).all()


def test_intervals_without_a_second_pass_are_refused() -> None:
    moments = ClassMoments.from_features(np.eye(4), [0, 0, 1, 1])
    with pytest.raises(QuantityError, match=r"quantity 'compression_interval' needs .*uncertainty=True"):
        nc.measure({"a": moments}, quantities="compression_interval")


def test_a_quantity_with_influence_sees_the_network() -> None:
    quantity = Quantity(name="own", of=lambda network: np.diag(network.covariance), needs=("influence",))
    assert quantity.over_layers
    assert not quantity.default


def test_the_unbiased_value_is_at_the_centre_of_its_interval() -> None:
    labels = np.arange(40) % 4
    features = np.random.default_rng(7).normal(size=(4, 6))[labels] * 2 + np.random.default_rng(8).normal(size=(40, 6))
    lower, upper = intervals([features], labels)["compression_interval"][0]
    centre = compression_unbiased(ClassMoments.from_features(features, labels))
    assert math.sqrt(lower * upper) == pytest.approx(centre, rel=1e-12)

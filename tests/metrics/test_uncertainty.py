"""Intervals of D, decay ratios and the slope: the jackknife by its definition, and how often they cover the truth."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

import neurocollapse as nc
from neurocollapse.metrics import Layer, Quantity, QuantityError, Rows, Weighting
from neurocollapse.metrics.catalogue import chosen_quantities
from neurocollapse.metrics.measure import Extra, measured
from neurocollapse.metrics.unbiased import compression_unbiased
from neurocollapse.metrics.uncertainty import influences
from neurocollapse.statistics import ClassMoments, MomentCollection

CHOSEN = chosen_quantities(("compression_interval", "decay_ratio_interval", "decay_slope_interval", "unbiased"))


def intervals(
    layers: Sequence[np.ndarray], labels: np.ndarray, weighting: Weighting = "equal"
) -> dict[str, np.ndarray]:
    """All intervals of layers that saw the same samples."""
    collection = MomentCollection({f"{i}": ClassMoments.from_features(z, labels) for i, z in enumerate(layers)})
    rows = [
        influences(Layer(moments, weighting), Rows(torch.as_tensor(z), torch.as_tensor(labels)))
        for moments, z in zip(collection.values(), layers, strict=True)
    ]
    table = torch.stack(rows)
    dataset = measured(collection, CHOSEN, weighting, Extra(influence=(table @ table.T).numpy()))
    return {str(name): values.values for name, values in dataset.data_vars.items()}


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


def coverage(
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray],
    num_classes: int,
    size: int,
    draws: int,
    seed: int,
) -> dict[str, float]:
    """How often the intervals of three layers hold the population's D, ratio and slope."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(num_classes, 24))
    labels = np.repeat(np.arange(num_classes), size)
    noise = [1.6, 1.0, 0.7]
    between = float(((centres - centres.mean(axis=0)) ** 2).sum()) / num_classes
    truth = np.array([24 * one**2 / between for one in noise])
    ratio, slope = truth[1:] / truth[:-1], float(np.polyfit(np.arange(3), np.log(truth), 1)[0])
    hits = np.zeros(3)
    for _ in range(draws):
        common, own = draw(generator, (len(labels), 24)), draw(generator, (3, len(labels), 24))
        layers = [centres[labels] + s * (0.8 * common + 0.6 * one) for s, one in zip(noise, own, strict=True)]
        found = intervals(layers, labels)
        hits += [
            np.mean((found["compression_interval"].T[0] <= truth) & (truth <= found["compression_interval"].T[1])),
            np.mean(
                [low <= r <= high for (low, high), r in zip(found["decay_ratio_interval"][1:], ratio, strict=True)]
            ),
            found["decay_slope_interval"][0] <= slope <= found["decay_slope_interval"][1],
        ]
    return dict(zip(("D", "ratio", "slope"), hits / draws, strict=True))


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Gaussian noise of variance one."""
    return generator.normal(size=shape)


def heavy(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Student's t with five degrees of freedom, scaled to variance one."""
    return generator.standard_t(5, size=shape) * math.sqrt(3 / 5)


def test_intervals_cover_the_truth() -> None:
    """A sample of the slow test below; with 120 draws a coverage of 95 % has a standard error of 2 %."""
    for name, share in coverage(normal, 5, 30, 120, seed=4).items():
        assert 0.88 <= share <= 1, name


@pytest.mark.slow
@pytest.mark.parametrize("draw", [normal, heavy])
@pytest.mark.parametrize(
    ("num_classes", "size", "least"),
    [(3, 20, 0.92), (10, 50, 0.92), (30, 20, 0.92), (100, 20, 0.92), (3, 200, 0.92), (10, 5, 0.90), (40, 5, 0.90)],
)
def test_intervals_cover_the_truth_in_500_draws(
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray], num_classes: int, size: int, least: float
) -> None:
    for name, share in coverage(draw, num_classes, size, 500, seed=num_classes + size).items():
        assert least <= share <= 0.985, (name, share)


def test_undefined_numbers_have_no_interval() -> None:
    labels = np.arange(12) % 3
    collapsed = np.repeat(np.eye(3), 4, axis=0).reshape(3, 4, 3).transpose(1, 0, 2).reshape(12, 3)
    spread = collapsed * 5 + np.random.default_rng(0).normal(size=(12, 3))
    found = intervals([spread, collapsed], labels)
    assert np.isfinite(found["compression_interval"][0]).all()
    assert np.isnan(found["compression_interval"][1]).all()
    assert np.isnan(found["decay_ratio_interval"][1]).all()
    assert np.isnan(found["decay_slope_interval"]).all()  # one layer makes no line


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

"""Intervals of D, decay ratios and the slope: the jackknife by its definition, and how often they cover the truth."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import neurocollapse as nc
from benchmarks.interval_coverage import COVERED, NOISES, Draw, coverage, intervals, normal, stretched
from neurocollapse.metrics import Layer, Quantity, QuantityError, Rows, Weighting
from neurocollapse.metrics.influence import Influences, influences
from neurocollapse.metrics.unbiased import compression_unbiased
from neurocollapse.statistics import ClassMoments

WEIGHTINGS = ("equal", "frequency", "papers")


def traces(features: np.ndarray, labels: np.ndarray, inside: np.ndarray, shares: np.ndarray) -> tuple[float, float]:
    """Both unbiased traces by their definition, with the given weights of the classes."""
    parts = [features[labels == k] for k in range(len(shares))]
    means = np.stack([part.mean(axis=0) for part in parts])
    spreads = np.array([((z - m) ** 2).sum() / (len(z) - 1) for z, m in zip(parts, means, strict=True)])
    noise = (shares * (1 - shares) * spreads / [len(part) for part in parts]).sum()
    return inside @ spreads, shares @ ((means - shares @ means) ** 2).sum(axis=1) - noise


def uneven(seed: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and sizes of three classes of 3, 9 and 14 samples, mixed."""
    generator = np.random.default_rng(seed)
    sizes = np.array([3, 9, 14])
    labels = generator.permutation(np.repeat(np.arange(3), sizes))
    return 2 * generator.normal(size=(3, 4))[labels] + noise * generator.normal(size=(26, 4)), labels, sizes


def influences_of(features: np.ndarray, labels: np.ndarray, weighting: Weighting = "equal") -> Influences:
    """Influences of all samples."""
    moments = ClassMoments.from_features(features, labels)
    return influences(Layer(moments, weighting), Rows(torch.as_tensor(features), torch.as_tensor(labels)))


def left_out(features: np.ndarray, labels: np.ndarray, weighting: Weighting) -> tuple[np.ndarray, np.ndarray]:
    """Influences on log A and log B by leaving out one sample after another, with the weights of all samples."""
    sizes = np.bincount(labels)
    even, shares = np.full(3, 1 / 3), sizes / sizes.sum()
    weights = even if weighting == "equal" else shares, shares if weighting == "frequency" else even
    all_of = np.array(traces(features, labels, *weights))
    without = [traces(np.delete(features, i, 0), np.delete(labels, i), *weights) for i in range(len(labels))]
    scale = np.sqrt((sizes - 1) / sizes)[labels]
    within, between = (scale[:, None] * (all_of - np.array(without)) / all_of).T
    return within, between


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_influences_are_what_leaving_out_a_sample_changes(weighting: Weighting) -> None:
    features, labels, sizes = uneven(0)
    found = influences_of(features, labels, weighting)
    within, between = left_out(features, labels, weighting)
    np.testing.assert_allclose(found.within, within, rtol=0, atol=1e-12)  # influences of about 0.1
    np.testing.assert_allclose(found.between, between, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.compression, within - between, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.share, ((sizes - 2) / (sizes - 1))[labels], rtol=1e-15)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_corrected_number_equals_the_naive_one(weighting: Weighting) -> None:
    features, labels, sizes = uneven(1)
    within, between = left_out(features, labels, weighting)
    share = ((sizes - 2) / (sizes - 1))[labels]
    together, alone = (share * within * between).sum(), (share * between**2).sum()
    moments = ClassMoments.from_features(features, labels)
    expected = compression_unbiased(moments, weighting=weighting) * (1 + together) / (1 + alone)
    assert intervals([features], labels, weighting)["compression_corrected"][0] == pytest.approx(expected, rel=1e-10)
    assert alone > 0.005  # a correction far above the tolerance


def test_the_corrected_number_ignores_scale_rotation_and_shift() -> None:
    features, labels, _ = uneven(2)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0]
    found = intervals([features, 7 * features @ turn + 3, features[:, [3, 0, 2, 1]]], labels)["compression_corrected"]
    assert found == pytest.approx(found[:1].repeat(3), rel=1e-9)  # the shift costs digits


def test_the_correction_vanishes_with_many_samples_and_at_collapse() -> None:
    generator = np.random.default_rng(4)
    labels = np.arange(30_000) % 3
    features = np.eye(3, 5)[labels] + generator.normal(size=(30_000, 5))
    found = intervals([features, np.eye(3, 5)[labels]], labels)
    first = found["compression_unbiased"][0]
    # the share 4 μᵀΣμ/(K n B²) = 4 · 0.67/(30,000 · 0.67²) of a plain ratio's bias
    assert found["compression_corrected"][0] / first - 1 == pytest.approx(-2e-4, abs=2e-5)
    assert found["compression_corrected"][1] == 0


def test_where_the_means_are_within_one_standard_error_of_the_noise_no_number_is_corrected() -> None:
    """Two classes along one axis: as they come together, B falls into its noise."""
    labels = np.arange(20) % 2
    noise = np.random.default_rng(5).normal(size=(20, 1))
    tried = [(noise + apart * labels[:, None], apart) for apart in (3.0, 2.0, 1.0)]
    found = intervals([one for one, _ in tried], labels)
    shares = [(one.share * one.between**2).sum().item() for one in (influences_of(z, labels) for z, _ in tried)]
    assert np.isfinite(found["compression_unbiased"]).all()
    assert np.isnan(found["compression_corrected"]).tolist() == [share > 1 for share in shares]
    assert [share > 1 for share in shares] == [False, False, True]


def test_classes_of_two_samples_leave_all_of_it_undefined() -> None:
    """Without one of two samples a class shows no spread."""
    features, labels, _ = uneven(6)
    fewer = np.delete(np.arange(26), np.flatnonzero(labels == 0)[0])
    found = intervals([features[fewer], 2 * features[fewer]], labels[fewer])
    assert np.isfinite(found["compression_unbiased"]).all()
    for name in ("compression_corrected", "compression_interval", "decay_ratio_interval", "decay_slope_interval"):
        assert np.isnan(found[name]).all(), name


def test_one_sample_that_decides_makes_the_interval_long() -> None:
    """Student's t has as many degrees of freedom as samples that count: about one where one is far from all others."""
    generator = np.random.default_rng(7)
    labels = np.arange(60) % 3
    features = 5 * np.eye(3, 8)[labels] + generator.normal(size=(60, 8))
    features[0, 7] = 60
    found = influences_of(features, labels).compression.numpy()
    variance = (found**2).sum()
    freedom = variance**2 / (found**4).sum()
    lower, upper = intervals([features], labels)["compression_interval"][0]
    assert freedom < 1.5
    half = stats.t(freedom).ppf(0.975) * math.sqrt(variance)
    assert math.log(upper / lower) == pytest.approx(2 * half, rel=1e-9)


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


@pytest.mark.parametrize("draw", [normal, stretched])
def test_intervals_cover_the_truth(draw: Draw) -> None:
    """A sample of the slow test below; with 120 draws a coverage of 95 % has a standard error of 2 %."""
    found = coverage(draw, 5, 20, 120, seed=4)
    for name in COVERED:
        assert 0.88 <= found[name] <= 1, name


def test_the_bias_of_few_samples_is_undone_by_the_same_draws() -> None:
    """D = 3.0 with five samples of each of ten classes: the raw number is a little over half of it."""
    found = coverage(normal, 10, 5, 60, seed=15)
    assert found["raw D"] < 0.6
    assert found["unbiased D"] == pytest.approx(1, abs=0.04)
    assert found["corrected D"] == pytest.approx(1, abs=0.04)  # one standard error is 0.015


def drawn(
    draw: Draw, num_classes: int, size: int, dimension: int, compression: float, draws: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unbiased and corrected D of many draws, by the true one, and the standard error of B by B."""
    generator = np.random.default_rng(num_classes + size + dimension)
    centres = generator.normal(size=(num_classes, dimension))
    centres -= centres.mean(axis=0)
    centres *= math.sqrt(num_classes * dimension / compression / (centres**2).sum())
    labels = np.repeat(np.arange(num_classes), size)
    layers = [centres[labels] + draw(generator, (len(labels), dimension)) for _ in range(draws)]
    found = intervals(layers, labels)
    errors = [influences_of(z, labels).between.square().sum().sqrt().item() for z in layers]
    both = (found[name] / compression for name in ("compression_unbiased", "compression_corrected"))
    return *both, np.array(errors)


def test_the_correction_is_what_theory_says_of_gaussian_classes() -> None:
    """Var B / B² is 4 D/(d K n) by the class means and twice the noise's 2 D²(1 − 1/K)/(d K n (n − 1)) by their noise.

    The jackknife doubles the noise, in the variance and in the covariance, which is the noise's part by D; the weight
    (n − 2)/(n − 1) undoes what it adds beyond that.
    """
    plain, corrected, _ = drawn(normal, 3, 10, 24, 1.0, 150)
    by_means, by_noise = 4 / (24 * 3 * 10), 2 * (2 / 3) / (24 * 3 * 10 * 9)
    expected = 8 / 9 * by_means + 2 * by_noise + 2 * by_noise
    assert (plain - corrected).mean() == pytest.approx(expected, rel=0.1)  # one standard error is 2 %


@pytest.mark.slow
@pytest.mark.parametrize("draw", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize(("num_classes", "size"), [(3, 5), (3, 10), (3, 20), (10, 5), (10, 10), (30, 5)])
def test_the_corrected_number_is_within_two_per_cent(draw: Draw, num_classes: int, size: int) -> None:
    """400 draws each, wherever the trace of Σ_B is at least five of its standard errors from 0."""
    tried = 0
    for dimension, compression in ((8, 0.1), (8, 1.0), (24, 1.0), (24, 2.6), (64, 2.6), (64, 10.0)):
        _, corrected, errors = drawn(draw, num_classes, size, dimension, compression, 400)
        if np.median(errors) < 1 / 5:
            tried += 1
            error = np.nanstd(corrected) / math.sqrt(400)
            assert abs(np.nanmean(corrected) - 1) < 0.02 + 2 * error, (dimension, compression)
    assert tried >= 3


@pytest.mark.slow
@pytest.mark.parametrize("draw", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize(
    ("num_classes", "size", "least", "most"),
    [
        *((num_classes, 20, 0.92, 0.985) for num_classes in (3, 30, 100)),
        *((3, 200, 0.92, 0.985), (10, 50, 0.92, 0.985)),
        *((num_classes, 5, 0.90, 1.0) for num_classes in (3, 10, 40)),  # the jackknife errs on the safe side
    ],
)
def test_intervals_cover_the_truth_in_500_draws(
    draw: Draw, num_classes: int, size: int, least: float, most: float
) -> None:
    found = coverage(draw, num_classes, size, 500, seed=num_classes + size)
    for name in COVERED:
        assert least <= found[name] <= most, (name, found[name])
    if (num_classes, size) != (3, 5):  # there B is within four of its standard errors of 0
        assert found["unbiased D"] == pytest.approx(1, abs=0.03)  # 0.024 too large at 10 classes of 5, Student t₅
    if (num_classes, size) != (3, 5) or draw is not NOISES["multivariate t₅"]:
        assert found["corrected D"] == pytest.approx(1, abs=0.02)
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

"""Decay ratios and the geometric fit are those of loops, of scipy and of simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from neurocollapse.metrics import decay_ratio, geometric_decay

EXACT = 1e-12


def noisy(seed: int, num_layers: int = 7, noise: float = 0.3) -> np.ndarray:
    """A geometric decay by a factor of 0.4 a layer, with log-normal noise."""
    rng = np.random.default_rng(seed)
    return np.exp(1.0 + np.log(0.4) * np.arange(num_layers) + noise * rng.standard_normal(num_layers))


def test_decay_ratio_is_each_value_over_the_one_before() -> None:
    values = noisy(0)
    expected = [values[layer] / values[layer - 1] for layer in range(1, len(values))]
    ratios = decay_ratio(values)
    assert math.isnan(ratios[0])
    assert ratios[1:].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([3.0], [np.nan]),
        ([2.0, 0.0], [np.nan, 0.0]),
        ([0.0, 2.0], [np.nan, np.inf]),
        ([0.0, 0.0], [np.nan, np.nan]),
        ([np.inf, np.inf], [np.nan, np.nan]),
        ([np.inf, 1.0], [np.nan, 0.0]),
        ([1.0, np.nan, 1.0], [np.nan, np.nan, np.nan]),
    ],
)
def test_decay_ratio_at_the_edges(values: list[float], expected: list[float]) -> None:
    np.testing.assert_array_equal(decay_ratio(values), expected)


def test_decay_ratios_multiply_to_the_whole_decay() -> None:
    values = noisy(1)
    assert np.prod(decay_ratio(values)[1:]) == pytest.approx(values[-1] / values[0], rel=EXACT)


def test_scale_leaves_decay_ratio_and_slope_alone() -> None:
    values = noisy(2)
    np.testing.assert_allclose(decay_ratio(1e-30 * values), decay_ratio(values), rtol=EXACT)
    plain, scaled = geometric_decay(values), geometric_decay(1e-30 * values)
    assert scaled.slope == pytest.approx(plain.slope, rel=EXACT)
    assert scaled.r_squared == pytest.approx(plain.r_squared, rel=EXACT)
    assert scaled.intercept == pytest.approx(plain.intercept + math.log(1e-30), rel=EXACT)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_layers", [3, 7, 40])
def test_the_fit_is_that_of_scipy(num_layers: int, seed: int) -> None:
    values = noisy(seed, num_layers)
    fit, reference = geometric_decay(values), stats.linregress(np.arange(num_layers), np.log(values))
    half = stats.t.ppf(0.975, num_layers - 2) * reference.stderr
    assert fit.slope == pytest.approx(reference.slope, rel=EXACT)
    assert fit.intercept == pytest.approx(reference.intercept, rel=1e-10, abs=EXACT)
    assert fit.r_squared == pytest.approx(reference.rvalue**2, rel=1e-10)
    assert (fit.lower, fit.upper) == pytest.approx((reference.slope - half, reference.slope + half), rel=1e-10)
    assert fit.num_layers == num_layers


def test_the_fit_is_that_of_the_sums_written_out() -> None:
    values = noisy(3)
    logs, n = [math.log(value) for value in values], len(values)
    sum_x, sum_y = sum(range(n)), math.fsum(logs)
    sum_xx, sum_xy = sum(x * x for x in range(n)), math.fsum(x * y for x, y in enumerate(logs))
    slope = (n * sum_xy - sum_x * sum_y) / (n * sum_xx - sum_x**2)
    intercept = (sum_y - slope * sum_x) / n
    residual = math.fsum((y - intercept - slope * x) ** 2 for x, y in enumerate(logs))
    spread = math.fsum((y - sum_y / n) ** 2 for y in logs)
    fit = geometric_decay(values)
    assert (fit.slope, fit.intercept) == pytest.approx((slope, intercept), rel=EXACT)
    assert fit.r_squared == pytest.approx(1 - residual / spread, rel=EXACT)


@pytest.mark.parametrize("factor", [0.5, 0.01, 3.0])
def test_an_exact_geometric_decay_is_found_exactly(factor: float) -> None:
    fit = geometric_decay([7.0 * factor**layer for layer in range(8)])
    assert fit.factor == pytest.approx(factor, rel=EXACT)
    assert math.exp(fit.intercept) == pytest.approx(7.0, rel=EXACT)
    assert fit.r_squared == pytest.approx(1.0, abs=EXACT)
    assert fit.upper - fit.lower == pytest.approx(0.0, abs=1e-10)
    assert all(type(value) is float for value in (fit.slope, fit.intercept, fit.r_squared, fit.lower, fit.upper))


@pytest.mark.parametrize("unusable", [0.0, np.nan, np.inf, -1.0])
def test_layers_without_a_logarithm_are_left_out_but_keep_their_place(unusable: float) -> None:
    values = noisy(4)
    values[[0, 3]] = unusable
    fit, kept = geometric_decay(values), np.array([1, 2, 4, 5, 6])
    reference = stats.linregress(kept, np.log(values[kept]))
    assert (fit.slope, fit.intercept) == pytest.approx((reference.slope, reference.intercept), rel=EXACT)
    assert fit.num_layers == 5


@pytest.mark.parametrize("values", [[], [2.0], [0.0, 0.0, 3.0], [np.nan] * 5])
def test_fewer_than_two_usable_layers_have_no_fit(values: list[float]) -> None:
    fit = geometric_decay(values)
    assert all(math.isnan(value) for value in (fit.slope, fit.intercept, fit.r_squared, fit.lower, fit.upper))
    assert fit.num_layers == sum(value > 0 for value in values)


def test_two_layers_have_a_slope_without_an_interval() -> None:
    fit = geometric_decay([4.0, 1.0])
    assert fit.slope == pytest.approx(math.log(0.25), rel=EXACT)
    assert fit.r_squared == pytest.approx(1.0, abs=EXACT)
    assert math.isnan(fit.lower)
    assert math.isnan(fit.upper)


@pytest.mark.parametrize("num_layers", range(2, 14))
@pytest.mark.parametrize("value", [0.1, 0.3, 7.0])
def test_a_quantity_that_does_not_vary_has_no_share_to_explain(value: float, num_layers: int) -> None:
    fit = geometric_decay([value] * num_layers)
    assert fit.slope == pytest.approx(0.0, abs=1e-15)
    assert math.isnan(fit.r_squared)


def test_r_squared_stays_within_its_range() -> None:
    for seed in range(200):
        half = noisy(seed, 3)
        palindrome = np.concatenate([half, half[::-1]])  # a line explains nothing of it, but for roundings
        assert 0.0 <= geometric_decay(palindrome).r_squared < EXACT
        assert 0.0 <= geometric_decay(noisy(seed, 4, noise=30.0)).r_squared <= 1.0


def test_the_interval_covers_the_true_slope_95_times_in_100() -> None:
    repeats = 4000
    covered = 0
    for seed in range(repeats):
        fit = geometric_decay(noisy(seed, 6))
        covered += fit.lower <= math.log(0.4) <= fit.upper
    assert covered / repeats == pytest.approx(0.95, abs=0.0135)  # four standard errors

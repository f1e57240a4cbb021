"""Intervals of means over repeats: against a closed form, and undefined of few or odd values."""

import math

import numpy as np
import pytest

from neurocollapse.experiments.intervals import FEWEST, mean_interval, too_few


def test_the_interval_of_many_repeats_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    room = 1.96 * values.std() / 20
    low, high = mean_interval(values)
    assert low == pytest.approx(values.mean() - room, abs=0.03)  # by 2 % of its length, .4
    assert high == pytest.approx(values.mean() + room, abs=0.03)


def test_skewed_gains_of_one_sign_stay_on_their_side() -> None:
    low, high = mean_interval([0.03, 0.03, 0.04, 0.05, 0.18])
    assert 0.03 <= low < 0.066 < high <= 0.18


def test_it_is_undefined_of_few_or_odd_values() -> None:
    for values in (np.ones(FEWEST - 1), [1.0, 2.0, 3.0, 4.0, math.nan], [1.0, 2.0, 3.0, 4.0, -math.inf]):
        assert np.isnan(mean_interval(values)).all()
    assert mean_interval(np.ones(FEWEST)) == (1.0, 1.0)


def test_too_few_repeats_are_said() -> None:
    assert too_few(FEWEST) == []
    assert too_few(2) == [f"2 repeats are too few for an interval, which needs {FEWEST}"]

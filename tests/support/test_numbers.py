"""Numbers for readers."""

import numpy as np
import pytest

from neurocollapse.support.numbers import interval, number, short, together


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
        (None, "–"),
        (1437, "1,437"),
        (11181642, "11,181,642"),
        (np.int64(-2), "−2"),
        (np.float64(11.23), "11.2"),
        (0.9996, "1.00"),
        (0.0310, "0.0310"),
        (-0.99, "−0.990"),
        (99999.6, "100,000"),
        (1234567.8, "1.23×10⁶"),
        (3.2e-8, "3.20×10⁻⁸"),
        (9.999e-8, "1.00×10⁻⁷"),
        (-4.5e-300, "−4.50×10⁻³⁰⁰"),
        (5e-324, "4.94×10⁻³²⁴"),
        (1e300, "1.00×10³⁰⁰"),
        ("not set", "not set"),
        (True, "True"),
    ],
)
def test_numbers_keep_three_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1.3866, 0.00687], ("1.3866", "0.0069")),
        ([12.0, 0.276], ("12.000", "0.276")),
        ([152.2982, 170.9946, 0.7], ("152.298", "170.995", "0.700")),
        ([11181.2, 64.5], ("11,181.2", "64.5")),
        ([151.2, 178.4], ("151", "178")),
        ([0.00687, 0.0071], ("0.00687", "0.00710")),
        ([13.62, 0.000193], ("1.36×10¹", "1.93×10⁻⁴")),
        ([2.0, 1.0], ("2", "1")),
        ([2.0, 1.5], ("2.00", "1.50")),
        ([-1.5, 0.0, float("nan"), float("-inf")], ("−1.50", "0", "–", "−∞")),
        ([3.2e-8, 1e-9], ("3.20×10⁻⁸", "1.00×10⁻⁹")),
        ([9.996, 0.5], ("9.996", "0.500")),
        ([1e300, 1.0], ("1.00×10³⁰⁰", "1.00×10⁰")),
        ([], ()),
        ([None, "word", 1.25], ("–", "word", "1.25")),
    ],
)
def test_numbers_below_each_other_have_the_same_decimals(values, texts):
    assert together(values) == texts


def test_an_interval_has_two_ends():
    assert interval(0.336, 0.411) == "0.336 to 0.411"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (2.0, "2"),
        (100.0, "100"),
        (1e-7, "10⁻⁷"),
        (-1e-7, "−1×10⁻⁷"),
        (1.4901e-8, "1.49×10⁻⁸"),
        (-5.3712e6, "−5,371,200"),
        (-5371234.5, "−5.371×10⁶"),
        (0.06123456, "0.06123"),
        (0.0, "0"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
    ],
)
def test_a_number_by_itself_ends_without_zeros(value, text):
    assert short(value) == text

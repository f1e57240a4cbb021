"""Numbers for readers."""

import numpy as np
import pytest

from neurocollapse.report.numbers import interval, number


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


def test_an_interval_has_two_ends():
    assert interval(0.336, 0.411) == "0.336 to 0.411"

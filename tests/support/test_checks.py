"""Options that are numbers are taken in any type and refused in one line."""

import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from neurocollapse.support.checks import file_path, integer, non_negative_number, number, positive_number
from neurocollapse.support.choices import check_choice


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)])
def test_integers_of_any_type_become_an_int(value: Any) -> None:
    found = integer("depth", value, least=3)
    assert (type(found), found) == (int, 3)


@pytest.mark.parametrize("value", [True, 3.0, "3", None, [3], math.nan, np.float64(3), torch.tensor([3, 4]), 3j])
def test_what_is_no_integer_is_a_type_error_in_one_line(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^`depth` must be an integer of at least 1, got ") as raised:
        integer("depth", value, least=1)
    assert str(raised.value).isprintable()
    with pytest.raises(TypeError, match=r"^`depth` must be an integer, got "):
        integer("depth", value)


@pytest.mark.parametrize(("value", "least"), [(0, 1), (-1, 0), (np.int8(-128), 2)])
def test_an_integer_that_is_too_small_is_a_value_error(value: Any, least: int) -> None:
    with pytest.raises(ValueError, match=f"^`depth` must be an integer of at least {least}, got {int(value)}$"):
        integer("depth", value, least=least)
    assert integer("depth", value) == value


@pytest.mark.parametrize("value", [0.5, Fraction(1, 2), Decimal("0.5"), np.float32(0.5), torch.tensor(0.5)])
def test_numbers_of_any_type_become_a_float(value: Any) -> None:
    for check in (number, positive_number, non_negative_number):
        found = check("scale", value)
        assert (type(found), found) == (float, 0.5)


@pytest.mark.parametrize("check", [number, positive_number, non_negative_number])
@pytest.mark.parametrize("value", ["0.5", b"1", True, None, [1.0], 1j, torch.ones(2), torch.ones(40, 40)])
def test_what_is_no_number_is_a_type_error_in_one_line(check: Any, value: Any) -> None:
    with pytest.raises(TypeError, match=r"^`scale` must be a number, got ") as raised:
        check("scale", value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 120


@pytest.mark.parametrize("value", [-1, -1e-300, math.nan, math.inf, -math.inf, np.float64("nan")])
def test_numbers_out_of_range_are_value_errors(value: float) -> None:
    with pytest.raises(ValueError, match=r"^`scale` must be a positive number, got "):
        positive_number("scale", value)
    with pytest.raises(ValueError, match=r"^`scale` must be a number of at least 0, got "):
        non_negative_number("scale", value)


def test_zero_is_at_least_zero_and_not_positive() -> None:
    assert non_negative_number("scale", -0.0) == 0
    with pytest.raises(ValueError, match="must be a positive number, got 0"):
        positive_number("scale", 0)


@pytest.mark.parametrize("choices", [Literal["cosine", "constant"], ("cosine", "constant")])
def test_a_choice_is_one_of_those_listed(choices: Any) -> None:
    check_choice("schedule", "cosine", choices)
    for value, end in (("cosin", r"got 'cosin'; did you mean 'cosine'\?"), (3, "got 3"), (None, "got None")):
        with pytest.raises(ValueError, match=rf"^`schedule` must be one of 'cosine', 'constant', {end}$"):
            check_choice("schedule", value, choices)


@pytest.mark.parametrize("value", [3, None, b"name", ["name"], torch.ones(2)])
def test_what_is_no_path_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^`resume` must be a path, got "):
        file_path("resume", value)


@pytest.mark.parametrize("value", ["a" * 300, "folder/" + "a" * 10_000, "nul\0byte", Path("b" * 10_000)])
def test_a_name_that_no_file_can_have_is_a_value_error_in_one_line(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^`resume` cannot be the name of a file: ") as raised:
        file_path("resume", value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 160


def test_a_path_need_not_exist(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "none", tmp_path / "file" / "inside", str(tmp_path)):
        assert file_path("resume", path) is path

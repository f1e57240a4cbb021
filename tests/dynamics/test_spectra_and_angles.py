"""Ranks of spectra, balance of neighbours, and angles of single vectors."""

import math

import pytest
import torch

from neurocollapse.dynamics import imbalance, principal_angles, stable_rank, vector_angles, weight_effective_rank


def test_equal_values_count_as_many_as_they_are() -> None:
    for count in (1, 3, 7):
        values = torch.cat([torch.full((count,), 0.3), torch.zeros(5)]).double()
        assert float(weight_effective_rank(values)) == pytest.approx(count)
        assert float(stable_rank(values)) == pytest.approx(count)


def test_ranks_do_not_depend_on_scale_and_are_ordered() -> None:
    values = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    assert float(weight_effective_rank(7 * values)) == pytest.approx(float(weight_effective_rank(values)))
    assert float(stable_rank(7 * values)) == pytest.approx(float(stable_rank(values)))
    naive = math.exp(-sum(p * math.log(p) for p in (4 / 7.5, 2 / 7.5, 1 / 7.5, 0.5 / 7.5)))
    assert float(weight_effective_rank(values)) == pytest.approx(naive)
    assert float(stable_rank(values)) == pytest.approx((16 + 4 + 1 + 0.25) / 16)


def test_a_zero_spectrum_has_no_rank() -> None:
    assert math.isnan(weight_effective_rank(torch.zeros(3)))
    assert math.isnan(stable_rank(torch.zeros(3)))


def test_balanced_weights_have_no_imbalance() -> None:
    generator = torch.Generator().manual_seed(0)
    left, values, right = torch.linalg.svd(torch.randn(5, 5, dtype=torch.float64, generator=generator))
    weight, following = left * values @ right, torch.diag(values) @ left.T
    assert float(imbalance(weight, following)) < 1e-13
    assert float(imbalance(weight, 2 * following)) == pytest.approx(3 * float(values.pow(4).sum().sqrt()))


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-8, 1e-3, 1.0, math.pi / 2 - 1e-9, math.pi / 2])
def test_single_angles_are_accurate_everywhere(angle: float) -> None:
    first = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    second = torch.tensor([[math.cos(angle)], [math.sin(angle)], [0.0]], dtype=torch.float64)
    for sign in (1, -1):
        found = float(vector_angles(first, sign * second))
        assert found == pytest.approx(angle, rel=1e-12, abs=1e-16)
        assert found == pytest.approx(float(principal_angles(first, second)[0]), rel=1e-6, abs=1e-16)

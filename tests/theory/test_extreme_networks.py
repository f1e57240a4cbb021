"""Weights and data of any finite size: a verdict, never an error, and never a wrong "violated"."""

import itertools
import random
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from neurocollapse.theory import LinearProblem, verify
from neurocollapse.theory.roots import leading_roots
from neurocollapse.theory.spectrum import Spectrum, shifted, unit_scaled

EYE, LABELS = torch.eye(6, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1, 1])


def draw_scale(draw: random.Random) -> float:
    """Ordinary, extreme, or at the ends of the range of float64."""
    return 10.0 ** draw.choice([0, 0, -1, 1, draw.uniform(-20, 20), draw.uniform(-300, 300), -320, 307.9])


def draw_network(seed: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Random shapes, ranks and scales, between and within the layers."""
    generator, draw = torch.Generator().manual_seed(seed), random.Random(seed)
    K, L = draw.randint(2, 4), draw.randint(1, 5)
    widths = [draw.randint(1, 12) if draw.random() < 0.3 else draw.randint(K + 1, 14) for _ in range(L)] + [K]

    def within_range(tensor: Tensor) -> Tensor:
        return (tensor * draw_scale(draw)).nan_to_num(0, 1e308, -1e308)

    weights = []
    for fan_in, fan_out in itertools.pairwise(widths):
        weight, kind = torch.randn(fan_out, fan_in, generator=generator).double(), draw.random()
        if kind < 0.2:
            weight = torch.eye(fan_out, fan_in).double()
        elif kind < 0.25:
            weight = 0 * weight
        elif kind < 0.4:
            weight = torch.outer(weight[:, 0], weight[0])
        elif kind < 0.5:
            weight = weight * torch.logspace(-200, 200, fan_in).double()
        weights.append(within_range(weight))
    samples = K * draw.randint(1, 5)
    return (
        weights,
        within_range(torch.randn(samples, widths[0], generator=generator).double()),
        torch.arange(samples) % K,
    )


def check(seeds: range) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in seeds:
            verification = verify(*draw_network(seed))
            assert "violated" not in {verdict.outcome for verdict in verification.verdicts}, seed
            assert verification.to_json(), seed
            assert "Outcome" in repr(verification), seed


def test_no_finite_network_is_an_error() -> None:
    check(range(80))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_none_of_ten_thousand_finite_networks_is_an_error(block: int) -> None:
    check(range(1000 + 500 * block, 1500 + 500 * block))


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ([EYE, 1e9 * EYE[::3]], ""),
        ([0.5 * EYE] * 400 + [EYE[::3]], ""),
        ([1e-200 * EYE] * 3 + [EYE[::3]], ""),
        ([1e200 * EYE] * 3 + [EYE[::3]], "δ₂ is beyond the range of float64"),
    ],
    ids=["last-large", "deep", "tiny", "huge"],
)
def test_the_number_that_cannot_be_represented_is_named(weights: list[Tensor], named: str) -> None:
    verification = verify(weights, EYE, LABELS)
    prior = [verdict for verdict in verification.verdicts if "(a priori)" in verdict.reference]
    assert {verdict.outcome for verdict in prior} == {"assumptions unmet"}
    assert named in verification.assumptions["last_layer_balance"].meaning
    np.testing.assert_allclose(verification.to_dataset()["decay_ratio"][1:], 1.0, rtol=1e-12)


def test_an_imbalance_that_underflows_is_named() -> None:
    weights, inputs, labels = draw_network(1320)
    verification = verify(weights, inputs, labels)
    assert float(weights[0].abs().max()) < 1e-300
    assert verification.theorems["balance"].status == "assumptions unmet"
    assert "beyond the range of float64" in verification.assumptions["last_layer_excess"].meaning


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 3.0, 1e20, 1e200])
def test_measurements_do_not_see_the_scale_of_a_layer(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(8, 8, generator=generator).double() for _ in range(3)]
    weights.append(torch.randn(2, 8, generator=generator).double())
    inputs, labels = torch.randn(10, 8, generator=generator).double(), torch.arange(10) % 2
    plain = verify(weights, inputs, labels).to_dataset()
    scaled = verify([scale * one for one in weights], scale * inputs, labels).to_dataset()
    for name in ("compression", "decay_ratio", "separation_uncentred", "compression_predicted"):
        np.testing.assert_allclose(scaled[name], plain[name], rtol=1e-9)


def test_normalised_features_are_the_features_themselves_up_to_a_power_of_two() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = [100 * torch.randn(5, 4, generator=generator).double(), torch.randn(2, 5, generator=generator).double()]
    biases = [torch.randn(5, generator=generator).double(), torch.zeros(2)]
    inputs = torch.randn(8, 4, generator=generator).double()
    problem = LinearProblem.of(weights, inputs, torch.arange(8) % 2, biases=biases)
    for scaled, plain in zip(problem.normalised.means, problem.means, strict=True):
        ratio = (plain / scaled).flatten()
        assert torch.equal(ratio, ratio[:1].expand_as(ratio))
        assert float(ratio[0]).hex().startswith("0x1.0000000000000p")


@pytest.mark.parametrize("exponent", [-1500, -1074, -3, 0, 5, 1023, 2000])
def test_shifts_beyond_the_range_of_one_factor_are_exact(exponent: int) -> None:
    start = torch.tensor([np.ldexp(0.75, -exponent // 2)])
    assert float(shifted(start, exponent)) == np.ldexp(0.75, exponent + -exponent // 2)


def test_unit_scale_keeps_every_bit_and_leaves_zeros() -> None:
    tensor = torch.randn(3, 3, generator=torch.Generator().manual_seed(2)).double() * 1e-300
    scaled = unit_scaled(tensor)
    assert 0.5 <= float(scaled.values.abs().max()) < 1
    assert torch.equal(shifted(scaled.values, scaled.exponent), tensor)
    assert unit_scaled(0 * tensor).exponent == 0


@pytest.mark.parametrize("scale", [1e-290, 1e-20, 1.0, 1e20, 1e290])
@pytest.mark.parametrize("shape", [(6, 6), (4, 7), (7, 4)])
def test_a_spectrum_is_that_of_the_singular_value_decomposition(scale: float, shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3)).double()
    found = Spectrum(scale * weight)
    left, values, _ = torch.linalg.svd(weight)
    torch.testing.assert_close(found.values / scale, values, rtol=1e-10, atol=0)
    leading = found.left(2)
    torch.testing.assert_close(leading @ leading.T, left[:, :2] @ left[:, :2].T, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.right @ found.right.T, torch.eye(shape[1]).double(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("delta", [0.0, 1e-300, 1e-6, 0.3, 7.0, 1e200])
@pytest.mark.parametrize("depth", [2, 5, 400])
@pytest.mark.parametrize("size", [1e-250, 0.3, 10.0, 1e250])
def test_roots_solve_their_equations_in_logarithms(delta: float, depth: int, size: float) -> None:
    low, high = leading_roots(size, 2 * size, depth, delta)
    if low > 0:
        # The relative error of s is that of its logarithm, 1e-15 times up to 600, and L of them are multiplied.
        found = (depth - 1) * np.log(low) + np.log(low + delta)
        assert found == pytest.approx(np.log(size), rel=1e-12, abs=1e-11)
    assert high >= delta
    if high - delta > 1e-3 * high:
        found = (depth - 1) * np.log(high) + np.log(high - delta)
        assert found == pytest.approx(np.log(2 * size), rel=1e-12, abs=1e-10)


@pytest.mark.parametrize("low", [0.0, -1.0, np.nan, np.inf])
def test_without_a_positive_number_there_is_no_root(low: float) -> None:
    assert np.isnan(leading_roots(low, 1.0, 3, 0.1)[0])
    assert np.isnan(leading_roots(1.0, low, 3, 0.1)[1])
    assert all(np.isnan(leading_roots(1.0, 1.0, 3, np.inf)))

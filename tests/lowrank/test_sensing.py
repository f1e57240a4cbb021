"""Sensing steps are gradient steps, and measurements recover a matrix."""

import math

import pytest
import torch
from torch import Tensor

from neurocollapse.data.synthetic import low_rank_target
from neurocollapse.lowrank import Factorization, Sensing, compress_spectral, first_gradient, recover
from neurocollapse.lowrank.problem import loss
from neurocollapse.models.linear import chain_product, linear_weights

M, N = 7, 5
GENERATOR = torch.Generator().manual_seed(0)
MATRICES = torch.randn(20, M, N, dtype=torch.float64, generator=GENERATOR)
TARGET = low_rank_target(M, N, 2, seed=1)
MEASURED = (MATRICES * TARGET).sum((1, 2))


def naive(product: Tensor, scale: float) -> Tensor:
    """A loop over the measurements."""
    return sum(0.5 * scale * ((matrix * product).sum() - y) ** 2 for matrix, y in zip(MATRICES, MEASURED, strict=True))


@pytest.mark.parametrize(("reduction", "scale"), [("half_sum", 1.0), ("half_mean_observed", 1 / 20)])
def test_loss_and_steps_are_those_of_a_loop_and_autograd(reduction: str, scale: float) -> None:
    problem = Sensing(MATRICES, MEASURED, reduction=reduction)
    start = linear_weights([N, 3, 4, M], "norm", 1.0, seed=2)
    leaves = [weight.clone().requires_grad_() for weight in start]
    value = naive(chain_product(leaves), scale)
    gradients = torch.autograd.grad(value, leaves)
    assert loss(problem, chain_product(start[1:]), start[0].T) == pytest.approx(float(value.detach()))
    torch.testing.assert_close(first_gradient(problem, start), gradients[0])
    found = recover(problem, start, learning_rate=1e-3, outer_rate=0.5, num_steps=1)
    for weight, before, gradient, rate in zip(found.weights, start, gradients, (5e-4, 1e-3, 5e-4), strict=True):
        torch.testing.assert_close(weight, before - rate * gradient)


def test_measuring_every_entry_is_factorization() -> None:
    problem = Sensing(torch.eye(M * N).reshape(-1, M, N), TARGET.flatten())
    start = linear_weights([N, 3, M], "orth", 0.5, seed=2)
    settings = {"learning_rate": 0.01, "num_steps": 50}
    one, other = recover(problem, start, **settings), recover(Factorization(TARGET), start, **settings)
    for weight, same in zip(one.weights, other.weights, strict=True):
        torch.testing.assert_close(weight, same)
    torch.testing.assert_close(problem.surrogate() * M * N, TARGET)


def test_the_surrogate_tends_to_the_target() -> None:
    generator = torch.Generator().manual_seed(3)
    matrices = torch.randn(20_000, M, N, dtype=torch.float64, generator=generator)
    surrogate = Sensing(matrices, (matrices * TARGET).sum((1, 2))).surrogate()
    # every entry has a standard deviation of about ‖Φ‖/√m
    assert float((surrogate - TARGET).abs().max()) < 5 * float(TARGET.norm()) / math.sqrt(20_000)


def test_a_compressed_network_recovers_the_matrix_from_measurements() -> None:
    generator = torch.Generator().manual_seed(4)
    target = low_rank_target(12, 12, 1, seed=2)
    matrices = torch.randn(100, 12, 12, dtype=torch.float64, generator=generator)
    problem = Sensing(matrices, (matrices * target).sum((1, 2)), reduction="half_mean_observed")
    small = compress_spectral(problem.surrogate(), 2, depth=3, scale=0.05)
    found = recover(problem, small, learning_rate=0.03, num_steps=1000, tolerance=1e-5, test=Factorization(target))
    assert found.converged
    assert found.test_error < 1e-3


def test_bad_measurements_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"`measurements` one number each, got \(20, 7, 5\) and \(19,\)"):
        Sensing(MATRICES, MEASURED[:-1])
    with pytest.raises(ValueError, match=r"shape \(measurements, outputs, inputs\)"):
        Sensing(MATRICES[0], MEASURED)
    broken = MEASURED.clone()
    broken[3] = math.inf
    with pytest.raises(ValueError, match=r"`measurements` must hold finite numbers, got inf at position \(3,\)"):
        Sensing(MATRICES, broken)

"""Closed-form descent is gradient descent: against autograd, dense loops, exact limits and invariances."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from neurocollapse.data.synthetic import low_rank_target
from neurocollapse.lowrank import (
    Completion,
    Factorization,
    Factors,
    Observations,
    compress,
    compress_spectral,
    expand,
    first_gradient,
    observe,
    recover,
)
from neurocollapse.lowrank.problem import Problem, loss, relative_error, scale_of
from neurocollapse.models.linear import chain_product, linear_weights

M, N, RANK = 13, 11, 2
TARGET = low_rank_target(M, N, RANK, seed=7)
MASK = torch.rand(M, N, generator=torch.Generator().manual_seed(3)) < 0.5
CHAINS = {
    "two": [N, 4, M],
    "narrow": [N, 4, 4, M],
    "wide": [N, 15, 15, 15, M],
    "uneven": [N, 3, 5, 2, M],
}


def problems(reduction: str) -> Iterator[tuple[Problem, Tensor]]:
    """Every problem with the weight of each entry in its loss."""
    scale = {"half_sum": 1.0, "half_mean": 1 / (M * N), "half_mean_observed": 1 / int(MASK.sum())}[reduction]
    yield Completion(Observations.where(TARGET, MASK), reduction=reduction), scale * MASK.double()
    if reduction != "half_mean_observed":
        yield Factorization(TARGET, reduction=reduction), torch.full((M, N), scale, dtype=torch.float64)


def autograd_steps(
    start: list[Tensor], entries: Tensor, rate: float, outer_rate: float, num_steps: int
) -> tuple[list[Tensor], list[float]]:
    """The naive double: a dense masked loss, autograd, and a loop."""
    weights, losses = [weight.clone() for weight in start], []
    for step in range(num_steps + 1):
        leaves = [weight.requires_grad_() for weight in weights]
        value = 0.5 * (entries * (chain_product(leaves) - TARGET).square()).sum()
        losses.append(float(value.detach()))
        if step == num_steps:
            break
        gradients = torch.autograd.grad(value, leaves)
        ends = (0, len(weights) - 1)
        rates = [outer_rate * rate if layer in ends else rate for layer in range(len(weights))]
        weights = [
            (weight - eta * gradient).detach() for weight, eta, gradient in zip(leaves, rates, gradients, strict=True)
        ]
    return [weight.detach() for weight in weights], losses


@pytest.mark.parametrize("outer_rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("widths", CHAINS.values(), ids=CHAINS.keys())
@pytest.mark.parametrize("reduction", ["half_sum", "half_mean", "half_mean_observed"])
def test_steps_are_those_of_autograd(reduction: str, widths: list[int], outer_rate: float) -> None:
    start = linear_weights(widths, "norm", 1.0, seed=2)
    for problem, entries in problems(reduction):
        rate = 0.02 / problem.scale
        expected, losses = autograd_steps(start, entries, rate, outer_rate, 5)
        found = recover(problem, start, learning_rate=rate, outer_rate=outer_rate, num_steps=5, every=1)
        for weight, other in zip(found.weights, expected, strict=True):
            torch.testing.assert_close(weight, other, rtol=1e-11, atol=1e-13)
        assert found.losses.tolist() == pytest.approx(losses, rel=1e-11)
        assert losses[-1] < losses[0] or (outer_rate == 0 and len(widths) == 3)  # two frozen factors are all frozen


@pytest.mark.parametrize("widths", CHAINS.values(), ids=CHAINS.keys())
def test_the_first_gradient_is_that_of_autograd(widths: list[int]) -> None:
    start = linear_weights(widths, "norm", 1.0, seed=2)
    for problem, entries in problems("half_mean"):
        leaf = start[0].clone().requires_grad_()
        value = 0.5 * (entries * (chain_product([leaf, *start[1:]]) - TARGET).square()).sum()
        torch.testing.assert_close(first_gradient(problem, start), torch.autograd.grad(value, leaf)[0])


def test_observing_everything_is_factorization() -> None:
    start = linear_weights([N, 4, 4, M], "orth", 0.5, seed=1)
    everything = Completion(Observations.where(TARGET, torch.ones(M, N)))
    settings = {"learning_rate": 0.01, "num_steps": 40}
    one, other = recover(everything, start, **settings), recover(Factorization(TARGET), start, **settings)
    for weight, same in zip(one.weights, other.weights, strict=True):
        torch.testing.assert_close(weight, same, rtol=1e-12, atol=1e-14)


def test_reordering_rows_and_columns_reorders_the_result() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.randperm(M, generator=generator), torch.randperm(N, generator=generator)
    start = linear_weights([N, 4, 4, M], "orth", 0.5, seed=1)
    moved = [start[0][:, columns], start[1], start[2][rows]]
    settings = {"learning_rate": 0.01, "num_steps": 30}
    one = recover(Completion(Observations.where(TARGET, MASK)), start, **settings)
    other = recover(Completion(Observations.where(TARGET[rows][:, columns], MASK[rows][:, columns])), moved, **settings)
    moved_result = chain_product(one.weights)[rows][:, columns]
    torch.testing.assert_close(chain_product(other.weights), moved_result, rtol=1e-10, atol=1e-12)


def test_doubling_the_reduction_halves_the_learning_rate() -> None:
    start, seen = linear_weights([N, 4, 4, M], "orth", 0.5, seed=1), Observations.where(TARGET, MASK)
    by_sum = recover(Completion(seen), start, learning_rate=0.01, num_steps=30)
    by_mean = recover(Completion(seen, reduction="half_mean"), start, learning_rate=0.01 * M * N, num_steps=30)
    by_observed = Completion(seen, reduction="half_mean_observed")
    by_count = recover(by_observed, start, learning_rate=0.01 * len(seen), num_steps=30)
    for weights in zip(by_sum.weights, by_mean.weights, by_count.weights, strict=True):
        torch.testing.assert_close(weights[0], weights[1], rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(weights[0], weights[2], rtol=1e-11, atol=1e-13)


def test_the_compressed_network_follows_the_wide_one_up_to_the_frozen_directions() -> None:
    size, rank, scale, depth = 16, 2, 0.05, 3
    target = low_rank_target(size, size, rank, seed=3)
    problem, wide = Factorization(target), linear_weights([size] * (depth + 1), "orth", scale, seed=4)
    small = compress(wide, rank, gradient=first_gradient(problem, wide))
    ends: dict[str, list[Tensor]] = {"wide": [], "small": []}
    settings = {"learning_rate": 0.01, "num_steps": 2000, "every": 100}
    trained = {
        name: recover(
            problem,
            network,
            events={"on_check": lambda at, name=name: ends[name].append(chain_product(at.weights))},
            **settings,
            outer_rate=float(name == "wide"),
        )
        for name, network in (("wide", wide), ("small", small))
    }
    gaps = [float((one - other).norm()) for one, other in zip(ends["wide"], ends["small"], strict=True)]
    assert gaps[0] == pytest.approx(math.sqrt(size - 2 * rank) * scale**depth, rel=1e-9)
    assert max(gaps) <= gaps[0] * (1 + 1e-9)
    assert (
        relative_error(problem, trained["wide"].weights[-1] @ trained["wide"].weights[1], trained["wide"].weights[0].T)
        < 1e-3
    )
    assert torch.equal(trained["small"].weights[0], small.right.T)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 0.0), (torch.float32, 1e-5)])
def test_expanding_the_trained_network_gives_the_wide_one(dtype: torch.dtype, rounding: float) -> None:
    size, rank, scale = 14, 2, 0.02
    problem = Factorization(low_rank_target(size, size, rank, seed=3))
    wide = [weight.to(dtype) for weight in linear_weights([14] * 4, "orth", scale)]
    small = compress(wide, rank, gradient=first_gradient(problem, wide))
    settings = {"learning_rate": 0.01, "num_steps": 1500}
    right, *cores, left = recover(problem, small, outer_rate=0.0, **settings).weights
    trained = type(small)(right.T, tuple(cores), left)
    expected = recover(problem, wide, **settings).weights
    for weight, other in zip(expand(trained, wide), expected, strict=True):
        # ρ(t) stays within a part of ε^4·η·t of ε, which is the only difference
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-6 + rounding)
    assert float((expected[1] - wide[1]).abs().max()) > 0.1


def test_a_perfect_start_stays_and_counts_as_converged() -> None:
    left, values, right = torch.linalg.svd(TARGET)
    start = [values[:RANK, None].sqrt() * right[:RANK], left[:, :RANK] * values[:RANK].sqrt()]
    seen = Completion(Observations.where(TARGET, MASK))
    found = recover(seen, start, learning_rate=0.1, num_steps=10, tolerance=1e-20, test=Factorization(TARGET))
    assert (found.num_steps, found.converged) == (0, True)
    assert found.test_error < 1e-14


def test_the_record_has_every_check_and_the_end() -> None:
    start, seen = linear_weights([N, 4, 4, M], "orth", 0.5), Completion(Observations.where(TARGET, MASK))
    watched: list[int] = []
    found = recover(
        seen, start, learning_rate=0.01, num_steps=25, every=10, events={"on_check": lambda at: watched.append(at.step)}
    )
    assert found.steps.tolist() == watched == [0, 10, 20, 25]
    assert not found.converged
    assert found.test_errors.isnan().all()
    assert found.seconds > 0
    assert found.loss == pytest.approx(loss(seen, chain_product(found.weights[1:]), found.weights[0].T))


def test_the_start_is_not_changed_and_the_seed_decides() -> None:
    start = linear_weights([N, 4, 4, M], "orth", 0.5)
    before = [weight.clone() for weight in start]
    seen = Completion(Observations.where(TARGET, MASK))
    one, other = (recover(seen, start, learning_rate=0.01, num_steps=20) for _ in range(2))
    assert all(torch.equal(weight, same) for weight, same in zip(start, before, strict=True))
    assert all(torch.equal(weight, same) for weight, same in zip(one.weights, other.weights, strict=True))


class _Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for entry in result if isinstance(result, tuple | list) else [result]:
            if isinstance(entry, Tensor) and entry.layout == torch.strided:
                self.numel = max(self.numel, entry.numel())
        return result


@pytest.mark.parametrize("fraction", [0.03, 0.2])
def test_compressed_completion_never_forms_the_matrix(fraction: float) -> None:
    size, inner = 400, 4
    generator = torch.Generator().manual_seed(0)
    target = Factors(*torch.randn(2, size, 2, generator=generator, dtype=torch.float64))
    with _Largest() as largest:
        seen, hidden = observe(target, fraction, max_hidden=1000)
        problem = Completion(seen)
        small = compress_spectral(problem.surrogate(), inner, depth=3, scale=0.1)
        recover(problem, small, learning_rate=1e-4, num_steps=3, every=1, test=Completion(hidden))
    entries_of_the_draw = size * size  # the shuffled positions of a small matrix
    assert largest.numel <= entries_of_the_draw
    with _Largest() as largest:
        recover(problem, small, learning_rate=1e-4, num_steps=3)
    assert largest.numel <= max(len(seen), size * size // 4)


def test_bad_settings_are_refused_in_one_line() -> None:
    start, seen = linear_weights([N, 4, M], "orth", 0.5), Completion(Observations.where(TARGET, MASK))
    cases = [
        ({"learning_rate": 0.0}, "`learning_rate` must be a finite number > 0, got 0.0"),
        ({"learning_rate": math.inf}, "`learning_rate` must be a finite number > 0, got inf"),
        ({"outer_rate": -1.0}, "`outer_rate` must be a finite number ≥ 0, got -1.0"),
        ({"every": 0}, "need num_steps ≥ 0 and every ≥ 1"),
        ({"num_steps": -1}, "need num_steps ≥ 0"),
        ({"test": Factorization(TARGET.T)}, r"`test` must have the problem's shape \(13, 11\), got \(11, 13\)"),
        ({"learning_rate": 1e6}, r"the loss is (nan|inf) at step \d+; use a smaller learning_rate"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            recover(seen, start, **{"learning_rate": 0.01, "num_steps": 100, **change})
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="map 11 inputs to 13 outputs as the target's shape says, got 2 from 13 to 11"):
        recover(seen, linear_weights([M, 4, N], "orth", 0.5), learning_rate=0.01, num_steps=1)
    with pytest.raises(ValueError, match="at least two weights"):
        recover(seen, linear_weights([N, M], "orth", 0.5), learning_rate=0.01, num_steps=1)


def test_bad_targets_and_reductions_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"`target` must be a matrix with entries, got shape \(3,\)"):
        Factorization(torch.ones(3))
    broken = TARGET.clone()
    broken[4, 5] = math.nan
    with pytest.raises(ValueError, match="got nan at row 4, column 5; leave unknown entries out with Completion"):
        Factorization(broken)
    with pytest.raises(ValueError, match="`reduction` must be one of 'half_sum'"):
        scale_of("mean", 1, 1)
    nothing_hidden = observe(TARGET, 1.0)[1]
    assert len(nothing_hidden) == 0
    for reduction in ("half_sum", "half_mean_observed"):
        with pytest.raises(ValueError, match="`observations` must hold at least one entry, got none"):
            Completion(nothing_hidden, reduction=reduction)


def test_an_error_relative_to_zeros_is_undefined() -> None:
    start, zeros = linear_weights([N, 4, M], "orth", 0.5), Factorization(torch.zeros(M, N))
    found = recover(Factorization(TARGET), start, learning_rate=0.01, num_steps=2, test=zeros)
    assert found.test_errors.isnan().all()
    assert found.losses.isfinite().all()

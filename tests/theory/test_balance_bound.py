"""Theorem 6 and the condition of every map to the output, once more from their statements in numpy."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from neurocollapse.theory import LinearProblem, Tail, balanced_compression, verify
from neurocollapse.theory.assumptions import balance

Network = tuple[list[Tensor], list[Tensor], Tensor, Tensor]


def draw(seed: int, *, widens: bool = False) -> Network:
    """Weights, biases and classes of different size, the widths never growing or never falling."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    K, L = whole(2, 5), whole(2, 6)
    widths = sorted((whole(K + 1, 16) for _ in range(L)), reverse=not widens)
    weights = [torch.randn(b, a, generator=generator).double() for a, b in itertools.pairwise([*widths, K])]
    biases = [torch.randn(len(weight), generator=generator).double() for weight in weights]
    labels = torch.cat([torch.full((whole(2, 7),), k) for k in range(K)])
    return weights, biases, torch.randn(len(labels), widths[0], generator=generator).double(), labels


def naive_balance(network: Network) -> tuple[float, float]:
    """δ⁺ and the bound, with samples, pseudo-inverses and dense Gram matrices."""
    weights, biases, inputs, labels = ([one.numpy() for one in network[0]], network[1], network[2], network[3].numpy())
    features = inputs.numpy().T
    for weight, bias in zip(weights[:-2], biases, strict=False):
        features = weight @ features + bias.numpy()[:, None]
    last, K, N = weights[-1], len(weights[-1]), len(labels)
    output = last @ (weights[-2] @ features + biases[-2].numpy()[:, None])
    means = np.stack([output[:, labels == k].mean(1) for k in range(K)], 1)
    inner = np.stack([features[:, labels == k].mean(1) for k in range(K)], 1)
    excess = max(0.0, np.linalg.eigvalsh(weights[-2] @ weights[-2].T - last.T @ last)[-1])
    within = np.linalg.norm(np.linalg.pinv(last) @ (output - means[:, labels])) ** 2
    within += excess * np.linalg.norm(features - inner[:, labels]) ** 2
    return excess, K / N * within / np.linalg.norm(np.linalg.pinv(last) @ (means - means.mean(1, keepdims=True))) ** 2


def naive_conditions(weights: list[Tensor]) -> list[float]:
    """κ(B_l) from the dense products."""
    found, reader = [], np.eye(len(weights[-1]))
    for weight in reversed(weights):
        reader = reader @ weight.numpy()
        found.insert(0, np.linalg.cond(reader))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_bound_and_conditions_equal_an_independent_implementation(seed: int) -> None:
    network = draw(seed)
    weights, biases, inputs, labels = network
    problem = LinearProblem.of(weights, inputs, labels, biases=biases)
    excess, bound = naive_balance(network)
    assert balance(weights).last_excess == pytest.approx(excess, rel=1e-9)
    assert balanced_compression(Tail(problem), balance(weights).last_excess) == pytest.approx(bound, rel=1e-9)
    np.testing.assert_allclose(Tail(problem).conditions, naive_conditions(weights), rtol=1e-9)


@pytest.mark.parametrize("seed", range(20, 30))
def test_the_dataset_has_the_bound_and_the_conditions(seed: int) -> None:
    weights, biases, inputs, labels = draw(seed)
    table = verify(weights, inputs, labels).to_dataset()
    _, bound = naive_balance((weights, [0 * bias for bias in biases], inputs, labels))
    assert float(table["balance_upper"][-1]) == pytest.approx(bound, rel=1e-9)
    assert np.isnan(table["balance_upper"][:-1]).all()
    np.testing.assert_allclose(table["readout_condition"], naive_conditions(weights), rtol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_of_a_layer_that_widens_only_what_the_input_reaches_is_compared(seed: int) -> None:
    """Both weights in an orthonormal basis of the range of W_{L−1:1}: directions that no feature has do not count."""
    weights, _, inputs, labels = draw(seed, widens=True)
    basis, reduced = np.eye(weights[0].shape[1]), []
    for weight in weights[:-1]:
        reached = weight.numpy() @ basis
        basis = np.linalg.svd(reached, full_matrices=False)[0]
        reduced.append(torch.tensor(basis.T @ reached))
    reduced.append(torch.tensor(weights[-1].numpy() @ basis))
    excess, bound = naive_balance((reduced, [torch.zeros(len(one)) for one in reduced], inputs, labels))
    table = verify(weights, inputs, labels)
    assert table.assumptions["last_layer_excess"].value == pytest.approx(excess, rel=1e-9)
    assert float(table.to_dataset()["balance_upper"][-1]) == pytest.approx(bound, rel=1e-9)


@pytest.mark.parametrize("exponents", [(0, 0, 0), (-20, 20, 0), (150, -20, 3)])
def test_scales_change_neither_bound_nor_conditions(exponents: tuple[int, int, int]) -> None:
    """One scale for the input, one for the layers before the last two, and one for these: δ⁺ scales like a square."""
    weights, _, inputs, labels = draw(8)
    while len(weights) < 3:
        weights = [torch.eye(weights[0].shape[1]).double(), *weights]
    before, first, last = (2.0**exponent for exponent in exponents)
    scaled = [*(first * one for one in weights[:-2]), *(last * one for one in weights[-2:])]
    plain, other = (
        Tail(LinearProblem.of(one, data, labels)) for one, data in ((weights, inputs), (scaled, before * inputs))
    )
    bounds = [balanced_compression(tail, balance(tail.problem.weights).last_excess) for tail in (plain, other)]
    assert math.isfinite(bounds[0])
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-12)
    np.testing.assert_allclose(other.conditions, plain.conditions, rtol=1e-12)

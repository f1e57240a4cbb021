"""Deep linear networks and the data made for them."""

import itertools
import math

import pytest
import torch
from torch import nn

from neurocollapse.data.synthetic import (
    balanced_labels,
    low_rank_target,
    near_orthonormal,
    noisy_orthonormal,
    one_hot,
    whiten,
)
from neurocollapse.models.linear import DeepLinear, linear_weights


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6)])
def test_orthogonal_weights_have_one_singular_value(shape: tuple[int, int]) -> None:
    (weight,) = linear_weights(shape[::-1], "orth", 0.3, seed=4)
    torch.testing.assert_close(torch.linalg.svdvals(weight), torch.full((5 + (shape == (6, 6)),), 0.3).double())


@pytest.mark.parametrize("kind", ["norm", "unif"])
def test_random_weights_match_the_orthogonal_frobenius_norm(kind: str) -> None:
    (weight,) = linear_weights([400, 300], kind, 0.5, seed=0)
    assert float(weight.norm()) == pytest.approx(0.5 * math.sqrt(300), rel=0.01)  # 120,000 entries: 0.3 % expected
    if kind == "unif":
        assert float(weight.abs().max()) <= math.sqrt(3) * 0.5 * math.sqrt(1 / 400)


def test_balanced_weights_are_balanced_at_every_layer() -> None:
    weights = linear_weights([9, 12, 7, 4], "balanced", 0.3, seed=1)
    for before, after in itertools.pairwise(weights):
        torch.testing.assert_close(after.T @ after, before @ before.T, rtol=0, atol=1e-15)


def test_a_seed_gives_the_same_network_and_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = DeepLinear([5, 4, 3], seed=7), DeepLinear([5, 4, 3], seed=7)
    near_orthonormal(4, 6, theta=0.1)
    assert torch.equal(first.product(), second.product())
    assert not torch.equal(first.product(), DeepLinear([5, 4, 3], seed=8).product())
    assert torch.equal(state, torch.random.get_rng_state())


def test_products_are_the_maps_between_layers() -> None:
    network = DeepLinear([5, 8, 6, 3], seed=2, dtype=torch.float64)
    inputs = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(inputs @ network.product().T, network(inputs))
    for start in range(4):
        for stop in range(start, 4):
            naive = torch.eye(network.widths[start], dtype=torch.float64)
            for weight in network.weights[start:stop]:
                naive = weight @ naive
            torch.testing.assert_close(network.product(start, stop), naive)
    with pytest.raises(ValueError, match="start ≤ stop ≤ 3"):
        network.product(2, 1)


def test_conversion_from_and_to_a_sequential_keeps_every_bit() -> None:
    network = DeepLinear([5, 8, 3], init="norm", seed=2)
    back = DeepLinear.from_sequential(network.to_sequential())
    assert back.widths == (5, 8, 3)
    assert all(map(torch.equal, network.weights, back.weights))
    assert back.weights[0].data_ptr() != network.weights[0].data_ptr()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DeepLinear.from_sequential(nn.Sequential(nn.Linear(3, 3))), "layer '0' has a bias"),
        (lambda: DeepLinear.from_sequential(nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU())), "'1' is a ReLU"),
        (lambda: DeepLinear.from_weights([torch.eye(3), torch.zeros(2, 4)]), "takes 4 features but weight 1 gives 3"),
        (lambda: DeepLinear.from_weights([]), "at least one matrix"),
        (lambda: DeepLinear.from_weights([torch.zeros(3)]), "must be a matrix"),
        (lambda: DeepLinear([4]), "at least two positive numbers"),
        (lambda: DeepLinear([4, 2], init="ones"), "`init` must be one of"),
        (lambda: DeepLinear([4, 2], scale=0.0), "`scale` must be a positive number"),
    ],
)
def test_wrong_networks_are_refused_in_one_line(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("theta", [0.0, 1e-3, 0.5, 2.0])
def test_theta_is_exactly_as_prescribed(theta: float) -> None:
    X = near_orthonormal(24, 30, theta=theta, seed=5)
    measured = 24 * float((X @ X.T - torch.eye(24)).abs().max())
    assert measured == pytest.approx(theta, rel=1e-9, abs=1e-12)


def test_noise_has_the_prescribed_norm() -> None:
    clean, noisy = noisy_orthonormal(30, 50, noise=0.0, seed=1), noisy_orthonormal(30, 50, noise=1.0, seed=1)
    torch.testing.assert_close(clean @ clean.T, torch.eye(30).double())
    assert float((noisy - clean).norm()) == pytest.approx(1.0)


def test_whitened_data_is_white_and_the_map_is_the_one_reported() -> None:
    scale = torch.logspace(-3, 0, 6, dtype=torch.float64)
    given = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * scale
    white = whiten(given)
    torch.testing.assert_close(white.inputs.T @ white.inputs, torch.eye(6).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(given @ white.matrix, white.inputs, rtol=0, atol=1e-12)
    assert white.condition_number == pytest.approx(float(torch.linalg.cond(given)))


def test_targets_have_the_shape_and_rank_asked_for() -> None:
    target = low_rank_target(9, 7, 3, seed=1)
    values = torch.linalg.svdvals(target)
    assert values[2] > 0.1 > 1e-12 > values[3]
    assert torch.equal(one_hot(balanced_labels(3, 4)).sum(0), torch.full((3,), 4.0).double())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: near_orthonormal(9, 8), "num_samples ≤ num_features"),
        (lambda: near_orthonormal(9, 12, theta=100.0), "too large for 9 samples"),
        (lambda: near_orthonormal(3, 4, theta=-1.0), "a number of at least 0"),
        (lambda: whiten(torch.ones(3, 4)), "at least as many samples as features"),
        (lambda: whiten(torch.ones(5, 2)), "rank 1 of 2"),
        (lambda: low_rank_target(3, 4, 5), r"in \[0, 3\]"),
        (lambda: balanced_labels(0, 3), "at least one class"),
        (lambda: one_hot(torch.tensor([0, 4]), 3), r"integers in \[0, 3\)"),
    ],
)
def test_wrong_data_requests_are_one_clear_line(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()

"""The outer factors span what training moves, and nothing is lost by compressing and expanding."""

import pytest
import torch
from torch import Tensor

from neurocollapse.data.synthetic import low_rank_target
from neurocollapse.dynamics import principal_angles
from neurocollapse.lowrank import (
    Compressed,
    compress,
    compress_spectral,
    expand,
    gradient_subspace,
    spectral_factors,
)
from neurocollapse.lowrank.sparse import csr_matrix
from neurocollapse.models.linear import DeepLinear, chain_product, linear_weights

SIZE, RANK, SCALE = 14, 3, 0.1


def first_gradient(weights: list[Tensor], target: Tensor) -> Tensor:
    """Of ½‖W_{L:1} − Φ‖² with respect to W_1, by autograd."""
    leaf = weights[0].clone().requires_grad_()
    loss = 0.5 * (chain_product([leaf, *weights[1:]]) - target).square().sum()
    return torch.autograd.grad(loss, leaf)[0]


def null_space(matrix: Tensor) -> Tensor:
    """Columns that the matrix maps to zero."""
    _, values, right = torch.linalg.svd(matrix, full_matrices=True)
    return right[int((values > 1e-10 * values[0]).sum()) :].T


def as_csr(matrix: Tensor) -> Tensor:
    """All entries of a dense matrix, as a sparse one."""
    rows, columns = matrix.nonzero(as_tuple=True)
    return csr_matrix(rows, columns, matrix[rows, columns], (matrix.shape[0], matrix.shape[1]))


def square_case(depth: int = 3, outputs: int = SIZE) -> tuple[list[Tensor], Tensor]:
    """Weights at the start and a target of low rank."""
    target = low_rank_target(outputs, SIZE, min(RANK, outputs), seed=5)
    return linear_weights([SIZE] * depth + [outputs], "orth", SCALE, seed=4), target


def test_the_subspace_is_the_complement_of_the_intersected_null_spaces() -> None:
    weights, target = square_case()
    gradient = first_gradient(weights, target)
    basis = gradient_subspace(gradient, weights[0], RANK).right
    frozen = null_space(torch.cat([target, target.T @ chain_product(weights)]))
    assert basis.shape == (SIZE, 2 * RANK)
    assert frozen.shape == (SIZE, SIZE - 2 * RANK)
    assert float((basis.T @ basis - torch.eye(2 * RANK)).abs().max()) < 1e-13
    assert float((basis.T @ frozen).abs().max()) < 1e-9


def test_the_images_are_those_of_the_weight() -> None:
    weights, target = square_case()
    left, right = gradient_subspace(first_gradient(weights, target), weights[0], RANK)
    torch.testing.assert_close(left, weights[0] @ right / SCALE, rtol=0, atol=1e-13)


def test_the_subspace_turns_with_the_coordinates_and_ignores_the_gradients_scale() -> None:
    weights, target = square_case()
    gradient = first_gradient(weights, target)
    turn_in, turn_out = linear_weights([SIZE] * 3, "orth", 1.0, seed=9)
    before = gradient_subspace(gradient, weights[0], RANK).right
    turned = gradient_subspace(-1e-6 * turn_out @ gradient @ turn_in.T, turn_out @ weights[0] @ turn_in.T, RANK).right
    assert float(principal_angles(turn_in @ before, turned).max()) < 1e-9


def test_both_spans_coinciding_still_gives_a_full_basis() -> None:
    gradient = torch.diag(torch.tensor([2.0, 1.0, 0, 0, 0, 0], dtype=torch.float64))
    left, right = gradient_subspace(gradient, 0.1 * torch.eye(6, dtype=torch.float64), 2)
    torch.testing.assert_close(right.T @ right, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(left, right)
    assert float((right @ right.T)[:2, :2].diag().min()) == pytest.approx(1.0)


def test_a_weight_of_any_shape_has_a_subspace() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient, weight = torch.randn(2, 9, 7, generator=generator)
    left, right = gradient_subspace(gradient, weight, 2)
    assert (left.shape, right.shape, right.dtype) == ((9, 4), (7, 4), torch.float32)
    assert float((left.T @ left - torch.eye(4)).abs().max()) < 1e-5


@pytest.mark.parametrize("depth", [3, 5])
@pytest.mark.parametrize("outputs", [SIZE, RANK])
def test_cores_start_as_multiples_of_the_identity_and_reproduce_the_product(depth: int, outputs: int) -> None:
    weights, target = square_case(depth - 1, outputs)
    small = compress(weights, RANK, gradient=first_gradient(weights, target))
    for core in small.cores[:-1] if outputs < SIZE else small.cores:
        torch.testing.assert_close(core, SCALE * torch.eye(2 * RANK, dtype=torch.float64), rtol=0, atol=1e-13)
    within = chain_product(weights) @ small.right @ small.right.T
    torch.testing.assert_close(small.product(), within, rtol=0, atol=1e-13)


@pytest.mark.parametrize("outputs", [SIZE, RANK])
def test_expanding_what_was_not_trained_gives_the_network_back(outputs: int) -> None:
    weights, target = square_case(3, outputs)
    small = compress(DeepLinear.from_weights(weights), RANK, gradient=first_gradient(weights, target))
    for back, start in zip(expand(small, weights), weights, strict=True):
        torch.testing.assert_close(back, start, rtol=0, atol=1e-13)
    torch.testing.assert_close(chain_product(expand(small)), small.product(), rtol=0, atol=1e-13)
    assert len(expand(small)) == len(weights)


@pytest.mark.parametrize("outputs", [SIZE, RANK])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_of_low_precision_are_compressed_and_expanded(outputs: int, dtype: torch.dtype) -> None:
    weights, target = square_case(3, outputs)
    weights = [weight.to(dtype) for weight in weights]
    small = compress(weights, RANK, gradient=first_gradient(weights, target.to(dtype)))
    assert small.product().dtype == torch.float32
    within = chain_product([weight.double() for weight in weights]) @ (small.right @ small.right.T).double()
    torch.testing.assert_close(small.product().double(), within, rtol=0, atol=1e-6 * SCALE)
    # What `recover` gives back is in double precision; the frozen bases are still those of the network.
    trained = Compressed(small.right.double(), tuple(2 * core.double() for core in small.cores), small.left.double())
    for back, weight, double, single in zip(expand(trained, weights), weights, trained.cores, small.cores, strict=True):
        assert back.dtype == torch.float64
        change = torch.linalg.matrix_norm(back - weight.double())
        torch.testing.assert_close(change, torch.linalg.matrix_norm(double - single), rtol=1e-5, atol=0)


def test_the_subspace_of_a_half_precision_weight_has_its_dtype() -> None:
    weights, target = square_case()
    gradient = first_gradient(weights, target)
    left, right = gradient_subspace(gradient, weights[0].half(), RANK)
    assert left.dtype == right.dtype == torch.float16
    exact = gradient_subspace(gradient, weights[0], RANK).right
    # Entries of at most one, rounded to 11 bits, in sums of 14
    torch.testing.assert_close((right @ right.T).double(), exact @ exact.T, rtol=0, atol=5e-3)


def test_only_the_network_that_was_compressed_is_expanded() -> None:
    weights, target = square_case()
    small = compress(weights, RANK, gradient=first_gradient(weights, target))
    others = {
        "another start": linear_weights([SIZE] * 4, "orth", SCALE, seed=9),
        "another width": linear_weights([SIZE, 9, 9, SIZE], "orth", SCALE),
        "trained": [weights[0] + 0.1 * target, *weights[1:]],
        "other outputs": linear_weights([SIZE, SIZE, SIZE, 5], "orth", SCALE),
    }
    for name, other in others.items():
        reason = r"have shapes \(14, 6\) and \(5, 5\)" if name == "other outputs" else r"differ by [0-9.]+ of"
        with pytest.raises(ValueError, match=f"`model` must be the one that was compressed.*{reason}"):
            expand(small, other)
    with pytest.raises(ValueError, match="the outer factors frozen since"):
        expand(Compressed(small.right, small.cores, 1.1 * small.left), weights)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_surrogate_of_zeros_leads_nowhere(sparse: bool) -> None:
    zeros = torch.zeros(20, 20, dtype=torch.float64)
    with pytest.raises(ValueError, match="`surrogate` is zero everywhere"):
        spectral_factors(as_csr(torch.eye(20).double()).mul(0) if sparse else zeros, 3)


@pytest.mark.parametrize("sparse", [False, True])
def test_spectral_factors_are_the_leading_singular_vectors(sparse: bool) -> None:
    matrix = low_rank_target(40, 30, 6, seed=1) + 0.01 * low_rank_target(40, 30, 30, seed=2)
    left, values, right = torch.linalg.svd(matrix)
    found = spectral_factors(as_csr(matrix) if sparse else matrix, 6)
    assert found.left.dtype == torch.float64
    assert float((found.left * left[:, :6]).sum(0).abs().sub(1).abs().max()) < 1e-10
    assert float((found.right * right[:6].T).sum(0).abs().sub(1).abs().max()) < 1e-10
    torch.testing.assert_close((found.left.T @ matrix @ found.right).diag().abs(), values[:6])


def test_a_spectral_network_has_the_stated_size_and_start() -> None:
    target = low_rank_target(20, 20, 2, seed=0)
    small = compress_spectral(target, 4, depth=4, scale=0.5)
    assert small.num_parameters == 2 * 20 * 4 + 2 * 4 * 4
    assert [len(small.weights), len(small.cores)] == [4, 2]
    torch.testing.assert_close(torch.linalg.svdvals(small.product())[:4], torch.full((4,), 0.5**4, dtype=torch.float64))


@pytest.mark.parametrize("rank", [0, -1, 8])
def test_ranks_without_room_are_refused(rank: int) -> None:
    weights, target = square_case()
    with pytest.raises(ValueError, match=r"`rank` must give 1 to 14 directions of a 14 × 14 matrix"):
        compress(weights, rank, gradient=first_gradient(weights, target))
    with pytest.raises(ValueError, match=r"`rank` must give 1 to 14"):
        spectral_factors(target, 2 * rank if rank > 0 else rank)


def test_wrong_shapes_and_numbers_are_refused() -> None:
    weights, target = square_case()
    gradient = first_gradient(weights, target)
    with pytest.raises(ValueError, match=r"matrix of the weight's shape \(14, 14\), got \(14, 13\)"):
        compress(weights, RANK, gradient=gradient[:, :-1])
    gradient[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"`gradient` must hold finite numbers, got nan at position \(1, 2\)"):
        compress(weights, RANK, gradient=gradient)
    with pytest.raises(ValueError, match="`depth` must be an integer of at least 2"):
        compress_spectral(target, 2, depth=1, scale=0.1)
    with pytest.raises(ValueError, match="`model` must be the one that was compressed"):
        expand(compress(weights, RANK, gradient=first_gradient(weights, target)), weights[:2])

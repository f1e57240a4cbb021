"""The sketched decomposition: exact where values stand out, honest where they do not."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurocollapse.dynamics import WeightTracker, leading_svd
from neurocollapse.dynamics.leading import leading_values
from neurocollapse.dynamics.spectra import estimated_imbalance, imbalance


def spiked(rows: int, columns: int, spikes: int = 8, seed: int = 0) -> Tensor:
    """A Gaussian bulk with largest value about 1 and well separated values from 3 up."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    left, _ = torch.linalg.qr(torch.randn(rows, spikes, dtype=torch.float64, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(columns, spikes, dtype=torch.float64, generator=generator))
    return noise / (rows**0.5 + columns**0.5) + left * torch.linspace(10, 3, spikes, dtype=torch.float64) @ right.T


@pytest.mark.parametrize("shape", [(300, 300), (200, 500), (500, 200)])
def test_values_that_stand_out_are_exact(shape: tuple[int, int]) -> None:
    matrix = spiked(*shape)
    found = leading_svd(matrix, 8)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    # Eight powers of 1/3 of separation, squared for values: 1e-7 and less.
    torch.testing.assert_close(found.values, values[:8], rtol=1e-6, atol=0)
    aligned = (found.left * left[:, :8]).sum(0).abs(), (found.right * right[:8].T).sum(0).abs()
    torch.testing.assert_close(torch.stack(aligned), torch.ones(2, 8, dtype=torch.float64), rtol=0, atol=1e-6)


def test_an_exact_value_lies_within_the_error_of_each() -> None:
    matrix = torch.randn(300, 280, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = leading_svd(matrix, 20)
    exact = torch.linalg.svdvals(matrix)
    distance = (found.values[:, None] - exact).abs().min(dim=1).values
    assert bool((distance <= found.value_error).all())
    assert float(((exact[:20] - found.values) / exact[:20]).max()) > 1e-3  # in a flat bulk the error is real
    assert bool((found.values <= exact[:20] * (1 + 1e-12)).all())


def test_what_the_sketch_misses_is_computed() -> None:
    matrix = spiked(120, 90)
    found = leading_svd(matrix, 8)
    exact = torch.linalg.svdvals(matrix)
    tail = float(exact[18:].square().sum().sqrt())  # no range of 18 dimensions misses less
    assert tail <= float(found.range_error) <= 1.2 * tail
    low_rank = matrix[:, :4] @ matrix[:4, :4] @ matrix[:4]
    assert float(leading_svd(low_rank, 8).range_error) < 1e-12 * float(torch.linalg.matrix_norm(low_rank))


def test_a_zero_matrix_has_zero_values() -> None:
    found = leading_svd(torch.zeros(60, 50), 3)
    assert float(found.values.max()) == float(found.range_error) == 0


def test_rotations_do_not_change_the_values() -> None:
    matrix = spiked(150, 150)
    turn, _ = torch.linalg.qr(torch.randn(150, 150, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(leading_svd(turn @ matrix, 8).values, leading_svd(matrix, 8).values, rtol=1e-6, atol=0)


def test_the_seed_decides_and_the_global_state_stays() -> None:
    matrix, state = spiked(100, 100), torch.get_rng_state()
    first, second, other = (leading_svd(matrix, 20, seed=seed).values for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_leading_values_need_only_decay() -> None:
    matrix = spiked(200, 150, spikes=3)
    exact = torch.linalg.svdvals(matrix)[:3]
    torch.testing.assert_close(leading_values(matrix, 3), exact, rtol=1e-2, atol=0)  # one power iteration of 1/3
    with pytest.raises(ValueError, match=r"\[1, 5\] for a 15 × 20 matrix, got 6"):
        leading_values(torch.zeros(15, 20), 6)


def test_a_tracker_sketches_large_weights_and_says_so() -> None:
    weight = spiked(300, 300).float()
    tracker = WeightTracker(reference=0)
    for step in range(2):
        tracker.record(step, [weight + 0.1 * step * spiked(300, 300, seed=1).float()])
    dataset = tracker.to_dataset()
    assert dataset.sizes["component"] == 32
    exact = torch.linalg.svdvals(weight.double())
    np.testing.assert_allclose(dataset["singular_values"][0, 0, :8], exact[:8], rtol=1e-5)
    assert (dataset["range_error"] > 0).all()
    assert np.isnan(dataset["weight_effective_rank"]).all()
    expected = float(weight.double().square().sum()) / float(exact[0]) ** 2
    assert float(dataset["stable_rank"][0, 0]) == pytest.approx(expected, rel=1e-4)
    assert float(dataset["top_angle"].sel(step=1).min()) > 0.001
    assert np.isnan(dataset["bottom_angle"]).all()
    assert np.isnan(dataset["middle_angle"]).all()


def test_few_components_of_a_small_weight_are_exact() -> None:
    weight = spiked(25, 25)
    tracker = WeightTracker(components=4)
    tracker.record(1, [weight])
    dataset = tracker.to_dataset()
    np.testing.assert_allclose(dataset["singular_values"][0, 0], torch.linalg.svdvals(weight)[:4], rtol=1e-12)
    assert float(dataset["range_error"].max()) == 0
    assert not np.isnan(dataset["middle_angle"]).any()


def test_a_sketch_is_the_same_in_any_block() -> None:
    weights = [[spiked(60, 60) * (1 + step)] for step in range(4)]
    whole, parts = WeightTracker(components=5), WeightTracker(components=5)
    for step, weight in enumerate(weights):
        whole.record(step, weight)
        parts.record(step, weight)
        parts.flush()
    np.testing.assert_array_equal(whole.to_dataset()["singular_values"], parts.to_dataset()["singular_values"])


def test_the_imbalance_of_large_weights_is_estimated_without_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(40, 40, dtype=torch.float64, generator=generator) for _ in range(2))
    estimates = [
        float(estimated_imbalance(first, second, torch.randn(40, 32, dtype=torch.float64, generator=generator))) ** 2
        for _ in range(200)
    ]
    # √(2/32)/√200 = 1.8 % of standard deviation at most.
    assert np.mean(estimates) == pytest.approx(float(imbalance(first, second)) ** 2, rel=0.06)


def test_a_module_with_large_and_small_layers_is_one_dataset() -> None:
    model = nn.Sequential(nn.Linear(280, 280), nn.ReLU(), nn.Linear(280, 10))
    tracker = WeightTracker(model)
    for step in (1, 2):
        tracker.record(step, model)
    dataset = tracker.to_dataset()
    assert list((dataset["range_error"].sel(step=2) > 0).values) == [True, False]
    assert float(dataset["imbalance"].sel(step=2, layer="0")) > 0

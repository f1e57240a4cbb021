"""Initial weights: their formulas, their scale, and where their randomness comes from."""

import math

import pytest
import torch
from torch import Tensor, nn

from neurocollapse.models import HybridMLP, init_weights, initial_weight

SHAPES = [(6, 6), (4, 9), (9, 4), (1, 5)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_orth_has_all_singular_values_equal_to_the_scale(shape: tuple[int, int]) -> None:
    weight = initial_weight(*shape, "orth", 0.3, generator=generator())
    assert weight.shape == shape
    expected = torch.full((min(shape),), 0.3, dtype=torch.float64)
    assert torch.allclose(torch.linalg.svdvals(weight), expected, rtol=1e-12)  # float64 QR of at most 9 × 9


@pytest.mark.parametrize("kind", ["norm", "unif"])
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_and_unif_follow_their_formulas(kind: str, shape: tuple[int, int]) -> None:
    m, n = shape
    weight = initial_weight(m, n, kind, 0.3, generator=generator())
    source = generator()
    for row in weight if kind == "unif" else []:  # uniform numbers come one by one, so a loop draws the same ones
        for value in row:
            u = 0.3 * (2 * torch.rand((), dtype=torch.float64, generator=source) - 1)
            assert math.isclose(value, math.sqrt(3) * math.sqrt(min(m, n) / (m * n)) * u, rel_tol=1e-12)
    if kind == "norm":
        normal = torch.randn(m, n, dtype=torch.float64, generator=source)
        assert torch.allclose(weight, 0.3 * math.sqrt(min(m, n) / (m * n)) * normal, rtol=1e-12)


@pytest.mark.parametrize("kind", ["orth", "norm", "unif"])
@pytest.mark.parametrize("shape", [(300, 300), (200, 400)])
def test_all_kinds_have_the_same_frobenius_norm(kind: str, shape: tuple[int, int]) -> None:
    weight = initial_weight(*shape, kind, 0.5, generator=generator())
    expected = 0.5 * math.sqrt(min(shape))
    assert math.isclose(weight.norm().item(), expected, rel_tol=0.02)  # 80,000 draws: relative spread 1/√(2·80,000)


@pytest.mark.parametrize("kind", ["orth", "norm", "unif"])
def test_weights_are_proportional_to_the_scale(kind: str) -> None:
    small, large = (initial_weight(4, 6, kind, scale, generator=generator()) for scale in (0.1, 1.0))
    assert torch.allclose(10 * small, large, rtol=1e-12)


def test_orth_is_haar_and_not_merely_orthogonal() -> None:
    source = generator()
    draws = torch.stack([initial_weight(3, 3, "orth", 1.0, generator=source) for _ in range(2000)])
    # under Haar every entry has mean 0 and variance 1/3; QR without the sign correction has a biased diagonal
    assert draws.mean(0).abs().max() < 5 * math.sqrt(1 / 3 / 2000)
    assert (draws.var(0) - 1 / 3).abs().max() < 0.05


@pytest.mark.parametrize("options", [{"seed": 3}, {"generator": "own"}])
def test_a_seed_or_generator_leaves_the_global_random_state(options: dict) -> None:
    model = nn.Linear(5, 4)
    before = torch.get_rng_state()
    init_weights(model, "norm", 0.1, **({"generator": generator(3)} if "generator" in options else options))
    assert torch.equal(before, torch.get_rng_state())
    again = init_weights(nn.Linear(5, 4), "norm", 0.1, seed=3)
    assert torch.equal(model.weight, again.weight)


def test_without_a_seed_the_global_generator_decides() -> None:
    def drawn() -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            return init_weights(nn.Linear(5, 4), "unif").weight

    assert torch.equal(drawn(), drawn())


def test_every_linear_layer_is_drawn_and_biases_are_zero() -> None:
    model = HybridMLP(8, 6, 3, num_nonlinear=2, num_linear=1, bias=True)
    norms = [module.weight.clone() for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    assert init_weights(model, "orth", 0.2, seed=0) is model
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert torch.allclose(torch.linalg.svdvals(module.weight), torch.tensor(0.2))
            assert not module.bias.any()
    for before, module in zip(norms, (m for m in model.modules() if isinstance(m, nn.BatchNorm1d)), strict=True):
        assert torch.equal(before, module.weight)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Linear(2, 2), {"kind": "haar"}, "`kind` must be one of 'orth', 'norm', 'unif', got 'haar'"),
        (nn.Linear(2, 2), {"scale": 0.0}, "`scale` must be a positive number, got 0.0"),
        (nn.Linear(2, 2), {"scale": math.nan}, "`scale` must be a positive number, got nan"),
        (nn.ReLU(), {}, "must contain nn.Linear layers to initialise, ReLU has none"),
        (nn.Linear(2, 2), {"seed": 0, "generator": torch.Generator()}, "exclude each other"),
    ],
)
def test_wrong_arguments_change_nothing(model: nn.Module, options: dict, message: str) -> None:
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=message):
        init_weights(model, **options)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

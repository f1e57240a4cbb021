"""Gradient descent: the closed form and autograd take the same path, and the path is the theorem's."""

import pytest
import torch
from torch import Tensor, nn

from neurocollapse.data.synthetic import balanced_labels, low_rank_target, near_orthonormal, one_hot
from neurocollapse.models.linear import DeepLinear, linear_weights
from neurocollapse.train.descent import DescentProgress, Trajectory, cosine, descend
from neurocollapse.train.settings import TrainingError


def small_problem(num_samples: int = 12, num_features: int = 16) -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(num_samples, num_features, dtype=torch.float64, generator=generator) / 4
    targets = one_hot(balanced_labels(3, num_samples // 3))
    return linear_weights([num_features, 10, 14, 3], "orth", 0.6, seed=1), inputs, targets


def naive_step(weights: list[Tensor], inputs: Tensor, targets: Tensor, rate: float, decay: float) -> list[Tensor]:
    """One update with every product formed from scratch."""
    X, Y = inputs.T, targets.T
    end_to_end = torch.linalg.multi_dot(weights[::-1])
    updated = []
    for layer, weight in enumerate(weights):
        after, before = torch.eye(Y.shape[0], dtype=Y.dtype), torch.eye(X.shape[0], dtype=X.dtype)
        for later in reversed(weights[layer + 1 :]):
            after = after @ later
        for earlier in weights[:layer]:
            before = earlier @ before
        gradient = after.T @ (end_to_end @ X - Y) @ X.T @ before.T
        updated.append((1 - rate * decay) * weight - rate * gradient)
    return updated


@pytest.mark.parametrize("num_samples", [12, 30], ids=["N<d", "N>d"])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_every_update_is_the_naive_one(num_samples: int, decay: float) -> None:
    weights, inputs, targets = small_problem(num_samples)
    path = Trajectory()
    descend(weights, inputs, targets, learning_rate=0.05, weight_decay=decay, num_steps=20, events={"on_step": path})
    for step in range(20):
        for got, expected in zip(path[step + 1], naive_step(path[step], inputs, targets, 0.05, decay), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)  # roundings of sums of order 10


@pytest.mark.parametrize("num_samples", [12, 30], ids=["N<d", "N>d"])
@pytest.mark.parametrize(("reduction", "scale", "rate"), [("half_sum", 1.0, 0.05), ("sum_over_samples", 3.0, 0.1)])
def test_closed_form_and_autograd_take_the_same_path(
    num_samples: int, reduction: str, scale: float, rate: float
) -> None:
    weights, inputs, targets = small_problem(num_samples)
    module = DeepLinear.from_weights(weights)
    settings = {
        "learning_rate": cosine(rate, rate / 10, 300),
        "weight_decay": 1e-3,
        "reduction": reduction,
        "output_scale": scale,
        "num_steps": 300,
    }
    closed = descend(weights, inputs, targets, **settings)
    graph = descend(module, inputs, targets, **settings)
    for ours, theirs in zip(closed.weights, module.weights, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(closed.losses, graph.losses, rtol=1e-10, atol=1e-14)
    assert closed.loss < 0.9 * float(closed.losses[0])


def test_the_half_mean_is_the_half_sum_with_another_step_size() -> None:
    weights, inputs, targets = small_problem()
    mean = descend(weights, inputs, targets, learning_rate=7.2, num_steps=50, reduction="half_mean")
    total = descend(weights, inputs, targets, learning_rate=0.2, num_steps=50)
    torch.testing.assert_close(mean.weights[1], total.weights[1], rtol=0, atol=1e-12)
    assert mean.loss == pytest.approx(total.loss / 36, rel=1e-11)


def test_any_module_trains_in_place() -> None:
    _, inputs, targets = small_problem()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(16, 20), nn.Tanh(), nn.Linear(20, 3))
    before = module[0].bias.detach().clone()
    result = descend(module, inputs, targets, learning_rate=0.05, num_steps=100)
    assert result.loss < 0.2 * float(result.losses[0])
    assert not torch.equal(before, module[0].bias)


def test_a_resumed_run_ends_bit_for_bit_like_an_unbroken_one(tmp_path) -> None:
    weights, inputs, targets = small_problem()
    settings = {"learning_rate": cosine(0.2, 0.01, 40), "weight_decay": 1e-3}
    unbroken = descend(weights, inputs, targets, num_steps=40, **settings)
    file = tmp_path / "run.safetensors"

    def interrupt(progress: DescentProgress) -> None:
        if progress.step == 25:
            raise KeyboardInterrupt

    events: dict = {"on_step": interrupt}
    with pytest.raises(KeyboardInterrupt):
        descend(weights, inputs, targets, num_steps=40, resume=file, save_every=10, events=events, **settings)
    seen: list[int] = []
    events = {"on_step": lambda progress: seen.append(progress.step)}
    resumed = descend(weights, inputs, targets, num_steps=40, resume=file, events=events, **settings)
    assert seen[0] == 20
    assert torch.equal(resumed.losses, unbroken.losses)
    assert all(map(torch.equal, resumed.weights, unbroken.weights))


def test_a_foreign_checkpoint_is_refused(tmp_path) -> None:
    weights, inputs, targets = small_problem()
    file = tmp_path / "run.safetensors"
    descend(weights, inputs, targets, learning_rate=0.1, num_steps=3, resume=file)
    with pytest.raises(TrainingError, match="another network"):
        descend(weights[:2], inputs, torch.zeros(12, 14), learning_rate=0.1, num_steps=3, resume=file)
    file.write_bytes(b"not safetensors")
    with pytest.raises(TrainingError, match="not a readable safetensors file"):
        descend(weights, inputs, targets, learning_rate=0.1, num_steps=3, resume=file)


def test_it_stops_at_the_tolerance_and_tells_the_events() -> None:
    weights, inputs, targets = small_problem()
    told: list[str] = []
    events = {name: lambda progress, name=name: told.append(name) for name in ("on_start", "on_step", "on_end")}
    result = descend(weights, inputs, targets, learning_rate=0.2, num_steps=900, tolerance=0.5, events=events)
    assert result.converged
    assert result.loss <= 0.5 < float(result.losses[-2])
    assert told == ["on_start", *["on_step"] * (result.step + 1), "on_end"]


def test_the_given_weights_stay_as_they_are() -> None:
    weights, inputs, targets = small_problem()
    copies = [weight.clone() for weight in weights]
    descend(weights, inputs, targets, learning_rate=0.2, num_steps=5)
    assert all(map(torch.equal, weights, copies))


def test_the_loss_of_many_samples_counts_what_no_linear_map_reaches() -> None:
    weights, inputs, targets = small_problem(30)
    result = descend(weights, inputs, targets, learning_rate=0.1, num_steps=0)
    direct = 0.5 * (inputs @ torch.linalg.multi_dot(weights[::-1]).T - targets).square().sum()
    assert result.loss == pytest.approx(float(direct), rel=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 50.0, "num_steps": 60}, "use a smaller learning rate"),
        ({"learning_rate": -1.0}, "`learning_rate` must be a positive number"),
        ({"reduction": "half_men"}, "did you mean 'half_mean'"),
        ({"events": {"step": print}}, "`events` must be one of"),
        ({"output_scale": 0.0}, "`output_scale` must be a positive number"),
        ({"targets": torch.zeros(12, 4)}, "must give 4 outputs"),
        ({"inputs": torch.zeros(12, 9)}, "weight 1 must take 9 features"),
    ],
)
def test_wrong_use_is_one_clear_line(change: dict, message: str) -> None:
    weights, inputs, targets = small_problem()
    arguments = {"inputs": inputs, "targets": targets, "learning_rate": 0.1, "num_steps": 1, **change}
    with pytest.raises(ValueError, match=message):
        descend(weights, **arguments)


def test_whitened_full_rank_targets_are_reached() -> None:
    inputs = near_orthonormal(8, 8, seed=2)
    targets = low_rank_target(8, 8, 2, seed=1)
    result = descend(linear_weights([8, 8, 8], "orth", 0.5), inputs, targets, learning_rate=0.05, num_steps=2000)
    assert result.loss < 1e-2

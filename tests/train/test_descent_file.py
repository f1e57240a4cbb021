"""Gradient descent on disk: the file is the beginning of this run, or it is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurocollapse.train import Descent, DescentProgress, TrainingError, cosine, descend

TARGETS = torch.eye(4, dtype=torch.float64)


def weights() -> list[Tensor]:
    source = torch.Generator().manual_seed(0)
    return [torch.randn(4, 4, generator=source, dtype=torch.float64) / 4 for _ in range(2)]


def inputs(seed: int = 1) -> Tensor:
    return TARGETS + torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 9


def module(dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)).to(dtype)


def run(network: Any = None, **options: Any) -> Descent:
    defaults = {"inputs": inputs(), "targets": TARGETS, "learning_rate": 0.125, "num_steps": 20}
    return descend(weights() if network is None else network, **{**defaults, **options})


def stop_at(step: int) -> dict[str, Callable[[DescentProgress], None]]:
    def stop(progress: DescentProgress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    return {"on_step": stop}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 10}, "20 updates, more than num_steps=10"),
        ({"tolerance": 1.0}, "updates beyond tolerance=1"),
        ({"learning_rate": 0.5}, "learning rate 0.125 at step 0, not 0.5"),
        ({"learning_rate": cosine(0.125, 0.1, 20)}, r"learning rate 0.125 at step 1, not 0.124\d+"),
        ({"weight_decay": 0.25}, "weight_decay=0.0, not 0.25"),
        ({"reduction": "half_mean"}, "reduction='half_sum', not 'half_mean'"),
        ({"output_scale": 2.0}, "output_scale=1.0, not 2.0"),
        ({"inputs": inputs(seed=2)}, "other inputs"),
        ({"targets": 2 * TARGETS}, "other targets"),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    run(resume=tmp_path / "run")
    with pytest.raises(TrainingError, match=f"`resume` file .* was written with {message}; use the same") as caught:
        run(resume=tmp_path / "run", **{"num_steps": 30, **options})
    assert "\n" not in str(caught.value)


def test_weights_in_another_precision_are_not_resumed(tmp_path: Path) -> None:
    run(module(), resume=tmp_path / "run")
    narrow = module(torch.float32)
    with pytest.raises(TrainingError, match=r"was written with weights in torch.float64, not torch.float32"):
        run(narrow, resume=tmp_path / "run", num_steps=30)
    assert all(map(torch.equal, narrow.parameters(), module(torch.float32).parameters()))


def test_a_finished_run_goes_on_to_more_steps_and_a_lower_tolerance(tmp_path: Path) -> None:
    options = {"learning_rate": cosine(0.125, 0.0625, 30), "weight_decay": 0.01}
    first = run(resume=tmp_path / "run", num_steps=90, tolerance=1.0, **options)
    assert first.converged
    assert 0 < first.step < 20
    assert torch.equal(run(resume=tmp_path / "run", num_steps=90, tolerance=1.0, **options).losses, first.losses)
    longer, unbroken = run(resume=tmp_path / "run", **options), run(**options)
    assert torch.equal(longer.losses, unbroken.losses)
    assert all(map(torch.equal, longer.weights, unbroken.weights))


def test_a_run_stopped_before_its_file_starts_anew_on_the_same_module(tmp_path: Path) -> None:
    stopped, unbroken = module(), module()
    with pytest.raises(KeyboardInterrupt):
        run(stopped, resume=tmp_path / "run", events=stop_at(7))
    assert all(map(torch.equal, stopped.parameters(), module().parameters()))
    assert torch.equal(run(stopped, resume=tmp_path / "run").losses, run(unbroken).losses)
    assert all(map(torch.equal, stopped.parameters(), unbroken.parameters()))


@pytest.mark.parametrize("decay", [-1.0, float("nan"), float("inf")])
def test_weight_decay_must_be_a_number_of_at_least_zero(decay: float) -> None:
    with pytest.raises(ValueError, match="`weight_decay` must be a number of at least 0, got"):
        run(weight_decay=decay)


def test_a_learning_rate_that_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`learning_rate` must be a number, got '0\.1'"):
        run(learning_rate="0.1")


def test_numbers_of_numpy_are_taken_for_what_they_are(tmp_path: Path) -> None:
    numbers = {"learning_rate": np.float32(0.125), "weight_decay": np.float32(0.25), "output_scale": np.float32(2)}
    plain = {name: float(value) for name, value in numbers.items()}
    assert torch.equal(run(resume=tmp_path / "run", **numbers).losses, run(**plain).losses)


@pytest.mark.parametrize(
    ("network", "came"),
    [
        (nn.LSTM(4, 4), "a tuple"),
        (nn.Sequential(nn.Linear(4, 3)), r"shape \(4, 3\)"),
        (nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2))), r"shape \(4, 2, 2\)"),
    ],
)
def test_outputs_that_do_not_fit_the_targets_are_refused(network: nn.Module, came: str) -> None:
    with pytest.raises(TrainingError, match=rf"`model` must return outputs of .* shape \(4, 4\), got {came}"):
        run(network.double())

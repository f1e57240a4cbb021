"""After a block that uses a model or torch's global state, everything is as it was before."""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import pytest
import torch
from torch import nn

from neurocollapse.support.quiet import Mode, in_mode, kept_random_state, one_thread, seed_random_state


def network() -> nn.Sequential:
    """A network whose normalisation is frozen while the rest trains."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    model[1][1].eval()
    return model


def modes(model: nn.Module) -> list[bool]:
    """Whether each module trains."""
    return [module.training for module in model.modules()]


@pytest.mark.parametrize(
    ("mode", "inside"),
    [("eval", [False] * 5), ("train", [True] * 5), ("unchanged", [True, True, True, True, False])],
)
def test_every_module_is_in_the_mode_and_later_in_its_own(mode: Mode, inside: list[bool]) -> None:
    model = network()
    before = modes(model)
    with in_mode(model, mode):
        assert modes(model) == inside
    assert modes(model) == before == [True, True, True, True, False]


@pytest.mark.parametrize("mode", ["eval", "train", "unchanged"])
def test_modes_that_the_block_changes_come_back_also_if_it_fails(mode: Mode) -> None:
    model = network()
    before = modes(model)
    with suppress(KeyboardInterrupt), in_mode(model, mode):
        model[0].eval()
        model[1].train()
        raise KeyboardInterrupt
    assert modes(model) == before


def test_blocks_in_blocks_come_back_one_by_one() -> None:
    model = network()
    with in_mode(model, "train"):
        with in_mode(model[1]):
            assert modes(model) == [True, True, False, False, False]
        assert modes(model) == [True] * 5


class Merging(nn.Linear):
    """A layer that changes its weights when it is told to evaluate."""

    def train(self, mode: bool = True) -> "Merging":
        """Merge an adapter."""
        if not mode:
            self.weight.data.add_(1)
        return super().train(mode)


class PartlyFrozen(nn.Sequential):
    """A network that keeps its last module in eval mode."""

    def train(self, mode: bool = True) -> "PartlyFrozen":
        """Let all but the last module train."""
        super().train(mode)
        self[-1].eval()
        return self


def test_looking_at_a_layer_does_not_merge_its_adapter() -> None:
    layer = Merging(2, 2)
    weight = layer.weight.clone()
    with in_mode(layer):
        assert not layer.training
    assert torch.equal(layer.weight, weight)


def test_a_model_may_let_parts_of_it_stay_in_eval_mode() -> None:
    model = PartlyFrozen(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with in_mode(model, "train"):
        assert modes(model) == [True, True, False]


@pytest.mark.parametrize("draw", [lambda: torch.rand(3), lambda: torch.randperm(9), lambda: torch.manual_seed(5)])
def test_the_random_state_comes_back(draw: Callable[[], object]) -> None:
    before = torch.get_rng_state()
    with suppress(ValueError), kept_random_state(torch.device("cpu")):
        draw()
        raise ValueError("stop")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_gives_the_same_numbers_and_none_to_the_caller() -> None:
    drawn = []
    before = torch.get_rng_state()
    for _ in range(2):
        with kept_random_state():
            seed_random_state(7, torch.device("cpu"))
            drawn.append(torch.rand(4).tolist())
    assert drawn[0] == drawn[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_come_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        context: AbstractContextManager[None] = one_thread()
        with suppress(ValueError), context:
            assert torch.get_num_threads() == 1
            raise ValueError("stop")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

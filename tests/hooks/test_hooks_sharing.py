"""What several captures share: the switches of the process, and models that two threads want at once."""

import copy
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch._dynamo
from torch import nn

import neurocollapse as nc
from neurocollapse.hooks import CaptureError, capture, inspect_layers, owner


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Dropout(), nn.ReLU(), nn.Linear(5, 4))


def switches():
    return torch.backends.mha.get_fastpath_enabled(), torch._dynamo.eval_frame._stance.stance


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_overlapping_captures_leave_the_switches_in_any_order_of_closing(order):
    attention = [nn.Sequential(nn.MultiheadAttention(8, 2)) for _ in range(3)]
    before = switches()
    managers = [capture(model, "leaves") for model in attention]
    for manager in managers:
        manager.__enter__()
    for index in order:
        assert switches() == (False, "force_eager")
        managers[index].__exit__(None, None, None)
    assert switches() == before == (True, "default")


def test_the_switches_are_put_back_to_what_they_were_not_to_their_defaults():
    torch.backends.mha.set_fastpath_enabled(False)
    torch.compiler.set_stance("eager_on_recompile")
    try:
        for _ in range(2):
            with capture(nn.Sequential(nn.MultiheadAttention(8, 2)), "leaves"), capture(perceptron(), "leaves"):
                assert switches() == (False, "force_eager")
            assert switches() == (False, "eager_on_recompile")
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
        torch.compiler.set_stance("default")


def test_captures_in_many_threads_leave_the_switches():
    before = switches()

    def work(index):
        model = nn.Sequential(nn.MultiheadAttention(8, 2))
        for _ in range(20):
            with capture(model, "leaves"):
                assert switches() == (False, "force_eager")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert switches() == before


def in_another_thread(action):
    """What an action returns, or raises, in a thread of its own."""
    with ThreadPoolExecutor(1, thread_name_prefix="other") as pool:
        return pool.submit(action).result()


def enter(model):
    with capture(model, "**"):
        pass


def share_a_part(model):
    enter(nn.Sequential(model[0], nn.ReLU()))


def analyze(model):
    nc.analyze(model, [(randn(12, 6), torch.arange(12) % 3)], progress=False)


def inspect(model):
    inspect_layers(model, randn(2, 6))


@pytest.mark.parametrize("action", [enter, share_a_part, analyze, inspect])
def test_a_model_in_use_is_refused_to_another_thread_in_one_line(action):
    model = perceptron()
    modes = [module.training for module in model.modules()]
    with capture(model, "leaves") as features:
        with pytest.raises(CaptureError, match="Sequential is in use: thread 'MainThread' captures") as caught:
            in_another_thread(lambda: action(model))
        model(randn(3, 6))
        assert len(features) == 4
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert [module.training for module in model.modules()] == modes
    in_another_thread(lambda: action(model))  # free again
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("action", [enter, share_a_part, analyze, inspect])
def test_the_same_thread_may_use_a_model_again(action):
    model, x = perceptron().eval(), randn(3, 6)
    with capture(model, "0") as features:
        action(model)
        model(x)
    assert torch.equal(features["0"], model[0](x).detach())


def test_a_copy_is_free_and_so_is_a_model_left_by_a_thread_that_is_no_more():
    model = perceptron()
    left = capture(model, "0")
    in_another_thread(lambda: len(left.__enter__()))
    with capture(model, "0"):
        in_another_thread(lambda: enter(copy.deepcopy(model)))
    left.__exit__(None, None, None)


def test_calls_in_another_thread_are_not_captured():
    model, x = perceptron().eval(), randn(3, 6)
    with capture(model, "0") as features:
        in_another_thread(lambda: model(x + 1))
        assert len(features) == 0
        model(x)
        expected = features["0"].clone()
        in_another_thread(lambda: model(x + 1))
        assert torch.equal(features["0"], expected)


class Waits(nn.Linear):
    """Lets another thread run the model in the middle of its forward pass."""

    meanwhile = None

    def forward(self, x):
        action, self.meanwhile = self.meanwhile, None
        if action is not None:
            action()
        return super().forward(x)


def test_a_forward_pass_of_another_thread_in_the_middle_of_one_changes_no_number():
    model = nn.Sequential(nn.Linear(6, 5), Waits(5, 4), nn.Linear(4, 3))
    batches = [(randn(12, 6, seed=seed), torch.arange(12) % 3) for seed in range(3)]
    expected = nc.collect(model, batches, progress=False)
    model[1].meanwhile = lambda: in_another_thread(lambda: model(randn(7, 6)))
    found = nc.collect(model, batches, progress=False)
    assert list(found) == list(expected)
    for name in expected:
        assert torch.equal(found[name].mean, expected[name].mean)


def run_in_threads(num_runs):
    """Outcomes of analysing one model in four threads, and whether each number is right."""
    model = perceptron()
    data = [[(randn(20, 6, seed=10 * index + batch), torch.arange(20) % 4) for batch in range(5)] for index in range(4)]

    def run(index):
        return float(nc.analyze(model, data[index % 4], layers=["0"], progress=False).compression[0])

    expected = [run(index) for index in range(4)]

    def outcome(index):
        try:
            value = run(index)
        except CaptureError as error:
            return "refused" if "is in use" in str(error) else f"{error}"
        return "right" if value == expected[index % 4] else f"wrong: {value}"

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(outcome, range(num_runs)))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return outcomes


def test_one_model_in_four_threads_gives_right_numbers_or_one_refusal():
    outcomes = run_in_threads(12)
    assert set(outcomes) <= {"right", "refused"}
    assert "right" in outcomes


@pytest.mark.slow
def test_one_model_in_four_threads_two_hundred_times():
    outcomes = [outcome for _ in range(20) for outcome in run_in_threads(200)]
    assert set(outcomes) == {"right", "refused"}


def test_a_model_that_is_gone_is_not_kept_alive_by_its_owner():
    with capture(model := perceptron(), "0"):
        assert model in owner._OWNERS
    assert model not in owner._OWNERS

"""An interrupt at any executed line leaves no hook, no mode, no switch, no filter and no handler behind."""

import gc
import signal
import sys
import warnings

import pytest
import torch
import torch._dynamo
from torch import nn

import neurocollapse as nc
from neurocollapse.hooks import inspect_layers
from neurocollapse.hooks.owner import _OWNERS
from tests.attacks.injector import HOOKS, PASSES, Injector, executed_lines

FOLDERS = (HOOKS, PASSES)
NUM_SAMPLES = 12
SAMPLE = 40
"""Interrupts of each scenario in the default tier."""
MANY = 2_800
"""Interrupts of each scenario in the slow tier: more than 10,000 of all."""
HOOK_DICTS = [name for name in vars(nn.Module()) if name.startswith("_forward_")]


def perceptron():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 4))
    model[1].eval()
    return model


def attention():
    torch.manual_seed(0)
    return nn.Sequential(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), nn.Linear(6, 4)).eval()


def batches(*shape):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(NUM_SAMPLES, *shape, generator=generator), torch.arange(NUM_SAMPLES) % 3) for _ in range(3)]


def analyze(model):
    nc.analyze(model, batches(6), layers=["leaves", "penultimate"], quantities=["nc1", "compression"], progress=False)


def resumed(model, path):
    nc.collect(model, batches(6), layers="leaves", progress=False, resume=path)


def captured(model):
    with nc.capture(model, ["leaves", "penultimate"]) as features:
        for inputs, _ in batches(7, 6):
            model(inputs)
    assert len(features)


def halted(model):
    nc.analyze(model, batches(7, 6), layers="0", quantities=["compression"], progress=False, halt=True)
    with nc.capture(model, "0", stop=True) as features:
        for inputs, _ in batches(7, 6):
            model(inputs)
    assert len(features)


def inspected(model):
    inspect_layers(model, torch.zeros(2, 7, 6))


class Settings:
    """What must be as before: of a model, and of the process."""

    def __init__(self, model):
        self.hooks = [[len(getattr(module, name)) for name in HOOK_DICTS] for module in model.modules()]
        self.modes = [module.training for module in model.modules()]
        self.switches = (
            torch.backends.mha.get_fastpath_enabled(),
            torch._dynamo.eval_frame._stance,
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch._C._len_torch_function_stack(),
            signal.getsignal(signal.SIGINT),
            list(warnings.filters),
            torch.get_rng_state().tolist(),
        )
        self.forwards = [module.__dict__.get("forward") for module in model.modules()]
        self.owned = [module for module in model.modules() if module in _OWNERS]

    def changed(self, model):
        now = vars(Settings(model))
        return [name for name, value in vars(self).items() if now[name] != value]


def attack(build, action, places):
    """What was left behind by an interrupt at each of some places; every one must get through."""
    left = []
    for at in places:
        model = build()
        before = Settings(model)
        injector = Injector(FOLDERS, at)
        error = injector.run(lambda: action(model))  # noqa: B023 - called at once
        if injector.place:
            assert isinstance(error, KeyboardInterrupt), f"swallowed at {injector.place}: {error!r}"
        del error
        if changed := before.changed(model):
            gc.collect()
            left.append((injector.place, changed))
    return left


@pytest.fixture(params=["analyze", "resume", "capture", "halt", "inspect"])
def scenario(request, tmp_path):
    """How to build a model, and what to do with it."""
    names = iter(range(10**6))
    return {
        "analyze": (perceptron, analyze),
        "resume": (perceptron, lambda model: resumed(model, tmp_path / f"{next(names)}.st")),
        "capture": (attention, captured),
        "halt": (attention, halted),
        "inspect": (attention, inspected),
    }[request.param]


@pytest.fixture(autouse=True)
def no_other_tracer():
    if sys.gettrace() is not None:
        pytest.skip("a debugger or coverage traces this thread, which the injector would replace")


def spread(numbers, most):
    """Some of many numbers, the first and the last among them."""
    chosen = torch.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().long().unique()
    return [numbers[index] for index in chosen]


def test_an_interrupt_at_a_sample_of_lines_leaves_nothing(scenario):
    build, action = scenario
    action(build())  # what is imported and cached once
    lines = executed_lines(lambda: action(build()), FOLDERS)
    assert len(lines.places) > SAMPLE
    assert attack(build, action, spread([numbers[-1] for numbers in lines.places.values()], SAMPLE)) == []


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_an_interrupt_at_thousands_of_lines_leaves_nothing(scenario):
    build, action = scenario
    action(build())
    lines = executed_lines(lambda: action(build()), FOLDERS)
    ends = {number for numbers in lines.places.values() for number in (numbers[0], numbers[-1])}
    places = sorted(ends | set(spread(range(1, lines.count + 1), max(MANY - len(ends), 2))))
    assert attack(build, action, places) == []

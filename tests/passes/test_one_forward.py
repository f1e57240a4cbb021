"""One batch is one forward pass, whatever a model's `__call__` does."""

import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.hooks import CaptureError, NeverFiredError


def batches(num=2):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(12, 6, generator=generator), torch.arange(12) % 4) for _ in range(num)]


class Leaf(nn.Linear):
    """Two views of every sample."""

    def __call__(self, x):
        return super().__call__(x) + super().__call__(-x)


class Stack(nn.Sequential):
    """Several views, one after the other."""

    def __call__(self, x):
        return torch.stack([super(Stack, self).__call__(x * scale) for scale in (1, 2, 3)]).mean(0)


class Mixed(nn.Sequential):
    """A second view only where the first is unsure, as it always is."""

    def __call__(self, x):
        first = super().__call__(x)
        return first if bool((first.abs() > 1e9).all()) else first + super().__call__(x.flip(1))


class InParts(nn.Sequential):
    """Runs a third of the samples at a time, to save memory."""

    def __call__(self, x):
        return torch.cat([super(InParts, self).__call__(part) for part in x.chunk(3)])


class Bypass(nn.Sequential):
    """Calls its own forward, and no hook."""

    def __call__(self, x):
        return self.forward(x)


class BypassLeaf(nn.Linear):
    """A single layer that calls its own forward."""

    def __call__(self, x):
        return self.forward(x)


@pytest.mark.parametrize(
    "model",
    [Leaf(6, 5), Stack(nn.Linear(6, 5), nn.ReLU()), Mixed(nn.Linear(6, 5), nn.Linear(5, 4))],
    ids=["leaf", "stack", "mixed"],
)
@pytest.mark.parametrize("run", [nc.collect, nc.analyze])
def test_a_call_that_runs_forward_more_than_once_is_refused(model, run):
    with pytest.raises(CaptureError, match=rf"{type(model).__name__}.__call__ runs its forward pass more than once"):
        run(model, batches(), progress=False)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("layers", ["leaves", "0", "(root)", "penultimate"])
def test_a_call_that_runs_a_part_of_the_samples_at_a_time_is_refused(layers):
    model = InParts(nn.Linear(6, 5), nn.Linear(5, 4))
    with pytest.raises(CaptureError, match=r"counts the 12 samples|with 12 entries \(the samples\)"):
        nc.collect(model, batches(), layers=layers, progress=False)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_call_that_passes_by_the_hooks_of_the_model_is_one_forward_pass():
    torch.manual_seed(0)
    parts = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)
    found = nc.collect(Bypass(*parts), batches(3), progress=False)
    expected = nc.collect(nn.Sequential(*parts), batches(3), progress=False)
    assert list(found) == list(expected) == ["0", "1", "2"]
    for name in expected:
        assert int(found[name].count.sum()) == 36
        assert torch.equal(found[name].mean, expected[name].mean)


@pytest.mark.parametrize("layers", ["leaves", "(root)"])
def test_a_layer_that_passes_by_its_own_hooks_says_so(layers):
    model = BypassLeaf(6, 5) if layers == "leaves" else Bypass(nn.Linear(6, 5))
    with pytest.raises(NeverFiredError, match="has a __call__ of its own"):
        nc.collect(model, batches(), layers=layers, progress=False)


def test_the_model_that_is_augmented_is_measured_once():
    inner = nn.Sequential(nn.Linear(6, 5))
    found = nc.collect(inner, batches(), progress=False)
    assert int(found["0"].count.sum()) == 24

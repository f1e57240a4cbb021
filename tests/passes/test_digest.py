"""A run is known again by its weights: those that are saved with the model, on this process, whatever is made later."""

import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.passes.digest import weight_digest
from neurocollapse.support.state import StateFileError


def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(12, 6, generator=generator), torch.arange(12) % 4) for _ in range(3)]


def stopping():
    yield from batches()[:1]
    raise KeyboardInterrupt


def interrupted(model, path):
    with pytest.raises(KeyboardInterrupt):
        nc.analyze(model, stopping(), resume=path, progress=False)


class Late(nn.Module):
    """Makes buffers in its first call, that are not saved with it."""

    def __init__(self, action):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.action = nn.Linear(6, 5), action
        self.register_buffer("table", None, persistent=False)

    def forward(self, x):
        self.action(self, x)
        return self.fc(x)


def table(model, x):
    model.table = torch.arange(9.0) if model.table is None else model.table


def cache(model, x):
    model.table = x.clone()


def late_registration(model, x):
    model.register_buffer("mask", torch.ones(len(x)), persistent=False)


def counter(model, x):
    model.table = torch.zeros(1) if model.table is None else model.table
    model.table += 1


@pytest.mark.parametrize("action", [table, cache, late_registration, counter])
def test_buffers_that_are_not_saved_are_no_weights(tmp_path, action):
    model = Late(action)
    interrupted(model, tmp_path / "state")
    resumed = nc.analyze(model, batches(), resume=tmp_path / "state", progress=False)
    whole = nc.analyze(model, batches(), progress=False)
    assert resumed.compression.values == whole.compression.values
    assert resumed.attrs["num_samples"] == 36


def test_buffers_that_are_saved_are_weights(tmp_path):
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    interrupted(model, tmp_path / "state")
    model[1].running_mean += 1
    with pytest.raises(StateFileError, match="weights"):
        nc.analyze(model, batches(), resume=tmp_path / "state", progress=False)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(4)),
        lambda: nn.Sequential(nn.Linear(6, 5), nn.LazyBatchNorm1d()),
        lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3), nn.LazyBatchNorm1d()),
    ],
)
def test_a_run_of_a_lazy_model_continues_once_its_weights_are_there(tmp_path, build):
    model = build()
    interrupted(model, tmp_path / "state")
    resumed = nc.collect(model, batches(), resume=tmp_path / "state", progress=False)
    whole = nc.collect(model, batches(), progress=False)
    assert list(resumed) == list(whole)
    for name in whole:
        assert torch.equal(resumed[name].mean, whole[name].mean)
    with pytest.raises(StateFileError, match="have no weights yet"):
        nc.collect(build(), batches(), resume=tmp_path / "state", progress=False)


def test_memory_stays_such_that_torch_can_resize_it():
    model = nn.Linear(6, 5)
    weight_digest(model, "eval")
    model.weight.untyped_storage().resize_(0)
    assert model.weight.untyped_storage().size() == 0

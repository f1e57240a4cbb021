"""Wrapped models: names without prefixes, found by type, and replicas refused."""

import sys
import types

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from neurocollapse.hooks import ReplicaError, capture, inspect_layers, select
from neurocollapse.hooks.wrappers import is_compiled, named_modules, unwrap

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def assert_captured_as_bare(wrapped, bare):
    """The names and features of a wrapped model are those of the model inside."""
    with capture(wrapped, "leaves") as features, torch.no_grad():
        wrapped(X)
    with capture(bare, "leaves") as expected, torch.no_grad():
        bare(X)
    assert list(features) == list(expected) == ["0", "1", "2"]
    assert all(torch.equal(features[name], expected[name]) for name in expected)
    assert not any(module._forward_hooks for module in wrapped.modules())


@pytest.fixture
def process_group(tmp_path):
    """A group of one process."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_replicas_in_one_process_are_refused():
    wrapped = nn.DataParallel(net())
    wrapped.device_ids = [0, 1]
    inside = nn.Sequential(wrapped, nn.ReLU())
    for model in (wrapped, inside):
        for use in (lambda model: capture(model, "leaves").__enter__(), inspect_layers, lambda m: select(m, "leaves")):
            with pytest.raises(ReplicaError, match=r"2 devices.*pass model\.module, or .* torchrun"):
                use(model)
    assert_captured_as_bare(wrapped.module, wrapped.module)


def test_data_parallel_over_one_device_is_looked_through():
    bare = net()
    assert_captured_as_bare(nn.DataParallel(bare), bare)


def test_distributed_data_parallel_is_looked_through(process_group):
    bare = net()
    wrapped = nn.parallel.DistributedDataParallel(bare)
    assert unwrap(wrapped) is bare
    assert_captured_as_bare(wrapped, bare)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_fully_sharded_parts_are_looked_through(process_group):
    from torch.distributed.fsdp import FullyShardedDataParallel

    bare = net()
    expected = [layer(X) for layer in (bare[:1], bare[:2], bare)]
    bare[0] = FullyShardedDataParallel(bare[0], device_id=torch.device("cpu"))
    wrapped = FullyShardedDataParallel(bare, device_id=torch.device("cpu"))
    with capture(wrapped, "leaves") as features, torch.no_grad():
        wrapped(X)
    assert list(features) == ["0", "1", "2"]
    for value, reference in zip(features.values(), expected, strict=True):
        torch.testing.assert_close(value, reference.detach())


def test_checkpointed_and_averaged_models_are_looked_through():
    bare = net()
    assert_captured_as_bare(AveragedModel(bare), AveragedModel(bare).module)
    partly = net()
    partly[0] = checkpoint_wrapper(partly[0])
    assert_captured_as_bare(partly, net())
    assert_captured_as_bare(checkpoint_wrapper(net()), net())


def test_wrappers_of_lightning_fabric_are_looked_through(monkeypatch):
    class _FabricModule(nn.Module):
        def __init__(self, forward_module):
            super().__init__()
            self._forward_module = forward_module

        def forward(self, *args):
            return self._forward_module(*args)

    for package in ("lightning.fabric.wrappers", "lightning_fabric.wrappers"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, types.SimpleNamespace(_FabricModule=_FabricModule))
            bare = net()
            assert_captured_as_bare(_FabricModule(nn.DataParallel(bare)), bare)


def test_a_users_own_submodule_called_module_keeps_its_name():
    model = nn.Module()
    model.module = nn.Sequential(nn.Linear(3, 3))
    model.module._orig_mod = nn.ReLU()
    assert [name for name, _ in named_modules(model)] == ["", "module", "module.0", "module._orig_mod"]


def test_the_wrapped_module_can_be_called_by_itself():
    bare = net()
    with capture(nn.DataParallel(bare), "1") as features:
        bare(X)
    assert torch.equal(features["1"], bare[:2](X))


def test_a_model_knows_whether_it_is_compiled():
    model = net()
    assert not is_compiled(model)
    assert is_compiled(torch.compile(net(), backend="eager"))
    model[0].compile(backend="eager")
    assert is_compiled(model)

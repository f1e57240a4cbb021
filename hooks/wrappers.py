"""The model inside its wrappers: removes the prefixes that DDP, FSDP, torch.compile and others add to names."""

import sys
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import parametrize

from neurocollapse.hooks.errors import ReplicaError

# Where a wrapper's class lives, what it is called, and the attribute that holds the wrapped module. Looked up in
# sys.modules: a class that was never imported wraps nothing, and capturing imports no optional library.
_WRAPPERS = (
    ("torch.nn.parallel.data_parallel", "DataParallel", "module"),
    ("torch.nn.parallel.distributed", "DistributedDataParallel", "module"),
    ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel", "_fsdp_wrapped_module"),
    (
        "torch.distributed.algorithms._checkpoint.checkpoint_wrapper",
        "ActivationWrapper",
        "_checkpoint_wrapped_module",
    ),
    ("torch.optim.swa_utils", "AveragedModel", "module"),
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("lightning.fabric.wrappers", "_FabricModule", "_forward_module"),
    ("lightning_fabric.wrappers", "_FabricModule", "_forward_module"),
)
_NAMES = {name for _, name, _ in _WRAPPERS}


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module that `model` wraps, however deep, or `model` itself.

    DataParallel over one device, DistributedDataParallel, FullyShardedDataParallel, activation checkpointing,
    averaged models, torch.compile and Lightning Fabric are recognised by type.

    Raises
    ------
    ReplicaError
        If `model` is a DataParallel over several devices.
    """
    if _NAMES.isdisjoint(kind.__name__ for kind in type(model).__mro__):  # as nearly all of a model's modules
        return model
    wrappers = _imported_wrappers()
    while (attribute := next((name for kind, name in wrappers if isinstance(model, kind)), None)) is not None:
        _refuse_replicas(model)
        model = getattr(model, attribute)
    return model


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Walk over (name, module) in definition order, the model itself first as "", with no wrapper in any name.

    A module that is used under several names is listed once, under the first. The parametrizations of a weight
    (`torch.nn.utils.parametrize`) belong to their layer and are not listed.

    Examples
    --------
    >>> [name for name, _ in named_modules(nn.DataParallel(nn.Sequential(nn.Linear(2, 3), nn.ReLU())))]
    ['', '0', '1']
    """
    yield from _walk("", unwrap(model), set())


def all_names(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Walk over (name, module) as `named_modules` does, with a shared module under each of its names.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> [name for name, _ in all_names(nn.Sequential(layer, layer))]
    ['', '0', '1']
    """
    yield from _walk("", unwrap(model), set(), again=True)


def children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the (name, module) pairs directly below `module`, unwrapped, without parametrizations.

    A TorchScript module has none: its parts run inside the TorchScript interpreter.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return []
    parametrized = parametrize.is_parametrized(module)
    return [
        (name, unwrap(child))
        for name, child in module._modules.items()
        if child is not None and not (parametrized and name == "parametrizations")
    ]


def is_compiled(model: nn.Module) -> bool:
    """Tell whether `model` or a part of it is set up to run through torch.compile."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return any(
        (dynamo is not None and isinstance(module, dynamo.OptimizedModule))
        or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def forget_compiled(model: nn.Module) -> None:
    """Let a compiled model be compiled again: the code it has would not notice that hooks have come or gone."""
    if is_compiled(model):
        torch.compiler.reset()


def _imported_wrappers() -> list[tuple[type, str]]:
    """The wrapper classes that some import has made available, with the attribute of the wrapped module."""
    found = ((getattr(sys.modules.get(home), name, None), attribute) for home, name, attribute in _WRAPPERS)
    return [(kind, attribute) for kind, attribute in found if isinstance(kind, type)]


def _walk(name: str, module: nn.Module, seen: set[int], *, again: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """Depth-first walk in definition order that lists every module once, or `again` in each place."""
    if id(module) in seen:
        return
    seen.add(id(module))
    yield name, module
    for key, child in children(module):
        yield from _walk(f"{name}.{key}" if name else key, child, seen, again=again)
    if again:
        seen.remove(id(module))  # what is left are the modules around, so that a cycle ends


def _refuse_replicas(model: nn.Module) -> None:
    """Raise where one process would run several copies of the model at once."""
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise ReplicaError(
            f"`model` is a DataParallel over {len(model.device_ids)} devices, whose replicas would run the hooks at "
            "the same time on parts of a batch; pass model.module, or start one process per device with torchrun"
        )

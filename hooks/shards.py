"""Tensors of which each process holds a part: DTensors of tensor parallelism and of fully sharded models."""

import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from neurocollapse.hooks.errors import CaptureError


def is_split(tensor: Tensor) -> bool:
    """Tell whether a tensor is a DTensor; torch.distributed is not imported for this."""
    module = sys.modules.get("torch.distributed.tensor")
    return type(tensor) is not Tensor and module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: Any) -> Tensor:
    """Return the whole of a DTensor, for which all its processes must ask together; other tensors as they are."""
    return tensor.full_tensor() if is_split(tensor) else tensor


def own_part(tensor: Any) -> Tensor:
    """Return what this process has of a DTensor; other tensors as they are."""
    return tensor.to_local() if is_split(tensor) else tensor


def refuse_tensor_parallel(model: nn.Module) -> None:
    """Raise if a layer's weight is split over processes, so that each of them has a part of the layer's features.

    What fully_shard splits is put together before a layer runs.
    """
    for path, parameter, is_sharded_data in _parameters("", model, False):
        mesh = parameter.device_mesh
        split = [axis for axis, one in enumerate(parameter.placements) if one.is_shard() and mesh.size(axis) > 1]
        if len(split) > int(is_sharded_data):
            raise CaptureError(
                f"the weights of {type(model).__name__} are split over {mesh.size(split[-1])} processes (tensor "
                f"parallel, {path!r}), each of which has a part of the features; capture the model before "
                "parallelize_module splits it"
            )


def _parameters(path: str, module: nn.Module, is_sharded_data: bool) -> Iterator[tuple[str, Any, bool]]:
    """The DTensors among all parameters, with their path, and whether fully_shard manages them."""
    fsdp = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    is_sharded_data = is_sharded_data or (fsdp is not None and isinstance(module, fsdp))
    for name, parameter in module._parameters.items():
        if parameter is not None and is_split(parameter):
            yield f"{path}{name}", parameter, is_sharded_data
    for name, child in module._modules.items():
        if child is not None:
            yield from _parameters(f"{path}{name}.", child, is_sharded_data)

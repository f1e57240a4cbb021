"""Models whose weights lie elsewhere until a layer runs, as accelerate keeps them: on the CPU, or on disk."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def execution_device(model: nn.Module) -> torch.device | None:
    """Return the device on which the first offloaded layer runs; None if there is none."""
    for module in model.modules():
        for hook in _hooks(module):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return None


def offloads(model: nn.Module) -> bool:
    """Tell whether the weights of any module are taken away again behind its forward."""
    return any(getattr(hook, "offload", False) for module in model.modules() for hook in _hooks(module))


def loaded(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Return a parameter or buffer of a module with its numbers, wherever they are kept.

    Raises
    ------
    ValueError
        If the tensor is on the meta device, and nothing holds its numbers.
    """
    if not tensor.is_meta:
        return tensor
    for hook in _hooks(module):
        kept = getattr(hook, "weights_map", None)
        if kept is not None and name in kept:
            return kept[name]
    raise ValueError(
        f"{name!r} of a {type(module).__name__} is on the meta device, which keeps no numbers; load the model's "
        "weights first"
    )


def _hooks(module: nn.Module) -> Iterator[Any]:
    """The hooks of accelerate on a module, one after the other where it has several."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        yield from getattr(hook, "hooks", (hook,))

"""Running a model so that every module is called, and a hook so that nothing is computed in half precision."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn


@contextmanager
def unfused(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run modules one by one: no compiled graphs and no fused encoder layers, in which hooks do not fire.

    A compiler that was never imported has compiled nothing, and is not imported for this.
    """
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(isinstance(module, nn.TransformerEncoderLayer | nn.MultiheadAttention) for module in modules):
            stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)
        yield


def outside_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off where it is on for the tensor's device: matrix products would run in half precision."""
    device = tensor.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return _NOTHING


_NOTHING = nullcontext()

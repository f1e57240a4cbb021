"""Running a model so that every module is called, and a hook so that nothing is computed in half precision."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from neurocollapse.support.undo import Undo, locked


def unfuse(modules: Iterable[nn.Module], undo: Undo) -> None:
    """Run modules one by one until `undo` is closed: no compiled graphs and no fused encoder layers, which call none.

    Both are switches of the whole process: the first to need them off switches them, the last puts them back.
    A compiler that was never imported has compiled nothing, and is not imported for this.
    """
    if "torch._dynamo.eval_frame" in sys.modules:
        _STANCE.hold(undo)
    if any(isinstance(module, nn.TransformerEncoderLayer | nn.MultiheadAttention) for module in modules):
        _FASTPATH.hold(undo)


def outside_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off where it is on for the tensor's device: matrix products would run in half precision.

    Transforms of torch.func that are going on are left, too: they would take part in what is computed.
    """
    if is_outside_all():
        return _NOTHING
    device = tensor.device.type
    if torch._C._are_functorch_transforms_active():
        return _outside_transforms(device)
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return _NOTHING


def is_outside_all() -> bool:
    """Whether neither autocast is on, for any device, nor a transform of torch.func going on."""
    return not torch._C._is_any_autocast_enabled() and not torch._C._are_functorch_transforms_active()


@contextmanager
def _outside_transforms(device: str) -> Iterator[None]:
    """Compute without autocast, and without the transforms that are going on."""
    with temporarily_clear_interpreter_stack(), torch.autocast(device, enabled=False):
        yield


class _Switch:
    """A setting of the whole process that several may need at once to have one value."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], object], value: Callable[[], Any]) -> None:
        self._read, self._write, self._value = read, write, value
        self._holders: set[object] = set()
        self._before: list[Any] = []  # what to put back, if there is something

    def hold(self, undo: Undo) -> None:
        """Keep the value until `undo` is closed."""
        token = object()
        undo.add(locked, self._give_back, token)
        locked(self._take, token)

    def _take(self, token: object) -> None:
        """Set the value; the holder comes first, so that nobody puts anything back meanwhile."""
        self._holders.add(token)
        if not self._before:
            self._before.append(self._read())
        self._write(self._value())

    def _give_back(self, token: object) -> None:
        """Put back what was before the first holder, behind the last one."""
        self._holders.discard(token)
        if not self._holders and self._before:
            self._write(self._before[0])
            self._before.clear()


# torch.compiler.set_stance tells what was set before only after it has set something else, which an interrupt may part.
_STANCE = _Switch(
    lambda: torch._dynamo.eval_frame._stance,
    lambda stance: torch._dynamo.eval_frame._set_stance(stance),
    lambda: torch._dynamo.eval_frame.DynamoStance("force_eager"),
)
_FASTPATH = _Switch(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled, lambda: False)
_NOTHING = nullcontext()

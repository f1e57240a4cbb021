"""Ending a forward pass after the last tap: the rest is not computed."""

import inspect
import sys
from collections.abc import Callable, Iterable
from functools import update_wrapper
from threading import get_ident
from typing import Any

import torch.utils.checkpoint
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.nn.parallel import DistributedDataParallel

from neurocollapse.hooks.errors import CaptureError
from neurocollapse.hooks.offload import offloads
from neurocollapse.support.undo import Undo


class ForwardHalted(BaseException):
    """Unwinds a forward pass. No Exception, so that models which catch those do not stop it."""

    def __init__(self, halt: "Halt") -> None:
        self.halt = halt


class Halt:
    """Ends forward passes of one model.

    Parameters
    ----------
    model : torch.nn.Module
        As it was given, with its wrappers.
    root : torch.nn.Module
        The model inside them, whose forward pass ends early and gives None.

    Attributes
    ----------
    done : bool
        Whether this forward pass has ended early.

    Raises
    ------
    CaptureError
        If a forward pass of the model cannot be left in the middle.
    """

    def __init__(self, model: nn.Module, root: nn.Module) -> None:
        self._root = root
        self._thread: int | None = None  # where the signal is on its way
        self.done = False
        if reason := _obstacle(model, root):
            raise cannot_halt(reason)

    def place(self, undo: Undo) -> None:
        """Catch the signal around the root's forward until `undo` is closed."""
        for module in self._root.modules():
            if module._forward_hooks_always_called or module_hooks._global_forward_hooks_always_called:
                name = type(module).__name__
                raise cannot_halt(f"it would skip an always_call hook on {name} (an open nc.capture has one)")
        attributes = self._root.__dict__
        around = HaltingForward(self._root.forward, self)
        undo.add(_put_back, attributes, around, attributes.get("forward"))
        attributes["forward"] = around

    def begin(self) -> None:
        """Start a forward pass."""
        self._thread, self.done = None, False

    def signal(self) -> None:
        """End the forward pass that is going on."""
        if _in_checkpoint():
            raise cannot_halt("that layer runs inside torch.utils.checkpoint")
        distributed = DistributedDataParallel._active_ddp_module
        if distributed is not None and distributed.training:
            raise cannot_halt("DistributedDataParallel in training mode waits for the gradients of a whole one")
        self._thread = get_ident()
        raise ForwardHalted(self)

    def caught(self) -> None:
        """Take note that the signal has arrived."""
        self._thread, self.done = None, True

    def check(self, cause: Exception | None = None) -> None:
        """Raise if the forward pass went on although the signal was sent."""
        if self._thread == get_ident():
            name = type(self._root).__name__
            raise cannot_halt(f"{name} catches BaseException in its forward pass, which then goes on") from cause


class HaltingForward:
    """A model's forward that may end early; a copied or unpickled model gets its own forward instead."""

    def __init__(self, forward: Callable[..., Any], halt: Halt) -> None:
        update_wrapper(self, forward)
        self._forward, self._halt = forward, halt

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass; None where it has ended early."""
        try:
            output = self._forward(*args, **kwargs)
        except ForwardHalted as signal:
            if signal.halt is not self._halt:
                raise
            self._halt.caught()
            return None
        except Exception as error:
            self._halt.check(error)
            raise
        self._halt.check()
        return output

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Callable[..., Any]]]:
        return _itself, (self._forward,)


def refuse_halted(modules: Iterable[nn.Module]) -> None:
    """Raise where an open block ends the forward passes of one of the modules early."""
    for module in modules:
        if isinstance(module.__dict__.get("forward"), HaltingForward):
            raise CaptureError(
                f"an open nc.capture(…, stop=True) ends the forward passes of {type(module).__name__} early; leave its "
                "block first"
            )


def cannot_halt(reason: str) -> CaptureError:
    """The error for a forward pass that has to run to its end."""
    return CaptureError(
        f"the forward pass cannot end behind the last chosen layer: {reason}; leave out `halt` (`stop` in nc.capture)"
    )


def _obstacle(model: nn.Module, root: nn.Module) -> str:
    """Why forward passes of a model have to run to their end; empty where nothing speaks against it."""
    if any(kind(root.forward) for kind in (inspect.isgeneratorfunction, inspect.iscoroutinefunction)):
        return f"{type(root).__name__}.forward is a generator or coroutine"
    sharded = [getattr(sys.modules.get(home), name, None) for home, name in _SHARDED]
    kinds = tuple(kind for kind in sharded if isinstance(kind, type))
    if any(isinstance(module, kinds) for module in model.modules()):
        return "FullyShardedDataParallel has to put its weights away"
    return "accelerate has to put offloaded weights away" if offloads(root) else ""


_SHARDED = (
    ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel"),
    ("torch.distributed.fsdp", "FSDPModule"),
)
"""Modules and names of the classes of sharded modules; a class that was never imported wraps nothing."""


def _in_checkpoint() -> bool:
    """Whether activation checkpointing has called what runs now, and would keep a half-made record of it."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not HaltingForward.__call__.__code__:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


def _put_back(attributes: dict[str, Any], around: HaltingForward, before: Any) -> None:
    """Give a module its own forward again."""
    if attributes.get("forward") is around:
        if before is None:
            del attributes["forward"]
        else:
            attributes["forward"] = before


def _itself(forward: Callable[..., Any]) -> Callable[..., Any]:
    """What is left of a HaltingForward in a copy."""
    return forward

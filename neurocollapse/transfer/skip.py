"""A connection from one layer to the head of a model, made by hooks: pooled, padded with zeros, and added."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from neurocollapse.hooks.masks import find_masks
from neurocollapse.hooks.outputs import first_tensor, pick_tensor
from neurocollapse.hooks.pool import resolve_pool
from neurocollapse.transfer.errors import TransferError

Pooling = Literal["none", "mean", "max", "cls", "last"]
"""How the layer's positions become one row per sample; "none" where there are none, or the head reads each of them."""
POOLINGS: tuple[Pooling, ...] = ("none", "mean", "max", "cls", "last")


@dataclass(frozen=True)
class Skip:
    """A skip connection: what is added to the input of the head.

    Attributes
    ----------
    layer, head : str
        Names of the modules whose output is taken, and to whose input it is added.
    layout : str
        Layout of the layer's output: "features", "tokens", "channels-first" or "channels-last".
    pooling : str
        How positions become one row: "none", "mean", "max", "cls" or "last".
    nested : bool
        Whether the layer gives a tuple, or another structure, that holds the tensor.
    num_axes : int
        Axes of the layer's output.
    width : int
        Features of the layer's output, at most `head_width`.
    head_width : int
        Features that the head reads.
    """

    layer: str
    head: str
    layout: str
    pooling: Pooling
    nested: bool
    num_axes: int
    width: int
    head_width: int

    @property
    def padding(self) -> int:
        """Zeros that are appended to the layer's features."""
        return self.head_width - self.width

    def pooled(self, output: Tensor, mask: Tensor | None) -> Tensor:
        """One row per sample of the layer's output, or every position's where the head reads each, shape (…, width).

        Parameters
        ----------
        output : Tensor
            Output of the chosen layer.
        mask : Tensor or None
            Which positions are real.
        """
        if self.pooling == "none":
            return output
        _, reduce = resolve_pool(self.pooling, self.layout, output.dim())
        return reduce(output, mask if self.layout == "tokens" else None)

    def joined(self, hidden: Tensor, output: Tensor, mask: Tensor | None) -> Tensor:
        """What the head reads with the layer's output added, shape (samples, …, head_width).

        Parameters
        ----------
        hidden : Tensor of shape (samples, …, head_width)
            What the head would read by itself.
        output : Tensor
            Output of the chosen layer.
        mask : Tensor or None
            Which positions are real.
        """
        features = self.pooled(output, mask)
        if features.shape[:-1] != hidden.shape[:-1] or features.shape[-1] != self.width:
            raise TransferError(
                f"{self.layer!r} gives {tuple(features.shape)} where {self.head!r} reads {tuple(hidden.shape)}; "
                "give the model batches like the example that the skip was made with"
            )
        return hidden + functional.pad(features, (0, self.padding)).to(hidden.dtype)


class SkipHooks:
    """The three hooks of a skip: at the model, for its mask, behind the layer, and in front of the head."""

    def __init__(self, skip: Skip, model: nn.Module, layer: nn.Module, head: nn.Module) -> None:
        self.skip = skip
        self._slot = _Slot()
        self._trains = any(parameter.requires_grad for parameter in layer.parameters())
        self._handles: list[RemovableHandle] = []
        places: list[tuple[Callable[..., RemovableHandle], Callable[..., Any]]] = [
            (model.register_forward_pre_hook, self._begin),
            (layer.register_forward_hook, self._keep),
            (head.register_forward_pre_hook, self._add),
        ]
        for register, hook in places:
            self._handles.append(register(hook, with_kwargs=True))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._slot.clear()

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forget the pass before, which may have ended early, and find the mask of this one."""
        self._slot.clear()
        first = first_tensor((args, kwargs))
        if first is not None and self.skip.layout == "tokens":
            self._slot.mask = find_masks(model, args, kwargs, len(first), None).first

    def _keep(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Keep what the layer gives."""
        self._slot.output = output if type(output) is Tensor else pick_tensor(output, num_samples=None)

    def _add(self, head: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Add what the layer gave to what the head reads."""
        output, mask = self._slot.output, self._slot.mask
        self._slot.clear()
        if output is None:
            raise TransferError(
                f"{self.skip.head!r} ran without {self.skip.layer!r} before it; call the whole model, not a part of it"
            )
        if self._trains and torch.is_grad_enabled() and not output.requires_grad:
            raise TransferError(
                f"{self.skip.layer!r} gives no gradient to the skip: it runs under no_grad, or in a checkpoint with "
                "use_reentrant=True; use use_reentrant=False"
            )
        if args:
            return (self.skip.joined(args[0], output, mask), *args[1:]), kwargs
        name, hidden = next(iter(kwargs.items()))
        return args, {**kwargs, name: self.skip.joined(hidden, output, mask)}


def has_skip(model: nn.Module) -> bool:
    """Whether a skip is on the model."""
    return any(
        isinstance(getattr(hook, "__self__", None), SkipHooks)
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()
    )


class _Slot(threading.local):
    """What one thread's forward pass has given so far; copies of a model start with an empty one."""

    output: Tensor | None = None
    mask: Tensor | None = None

    def clear(self) -> None:
        """Forget it."""
        self.output = self.mask = None

    def __reduce__(self) -> tuple[type["_Slot"], tuple[()]]:
        return _Slot, ()

"""How one site is read: settled in the first forward pass, then applied to every batch."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neurocollapse.hooks.eager import is_outside_all
from neurocollapse.hooks.errors import AmbiguousOutputError, CaptureError, LayoutError
from neurocollapse.hooks.layout import (
    CHANNELS_FIRST,
    FEATURES,
    TOKENS,
    UNKNOWN,
    Axes,
    LayoutMemory,
    batch_first_shape,
    declared_batch_axis,
    find_axes,
    find_batch_axis,
)
from neurocollapse.hooks.masks import Forward, Positions, check_fits, check_labelled, placed
from neurocollapse.hooks.outputs import Path, pick_tensor
from neurocollapse.hooks.pool import ROWS, Pool, PoolMode, Reduce, resolve_pool, wide_dtype
from neurocollapse.hooks.select import ROOT, Tap

_ONE_ROW = Positions()


class SiteKey(NamedTuple):
    """A tap and one of its calls within a forward pass; the same in every batch.

    Parameters
    ----------
    tap : int
        Index of the tap.
    call : int
        Index of the call, from 0.
    """

    tap: int
    call: int


@dataclass(frozen=True)
class Site:
    """One source of features: a tap, at one of its calls within a forward pass.

    Attributes
    ----------
    name
        The tap's name, with "#i" where the module is called more than once and all calls are kept.
    path
        The module's dotted path.
    call, num_calls
        Which call of the module this is, and how many there are in one forward pass.
    depth
        Position in the order of first firing, 0 at the input.
    module_type
        The module's class name.
    layout
        "features", "tokens", "channels-first" or "channels-last"; "unknown" where the pooling needs no layout.
    pooling
        The pooling in effect: "none" for activations without positions, else the mode or the function's name.
    shape
        Shape of the activation, without the batch axis, in the first batch.
    positions
        Rows of features a sample in the first batch; 1 unless the pooling keeps positions.
    num_features
        Width of the features.
    dtype
        Dtype of the activation, before any widening to float32.
    """

    name: str
    path: str
    call: int
    num_calls: int
    depth: int
    module_type: str
    layout: str
    pooling: str
    shape: tuple[int, ...]
    positions: int
    num_features: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Skip:
    """A site that is left out, and the error that it would be for an explicit tap."""

    error: CaptureError


@dataclass(slots=True)
class Plan:
    """The settled reading of one site."""

    axes: Axes
    pooling: str
    reduce: Reduce
    path: Path | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    num_features: int = -1
    positions: int = 1
    is_plain: bool = False
    is_matrix: bool = False

    def quick(self, value: Any, forward: Forward) -> tuple[Tensor, Positions] | None:
        """Return the features of a value with the shape and dtype of the first; None where more is to be looked at.

        Nothing is left to check then: the samples come first, no position is masked, and every sample has one row.
        """
        if not self.is_plain or self.num_features < 0 or type(value) is not Tensor or value.dtype is not self.dtype:
            return None
        try:
            if value.shape != (forward.num_samples, *self.shape):
                return None
        except RuntimeError:  # a nested tensor has no shape
            return None
        if value.layout is not torch.strided or not forward.is_unmasked or not is_outside_all():
            return None
        value = value.detach() if value.requires_grad else value
        return value if self.is_matrix else self.reduce(value, None), _ONE_ROW

    def pick(self, value: Any, num_samples: int | None) -> Tensor:
        """Return the activation, samples first, detached; check that it is the one of the first batch."""
        tensor = pick_tensor(value, num_samples=num_samples, batch_axis=self.axes.batch, path=self.path)
        if tensor.requires_grad:
            tensor = tensor.detach()
        if self.axes.batch:
            tensor = tensor.transpose(0, self.axes.batch)
        sizes = tensor.shape
        if len(sizes) != len(self.shape) + 1 or (num_samples is not None and sizes[0] != num_samples):
            expected = "samples" if num_samples is None else num_samples
            raise CaptureError(
                f"the activation has shape {tuple(sizes)}, expected ({expected}, {', '.join(map(str, self.shape))}) "
                "as in the first batch"
            )
        return tensor

    def features(self, tensor: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Positions]:
        """Return the features of an activation, and what its rows are; check that their width is that of the first.

        Raises
        ------
        CaptureError
            If the width is another one, or the mask is of other positions.
        """
        if self.axes.layout == FEATURES:
            mask = None
        elif mask is not None and self.axes.layout != UNKNOWN:
            check_fits(mask, self.positions_of(tensor))
        # Where every position becomes a row, the mask stays where it is: which rows these are is not asked of a device.
        here = mask if mask is None or self.pooling in ROWS else placed(mask, tensor.device)
        features = self.reduce(tensor, here)
        rows = Positions(self.positions_of(tensor), mask) if self.pooling in ROWS else Positions()
        if self.pooling not in ROWS and len(features) > len(tensor):  # a function's rows
            rows = Positions((len(features) // max(len(tensor), 1),))
        if self.num_features < 0:
            self.num_features = features.shape[1]
            self.positions = rows.number
        if features.shape[1] != self.num_features:
            raise CaptureError(
                f"the width of the features changed from {self.num_features} to {features.shape[1]} (activation "
                f"{tuple(tensor.shape)}); give all batches one size, or use a pooling that averages positions"
            )
        return features, rows

    def positions_of(self, tensor: Tensor) -> tuple[int, ...]:
        """The positions of one sample of an activation."""
        if self.axes.layout in (FEATURES, UNKNOWN):
            return ()
        return tuple(tensor.shape[2:] if self.axes.layout == CHANNELS_FIRST else tensor.shape[1:-1])

    def describe(self, tap: Tap, name: str, call: int, num_calls: int, depth: int) -> Site:
        """Return what a user may want to know of the site."""
        return Site(
            name=name,
            path=tap.path or ROOT,
            call=call,
            num_calls=num_calls,
            depth=depth,
            module_type=type(tap.module).__name__,
            layout=self.axes.layout,
            pooling=self.pooling,
            shape=self.shape,
            positions=self.positions,
            num_features=self.num_features,
            dtype=self.dtype,
        )


def make_plan(
    module: nn.Module,
    value: Any,
    num_samples: int | None,
    memory: LayoutMemory,
    *,
    pool: Pool,
    path: Path | None,
    at_input: bool,
    mask: Tensor | None = None,
    positions: tuple[int, ...] | None = None,
) -> Plan:
    """Settle how a site is read, from its first value.

    Where there are labels per position, of which a sample has `positions`, every position becomes a row.

    Raises
    ------
    AmbiguousOutputError, LayoutError
        If the tensor, its axes or a fitting pooling cannot be told.
    """
    chosen = path is not None
    if path is None and not at_input and isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        path = "0" if isinstance(value, tuple) else None  # next to attention weights or last states
    tensor = _first_pick(module, value, num_samples, memory, path)
    needs_layout = not callable(pool) and pool != "flatten"
    if chosen and not _is_declared(module, value, tensor):
        axes = _axes(nn.Flatten(), tensor, num_samples, memory, at_input, needs_layout, chosen=True)
    else:
        axes = _axes(module, tensor, num_samples, memory, at_input, needs_layout)
    sizes = batch_first_shape(tensor, axes.batch)
    if len(sizes) > 2 and axes.layout != UNKNOWN and not at_input:
        memory.note(sizes, axes.channel)
    if positions is not None and pool == "auto":
        pool = _every_position(axes.layout)
    pooling, reduce = resolve_pool(pool, axes.layout, len(sizes))
    plan = Plan(axes, pooling, reduce, path, sizes[1:], tensor.dtype)
    plan.is_plain = not (axes.batch or path is not None or callable(pool) or pooling in ROWS)
    plan.is_matrix = pooling == "none" and len(sizes) == 2 and wide_dtype(tensor.dtype) == tensor.dtype
    own = plan.positions_of(tensor if not axes.batch else tensor.transpose(0, axes.batch))
    if mask is not None and own and not callable(pool):
        check_fits(mask, own)
    if positions is not None and not callable(pool):
        check_labelled(own if pooling in ROWS else (), positions)
    return plan


def _every_position(layout: str) -> PoolMode:
    """The pooling that keeps every position of this layout."""
    return "tokens" if layout == TOKENS else "positions"


def _first_pick(
    module: nn.Module, value: Any, num_samples: int | None, memory: LayoutMemory, path: Path | None
) -> Tensor:
    """The tensor that is meant; looks along the other axis too where samples may be counted in axis 1."""
    told = declared_batch_axis(module)
    try:
        return pick_tensor(value, num_samples=num_samples, batch_axis=told or 0, path=path)
    except AmbiguousOutputError:
        if not memory.sequence_first:
            raise
        return pick_tensor(value, num_samples=num_samples, batch_axis=0 if told else 1, path=path)


def _is_declared(module: nn.Module, value: Any, tensor: Tensor) -> bool:
    """Whether a tensor that the user has chosen has the axes that the module declares, as its main output has.

    A module that declares none, such as a block of transformers, is taken for the kind of all of its outputs.
    """
    if isinstance(value, Tensor):
        return tensor is value
    main = value[0] if isinstance(value, tuple) and value else None
    return tensor is main or declared_batch_axis(module) is None


def _axes(
    module: nn.Module,
    tensor: Tensor,
    num_samples: int | None,
    memory: LayoutMemory,
    at_input: bool,
    needs_layout: bool,
    *,
    chosen: bool = False,
) -> Axes:
    """The axes, with an unknown layout where the pooling needs none and none is certain."""
    try:
        return find_axes(module, tensor, num_samples, memory, at_input=at_input, chosen=chosen)
    except LayoutError:
        if needs_layout:
            raise
        return Axes(find_batch_axis(module, tensor, num_samples, memory, chosen=chosen), -1, UNKNOWN)

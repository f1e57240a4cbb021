"""From an activation to features: one row per sample, or one row per position."""

import inspect
from collections.abc import Callable
from functools import partial
from inspect import Parameter
from typing import get_args

import torch
from torch import Tensor

from neurocollapse.hooks.errors import LayoutError
from neurocollapse.hooks.layout import CHANNELS_FIRST, CHANNELS_LAST, FEATURES, TOKENS
from neurocollapse.hooks.masks import real_positions
from neurocollapse.support.checks import shown
from neurocollapse.support.choices import PoolMode

Pool = PoolMode | Callable[..., Tensor]
MODES = get_args(PoolMode)
ROWS = ("positions", "tokens")
"""The modes that keep one row per position."""
Reduce = Callable[[Tensor, Tensor | None], Tensor]
"""From an activation, samples first, and the mask of its positions, None for all, to features."""

_WIDE = (torch.float32, torch.float64)
_MODES_OF = {
    CHANNELS_FIRST: ("mean", "max", "flatten", "positions"),
    CHANNELS_LAST: ("mean", "max", "flatten", "positions"),
    TOKENS: ("mean", "cls", "last", "flatten", "tokens"),
}


def pool_features(tensor: Tensor, *, pool: Pool = "auto", layout: str, mask: Tensor | None = None) -> Tensor:
    """Reduce an activation to features of shape (samples · positions, features).

    "mean" and "max" run over the positions of a map or the tokens of a sequence; "cls" and "last" take the first and
    last token, "flatten" makes every entry a feature, "positions" (maps) and "tokens" keep one row per position,
    sample after sample; "auto" is the mean. All of them look at real positions only where a mask is given, which
    "flatten" refuses. An activation without positions is returned as it is.
    float16 and bfloat16 are summed and returned in float32.

    Parameters
    ----------
    tensor : Tensor of shape (samples, …)
        The activation, samples first.
    pool : str or callable
        The mode, or a function from the activation to features; one of two arguments is given the mask as well.
    layout : {"features", "channels-first", "channels-last", "tokens"}
        What the axes mean.
    mask : Tensor of shape (samples, …), bool, optional
        Which positions are real, at least one per sample. Default: all.

    Returns
    -------
    Tensor of shape (samples · positions, features)
        float32 or float64. It may be a view of `tensor`.

    Raises
    ------
    LayoutError
        If the mode does not fit the layout, or a function returns something else than such features.

    Examples
    --------
    >>> pool_features(torch.ones(2, 3, 5, 5), pool="positions", layout="channels-first").shape
    torch.Size([50, 3])
    """
    _, function = resolve_pool(pool, layout, tensor.dim())
    # What is made of a mask is cached for that one tensor, and the caller's tensor may change before the next call.
    return function(tensor, None if mask is None else mask.detach())


def resolve_pool(pool: Pool, layout: str, num_axes: int) -> tuple[str, Reduce]:
    """Return the name and the function of the pooling of tensors with this layout and number of axes."""
    if callable(pool):
        function = pool if takes_mask(pool) else partial(_without_mask, function=pool)
        return getattr(pool, "__name__", type(pool).__name__), partial(_call, function=function)
    if pool not in MODES:
        raise LayoutError(f"`pool` must be one of {', '.join(MODES)} or a function, got {shown(pool)}")
    if layout == FEATURES:
        return "none", _as_matrix
    if pool == "flatten":
        return pool, _flatten
    mode = "mean" if pool == "auto" else pool
    if mode not in _MODES_OF[layout]:
        raise LayoutError(
            f"`pool` = {mode!r} does not fit the layout {layout!r}; use one of {', '.join(_MODES_OF[layout])}"
        )
    return mode, _function(mode, layout, num_axes)


def takes_mask(pool: Pool) -> bool:
    """Whether a function takes (activation, mask): its second argument has no default, or is called `mask`."""
    try:
        parameters = list(inspect.signature(pool).parameters.values()) if callable(pool) else []
    except (TypeError, ValueError):
        return False
    if len(parameters) < 2 or parameters[1].kind not in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
        return False
    return parameters[1].name == "mask" or parameters[1].default is Parameter.empty


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of features made from this one: at least float32."""
    return dtype if dtype in _WIDE else torch.float32


def _without_mask(tensor: Tensor, mask: Tensor | None, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of the activation alone."""
    return function(tensor)


def _function(mode: str, layout: str, num_axes: int) -> Reduce:
    """The function of a mode on maps and tokens."""
    axes = tuple(range(2, num_axes)) if layout == CHANNELS_FIRST else tuple(range(1, num_axes - 1))
    channel = 1 if layout == CHANNELS_FIRST else -1
    if mode == "mean":
        return partial(_mean, axes=axes, channel=channel)
    if mode == "max":
        return partial(_max, axes=axes, channel=channel)
    if mode in ("cls", "last"):
        return partial(_token, index=0 if mode == "cls" else -1)
    return partial(_rows, channel=channel)


def _as_matrix(tensor: Tensor, mask: Tensor | None = None) -> Tensor:
    """Every entry as a feature."""
    if tensor.dim() == 2 and tensor.dtype in _WIDE:
        return tensor
    rows = tensor.reshape(tensor.shape[0], -1 if tensor.numel() else _entries(tensor))
    return rows if rows.dtype in _WIDE else rows.float()


def _entries(tensor: Tensor) -> int:
    """Entries of one sample, also when there is no sample."""
    return torch.Size(tensor.shape[1:]).numel()


def _flatten(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """Every entry as a feature, where none of them is padding."""
    if mask is not None:
        raise LayoutError("`pool` = 'flatten' would make features of padding; use another pooling, or mask=False")
    return _as_matrix(tensor)


def _mean(tensor: Tensor, mask: Tensor | None, axes: tuple[int, ...], channel: int) -> Tensor:
    """Mean over positions, summed in at least float32."""
    dtype = wide_dtype(tensor.dtype)
    if mask is None:
        return tensor.mean(axes, dtype=dtype)
    real = mask.unsqueeze(channel)
    return tensor.masked_fill(~real, 0).sum(axes, dtype=dtype) / real.sum(axes)


def _max(tensor: Tensor, mask: Tensor | None, axes: tuple[int, ...], channel: int) -> Tensor:
    """Maximum over positions."""
    if mask is not None:
        tensor = tensor.masked_fill(~mask.unsqueeze(channel), -torch.inf)
    return tensor.amax(axes).to(wide_dtype(tensor.dtype))


def _token(tensor: Tensor, mask: Tensor | None, index: int) -> Tensor:
    """One token of each sequence: the first or the last, of the real ones."""
    if mask is None:
        return tensor[:, index].to(wide_dtype(tensor.dtype))
    steps = mask.long() if index == 0 else mask.long().flip(1)
    first = steps.argmax(dim=1)
    places = first if index == 0 else mask.shape[1] - 1 - first
    return tensor[torch.arange(len(tensor), device=tensor.device), places].to(wide_dtype(tensor.dtype))


def _rows(tensor: Tensor, mask: Tensor | None, channel: int) -> Tensor:
    """One row a position, sample after sample."""
    rows = tensor.movedim(channel, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    kept = rows if mask is None else rows.index_select(0, real_positions(mask, rows.device))
    return kept.to(wide_dtype(tensor.dtype))


def _call(tensor: Tensor, mask: Tensor | None, function: Reduce) -> Tensor:
    """The user's function, checked."""
    features = function(tensor, mask)
    if not isinstance(features, Tensor) or features.dim() != 2 or not features.is_floating_point():
        raise LayoutError(f"`pool` must return a floating-point tensor (samples, features), got {_kind(features)}")
    if len(features) % max(len(tensor), 1):
        raise LayoutError(f"`pool` must return rows for each of the {len(tensor)} samples, got {len(features)}")
    return features.detach().to(wide_dtype(features.dtype))


def _kind(value: object) -> str:
    """Type, shape and dtype of a function's answer."""
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__

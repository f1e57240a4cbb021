"""What each axis of an activation means: which one counts the samples, which one the channels."""

from math import prod
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules import activation, batchnorm, conv, dropout, padding, pooling

from neurocollapse.hooks.errors import LayoutError
from neurocollapse.hooks.linear import is_linear
from neurocollapse.hooks.presets import is_leaf

FEATURES, TOKENS, CHANNELS_FIRST, CHANNELS_LAST, UNKNOWN = (
    "features",
    "tokens",
    "channels-first",
    "channels-last",
    "unknown",
)

_POOLING = tuple(getattr(pooling, name) for name in pooling.__all__)
_PADDING = tuple(getattr(padding, name) for name in padding.__all__)
_CHANNELS_IN_AXIS_1 = (
    conv._ConvNd,
    batchnorm._NormBase,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.Softmax2d,
    *_POOLING,
    *_PADDING,
)
_TRANSFORMERS = (
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)
_CHANNELS_LAST = (nn.Bilinear, nn.Embedding, nn.MultiheadAttention, nn.RNNBase, *_TRANSFORMERS)
_SIZED_NORMS = (nn.LayerNorm, nn.RMSNorm)
_ELEMENTWISE = (
    nn.Identity,
    dropout._DropoutNd,
    *(getattr(activation, name) for name in activation.__all__ if name != "MultiheadAttention"),
)


class BatchConflict(LayoutError):
    """A module counts its samples in axis 1, which shows that the batch size was read from the wrong axis."""


class Axes(NamedTuple):
    """Where the samples are, and where the channels are once the samples come first."""

    batch: int
    channel: int
    layout: str


class LayoutMemory:
    """The layouts that the first forward pass has shown so far, from which those of other modules follow."""

    def __init__(self, *, sequence_first: bool = False) -> None:
        self.sequence_first = sequence_first
        self._last: tuple[tuple[int, ...], int] | None = None
        self._seen: dict[tuple[int, ...], set[int]] = {}

    def note(self, shape: tuple[int, ...], channel: int) -> None:
        """Remember that a tensor of this shape, samples first, has its channels in axis `channel`."""
        self._last = (shape, channel)
        self._seen.setdefault(shape, set()).add(channel)

    def infer(self, shape: tuple[int, ...], *, may_rearrange: bool, is_container: bool = False) -> int | None:
        """Return the channel axis of a tensor whose module does not tell, or None without evidence.

        Evidence is, in this order: the shape of the last known tensor, or of earlier ones that all agree (not for a
        module that may rearrange axes); for a container, maps with the positions of the last known maps, as where
        branches are concatenated; exactly one axis with as many entries as the last known tensor has channels.
        """
        if self._last is None:
            return None
        known, channel = self._last
        if not may_rearrange:
            if known == shape:
                return channel
            if len(self._seen.get(shape, ())) == 1:
                return next(iter(self._seen[shape]))
        if is_container and channel == 1 and len(shape) > 3 and shape[2:] == known[2:]:
            return 1
        axis = _only_axis(shape, known[channel])
        if len(shape) == len(known) and axis != channel and sorted(shape) != sorted(known):
            return None  # other data, in which another axis happens to have this size
        if len(shape) > len(known) and prod(shape) != prod(known):
            return None  # more axes and other data: attention weights, not the same channels again
        return axis


def is_sequence_first(module: nn.Module) -> bool:
    """Tell whether a module declares that its samples are counted in axis 1."""
    return getattr(module, "batch_first", None) is False


def declared_batch_axis(module: nn.Module) -> int | None:
    """Return the axis in which `module` itself says that samples are counted, None where it does not say."""
    if isinstance(module, _TRANSFORMERS):
        attention = next((part for part in module.modules() if isinstance(part, nn.MultiheadAttention)), module)
        return 1 if is_sequence_first(attention) else 0
    if isinstance(module, _CHANNELS_IN_AXIS_1):
        return 0
    batch_first = getattr(module, "batch_first", None)
    return None if not isinstance(batch_first, bool) else int(not batch_first)


def find_batch_axis(
    module: nn.Module, tensor: Tensor, num_samples: int | None, memory: LayoutMemory, *, chosen: bool = False
) -> int:
    """Return the axis of `tensor` that counts the samples; one that the user has `chosen` is judged by its shape.

    Raises
    ------
    LayoutError
        If no axis has that size, or two have and nothing tells them apart.
    """
    sizes = tuple(tensor.shape)
    if _is_unbatched(module, tensor.dim()):
        raise LayoutError(f"{type(module).__name__} ran on one sample without a batch axis, {sizes}; add the axis")
    told = declared_batch_axis(module) if tensor.dim() == 3 else None
    if num_samples is None and sizes:
        return told or 0
    if told is not None:
        if sizes[told] == num_samples:
            return told
        error = BatchConflict if sizes[1 - told] == num_samples else LayoutError
        raise error(
            f"{type(module).__name__} counts samples in axis {told} of {sizes}, but the batch is taken to have "
            f"{num_samples}; if the model's input has its samples in axis 1, call expect(num_samples) first"
        )
    if tensor.dim() == 3 and (memory.sequence_first or chosen) and sizes[1] == num_samples:
        if sizes[0] != num_samples:
            return 1
        if not memory.sequence_first:
            return 0
        raise LayoutError(
            f"axes 0 and 1 of {sizes} both have the batch size {num_samples} in a model with batch_first=False; "
            "use another batch size"
        )
    if sizes and sizes[0] == num_samples:
        return 0
    hint = _repeated(sizes, num_samples)
    raise LayoutError(
        f"no axis of {sizes} counts the {num_samples} samples{hint}; tap another layer or pass output= with a "
        "function that puts the samples first"
    )


def find_axes(
    module: nn.Module,
    tensor: Tensor,
    num_samples: int | None,
    memory: LayoutMemory,
    *,
    at_input: bool = False,
    chosen: bool = False,
) -> Axes:
    """Return the axes of a tensor that left (or, `at_input`, enters) a module.

    Raises
    ------
    LayoutError
        If the batch or the channel axis is not certain.
    """
    batch = find_batch_axis(module, tensor, num_samples, memory, chosen=chosen)
    shape = batch_first_shape(tensor, batch)
    if len(shape) <= 2:
        return Axes(batch, len(shape) - 1, FEATURES)
    channel = declared_channel_axis(module, shape)
    if channel is None:
        is_container = not at_input and not is_leaf(module)
        channel = memory.infer(shape, may_rearrange=not at_input and may_rearrange(module), is_container=is_container)
    if channel is None or channel not in (1, len(shape) - 1):
        raise LayoutError(
            f"the channel axis of {shape} after {type(module).__name__} is not certain; pass pool='flatten' or a "
            "function, or tap the convolution, normalisation or linear layer before it"
        )
    return Axes(batch, channel, _layout(len(shape), channel))


def batch_first_shape(tensor: Tensor, batch_axis: int) -> tuple[int, ...]:
    """Return the shape with the batch axis moved to the front."""
    sizes = tuple(tensor.shape)
    return sizes if batch_axis == 0 else (sizes[batch_axis], *sizes[:batch_axis], *sizes[batch_axis + 1 :])


def declared_channel_axis(module: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Return the axis in which `module` itself puts its channels, None where it does not say."""
    if isinstance(module, _CHANNELS_IN_AXIS_1):
        return 1
    if isinstance(module, _CHANNELS_LAST) or is_linear(module):
        return len(shape) - 1
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and _is_exact_norm(module):
        return len(shape) - 1
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return 1
    if is_leaf(module) and not isinstance(module, _ELEMENTWISE):
        sizes = _parameter_sizes(module)
        return _only_axis(shape, sizes.pop()) if len(sizes) == 1 else None
    return None


def _is_exact_norm(module: nn.LayerNorm | nn.RMSNorm) -> bool:
    """Whether a normalisation over the last axis is torch's own; subclasses may permute the axes inside."""
    return type(module) in _SIZED_NORMS and len(module.normalized_shape) == 1


def may_rearrange(module: nn.Module) -> bool:
    """Tell whether a module may be a permutation of axes: a leaf of unknown kind with nothing learned."""
    if isinstance(module, (*_ELEMENTWISE, *_SIZED_NORMS)):
        return False
    return is_leaf(module) and not _parameter_sizes(module)


def _is_unbatched(module: nn.Module, num_axes: int) -> bool:
    """Whether a layer that also accepts a single sample was given one."""
    if isinstance(module, conv._ConvNd):
        return num_axes != module.weight.dim()  # (out, in, *kernel)
    return isinstance(module, nn.RNNBase | nn.MultiheadAttention) and num_axes == 2


def _parameter_sizes(module: nn.Module) -> set[int]:
    """Lengths of the vectors (one number a channel) among a module's own parameters and buffers."""
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return {value.shape[0] for value in own if value.dim() == 1 and value.shape[0] > 1}


def _only_axis(shape: tuple[int, ...], size: int) -> int | None:
    """The one axis after the first that has this size, None if there is none or more than one."""
    axes = [axis for axis in range(1, len(shape)) if shape[axis] == size]
    return axes[0] if len(axes) == 1 else None


def _layout(num_axes: int, channel: int) -> str:
    """The name of a layout with at least three axes."""
    if channel == 1:
        return CHANNELS_FIRST
    return TOKENS if num_axes == 3 else CHANNELS_LAST


def _repeated(sizes: tuple[int, ...], num_samples: int | None) -> str:
    """A note on windows: several rows per sample in the first axis."""
    if sizes and num_samples and sizes[0] > num_samples and sizes[0] % num_samples == 0:
        return f" (axis 0 holds {sizes[0] // num_samples} rows per sample, as windows do)"
    return ""

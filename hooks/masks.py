"""Which positions are real: padding masks, found in the model's arguments or given, and fitted to a layer."""

import inspect
import warnings
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from neurocollapse.hooks.errors import CaptureError, CaptureWarning, LayoutError
from neurocollapse.hooks.outputs import first_tensor
from neurocollapse.support.checks import shown
from neurocollapse.support.text import listed
from neurocollapse.support.transfer import on_cpu, sent

NAME = "attention_mask"
"""What models call the mask of their input; that of a decoder's own input has `decoder_` in front."""
_ENCODER, _DECODER = "encoder", "decoder"
NAMES = (NAME, f"{_DECODER}_{NAME}")
"""Those of the input, and of the decoder's own input."""


class MaskError(CaptureError, ValueError):
    """A mask that cannot be read as one true or false a position."""


class Positions(NamedTuple):
    """The positions of an activation that have become rows of features.

    Attributes
    ----------
    shape : tuple of int
        Positions of one sample; () where there is one row per sample.
    mask : Tensor of shape (samples, *shape), bool, or None
        Which of them are real: only these have rows; on the CPU. None for all.
    """

    shape: tuple[int, ...] = ()
    mask: Tensor | None = None

    @property
    def number(self) -> int:
        """Positions of one sample."""
        return torch.Size(self.shape).numel()


class Masks(NamedTuple):
    """The masks of one forward pass: that of the input, and that of the decoder where it has an input of its own.

    Attributes
    ----------
    first, decoder : Tensor of shape (samples, positions, …), bool, on the CPU, or None
        None where every position is real.
    two : bool
        Whether the decoder has an input of its own.
    """

    first: Tensor | None = None
    decoder: Tensor | None = None
    two: bool = False

    def of(self, path: str, module: nn.Module) -> Tensor | None:
        """The mask for a module, by its dotted path.

        Raises
        ------
        LayoutError
            If encoder and decoder share it, as they do embeddings, and either has a mask.
        """
        if not self.two or _ENCODER in path.split("."):
            return self.first
        shared = isinstance(module, nn.Embedding) and _DECODER not in path.split(".")
        if shared and not (self.first is None and self.decoder is None):
            raise LayoutError("encoder and decoder share this embedding, so that it is not known which mask applies")
        return self.decoder


class Forward(NamedTuple):
    """What is known of a forward pass before it ends.

    Attributes
    ----------
    num_samples : int or None
        Samples in the batch; None where nothing tells.
    announced : bool
        Whether the caller has told that number.
    masks : Masks or None
        None until the model's arguments are seen.
    labelled : tuple of int, or None
        Positions of a sample that have labels of their own; None where there is one label a sample.
    """

    num_samples: int | None = None
    announced: bool = False
    masks: Masks | None = None
    labelled: tuple[int, ...] | None = None

    @property
    def is_unmasked(self) -> bool:
        """Whether every position of every layer is real."""
        return self.masks is None or (self.masks.first is None and self.masks.decoder is None)

    def mask(self, path: str, module: nn.Module) -> Tensor | None:
        """The mask for a module, by its dotted path."""
        return None if self.masks is None else self.masks.of(path, module)

    def labelled_at(self, path: str) -> tuple[int, ...] | None:
        """The positions that labels are given for, where a module may have them: those of the decoder, if it has own.

        Raises
        ------
        LayoutError
            If the module belongs to the encoder then.
        """
        if self.labelled and self.masks is not None and self.masks.two and _ENCODER in path.split("."):
            raise LayoutError("labels are given for the decoder's positions, and this layer has the encoder's")
        return self.labelled


def begun(
    announced: Forward,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    name: str | Literal[False] | None,
) -> Forward:
    """What is known of a forward pass with these arguments; its mask is looked for unless it is told, or unwanted."""
    forward = announced
    if not announced.announced:
        tensor = first_tensor((args, kwargs))
        forward = Forward(num_samples=None if tensor is None else tensor.shape[0])
    if forward.masks is None and name is not False:
        forward = forward._replace(masks=find_masks(model, args, kwargs, forward.num_samples, name))
    return forward


def checked_name(mask: Any) -> str | Literal[False] | None:
    """What `mask` may be, raising for anything else."""
    if mask is None or mask is False or isinstance(mask, str):
        return mask
    raise TypeError(f"`mask` must be the name of an argument, False or None, got {type(mask).__name__}")


def find_masks(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    num_samples: int | None,
    name: str | None = None,
    *,
    strict: bool = False,
) -> Masks:
    """The masks among the arguments of a forward pass: that of this name, or those that models of Hugging Face take.

    The latter may have axes of one between samples and positions, and be added to scores: 0 for real positions, and a
    large negative number for padding. Of other forms, such as a mask for pairs of positions, padding cannot be told:
    all positions are then taken as real, with a warning, or, if `strict`, they are refused.

    Raises
    ------
    MaskError
        If a mask has numbers other than zero and one, or masks all of a sample.
    """
    alone = name is None and len(args) == 1 and not kwargs and isinstance(args[0], Tensor)  # no mask is with it
    has_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    if alone:
        return Masks(two=has_decoder)
    given = _by_name(model, args, kwargs)
    if name is not None:
        if given.get(name) is None:
            raise MaskError(f"`mask` names {shown(name)}, which the model is not given; it has {listed(given, most=6)}")
        return Masks(as_mask(given[name], num_samples, f"`mask` ({shown(name)})"))
    inputs = (f"{_DECODER}_input_ids", f"{_DECODER}_{NAME}")
    two = has_decoder or any(given.get(name) is not None for name in inputs)
    first, decoder = (_plain(given.get(name), num_samples, name, strict=strict) for name in NAMES)
    return Masks(
        None if first is None else as_mask(first, num_samples, f"`{NAME}`"),
        None if decoder is None else as_mask(decoder, num_samples, f"`{_DECODER}_{NAME}`"),
        two,
    )


def as_mask(value: Any, num_samples: int | None, name: str) -> Tensor | None:
    """A mask as a bool tensor of shape (samples, positions, …) on the CPU; None where nothing is masked.

    Examples
    --------
    >>> as_mask(torch.tensor([[1, 1, 0], [1, 0, 0]]), 2, "`mask`").sum(dim=1).tolist()
    [2, 1]
    """
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(value, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise MaskError(f"{name} must be a tensor (samples, positions), got {type(value).__name__}") from None
    if value.dim() < 2 or (num_samples is not None and len(value) != num_samples):
        samples = "samples" if num_samples is None else num_samples
        raise MaskError(f"{name} must have shape ({samples}, positions, …), got {tuple(value.shape)}")
    value = on_cpu(value).detach()
    mask = value.bool()
    if value.dtype != torch.bool and bool((value != mask.to(value.dtype)).any()):
        raise MaskError(f"{name} must hold 1 for real positions and 0 for padding, got {value.dtype} of other numbers")
    if bool(mask.all()):
        return None
    empty = (~mask.flatten(1).any(dim=1)).nonzero().flatten()
    if len(empty):
        raise MaskError(f"{name} leaves nothing of sample {int(empty[0])} of the batch; leave such samples out")
    return mask


def check_fits(mask: Tensor, shape: tuple[int, ...]) -> None:
    """Raise unless a mask is for a layer whose samples have positions of this shape.

    Raises
    ------
    LayoutError
        If the mask is of other positions: pooled, strided or with special ones among them.
    """
    if tuple(mask.shape[1:]) != shape:
        raise LayoutError(
            f"the mask has shape {tuple(mask.shape)}, but this layer's positions are {shape} per sample; leave the "
            "layer out, or pool it with a function of (activation, mask)"
        )


def placed(mask: Tensor, device: torch.device) -> Tensor:
    """A mask on a device, copied there once for all layers."""
    return mask if mask.device == device else _made(mask, device, "mask")  # a mask that held itself would stay for ever


def real_positions(mask: Tensor, device: torch.device) -> Tensor:
    """The places of real positions, sample after sample, shape (real positions,): found once, where the mask is."""
    return _made(mask, device, "places")


def _made(mask: Tensor, device: torch.device, what: Literal["mask", "places"]) -> Tensor:
    """What was made of a mask before, as long as there is the mask."""
    made = _MADE.setdefault(mask, {})
    if (device, what) not in made:
        values = mask if what == "mask" else mask.flatten().nonzero().flatten()
        made[device, what] = sent(values, device) if values.device.type == "cpu" else values.to(device)
    return made[device, what]


_MADE: MutableMapping[Tensor, dict[tuple[torch.device, str], Tensor]] = WeakTensorKeyDictionary()


def _by_name(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a forward pass by name, also of one mapping that holds them all."""
    given: dict[str, Any] = dict(args[0]) if len(args) == 1 and isinstance(args[0], Mapping) else {}
    if args and not given:
        try:
            given = dict(inspect.signature(model.forward).bind_partial(*args).arguments)
        except (TypeError, ValueError):
            given = {}
    return {**given, **kwargs}


def _plain(value: Any, num_samples: int | None, name: str, *, strict: bool) -> Tensor | None:
    """A mask that a model is given, as (samples, positions); None where there is none, or it is of another form."""
    if not isinstance(value, Tensor):
        return None
    axes = (0, *(axis for axis in range(1, value.dim() - 1) if value.shape[axis] != 1), value.dim() - 1)
    if value.dim() >= 2 and len(axes) == 2 and num_samples in (None, len(value)):
        mask = on_cpu(value).reshape(len(value), value.shape[-1])
        is_added = mask.is_floating_point() and bool((mask <= 0).all()) and (value.dim() > 2 or bool((mask < -1).any()))
        return mask == 0 if is_added else mask
    if bool((on_cpu(value) == 1).all()):
        return None
    samples = "samples" if num_samples is None else num_samples
    problem = (
        f"`{name}` has shape {tuple(value.shape)}, from which padding cannot be told as from ({samples}, positions); "
        "pass mask= or mask_fn=, or mask=False to count all positions"
    )
    if strict:
        raise MaskError(problem)
    warnings.warn(f"{problem}; all are counted", CaptureWarning, stacklevel=2)
    return None


def check_labelled(own: tuple[int, ...], labelled: tuple[int, ...]) -> None:
    """Raise unless labels of these positions can be brought to the positions of a layer.

    Maps are brought to a finer or coarser one whose sides are whole multiples; sequences must be the same.

    Raises
    ------
    LayoutError
        If they cannot.
    """
    if own == labelled:
        return
    if torch.Size(own).numel() == 1:
        raise LayoutError(f"labels are given for positions {labelled}, but this layer has one row per sample")
    finer = len(own) == len(labelled) and all(a % b == 0 for a, b in zip(own, labelled, strict=True))
    coarser = len(own) == len(labelled) and all(b % a == 0 for a, b in zip(own, labelled, strict=True))
    if len(own) < 2 or not (finer or coarser):
        raise LayoutError(
            f"labels are given for positions {labelled}, but this layer has {own}; maps must be whole multiples of one "
            "another, sequences the same"
        )

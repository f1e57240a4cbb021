"""How a pass runs the model: the options that every pass takes, checked once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import torch
from torch import distributed as dist
from torch import nn

from neurocollapse.data.labels import IGNORED
from neurocollapse.hooks import Calls
from neurocollapse.hooks.offload import execution_device
from neurocollapse.support.checks import file_path, flag, integer, shown
from neurocollapse.support.choices import check_choice
from neurocollapse.support.names import did_you_mean
from neurocollapse.support.quiet import Mode


def refuse_unknown(function: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise for an option that a function does not have, with the nearest ones that it has."""
    names = [name for name in dict.fromkeys(known) if name != "options"]
    for name in options:
        if name not in names:
            hint = did_you_mean(name, names, otherwise="see help(nc.collect)")
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


@dataclass(frozen=True, kw_only=True)
class PassOptions:
    """How a pass runs the model, and what it takes of it; see `neurocollapse.collect` for each option.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        If an option cannot be used; those of single layers are checked with the model.
    """

    layers: Any = "leaves"
    pool: Any = "auto"
    num_classes: int | None = None
    device: torch.device | str | None = None
    mode: Mode = "eval"
    progress: bool = True
    resume: str | PathLike[str] | None = None
    calls: Calls = "all"
    output: Any = None
    label_fn: Callable[[Any], Any] | None = None
    include_input: bool = False
    distributed: bool | Literal["shard"] = False
    mask: str | Literal[False] | None = None
    mask_fn: Callable[[Any], Any] | None = None
    ignore_index: int = IGNORED
    classes: int | Sequence[int] | None = None
    halt: bool = False

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, Mode)
        if isinstance(self.distributed, str) and self.distributed != "shard":
            raise ValueError(f'`distributed` must be True, False or "shard", got {shown(self.distributed)}')
        for name in ("progress", "include_input", "halt", *(() if self.distributed == "shard" else ("distributed",))):
            object.__setattr__(self, name, flag(name, getattr(self, name)))
        if self.resume is not None:
            file_path("resume", self.resume)
        if self.label_fn is not None and not callable(self.label_fn):
            found = type(self.label_fn).__name__
            raise TypeError(f"`label_fn` must be a function from a batch to its labels, got {found}")
        if self.mask is not None and self.mask is not False and not isinstance(self.mask, str):
            raise TypeError(f"`mask` must name a part of the batch, or be False, got {type(self.mask).__name__}")
        if self.mask_fn is not None and (not callable(self.mask_fn) or self.mask is not None):
            problem = "leave out `mask` beside it" if callable(self.mask_fn) else f"got {type(self.mask_fn).__name__}"
            raise TypeError(f"`mask_fn` must be a function from a batch to its mask; {problem}")
        object.__setattr__(self, "ignore_index", integer("ignore_index", self.ignore_index))
        if self.distributed and not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError("`distributed` needs torch.distributed; call init_process_group or start with torchrun")
        if self.classes is not None and self.num_classes is not None:
            raise ValueError("`classes` says how many classes there are; leave out `num_classes` beside it")
        if self.num_classes is not None:
            object.__setattr__(self, "num_classes", integer("num_classes", self.num_classes, least=1))

    def rank_path(self) -> str | PathLike[str] | None:
        """The resume file of this process: each rank has its own."""
        return f"{self.resume}.rank{dist.get_rank()}" if self.resume is not None and self.distributed else self.resume

    def device_of(self, model: nn.Module) -> torch.device:
        """Where inputs go: the requested device, which must be where the model is, or the model's own."""
        first = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
        own = torch.device("cpu") if first is None else execution_device(model) or first.device
        if own.type == "meta":
            raise ValueError(
                f"{type(model).__name__} is on the meta device, which keeps no numbers; load its weights, with "
                "model.to_empty(device=…) and load_state_dict, say"
            )
        if self.device is None:
            return own
        try:
            device = torch.device(self.device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f'`device` must name a device such as "cpu" or "cuda:0", got {shown(self.device)}'
            ) from error
        if first is not None and (device.type != own.type or device.index not in (None, own.index)):
            raise ValueError(f"`device` is {device}, but the model is on {own}; call model.to({str(device)!r}) first")
        return device

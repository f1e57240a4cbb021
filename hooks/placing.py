"""Where hooks go: on the root, around all else, and on the tapped modules."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from neurocollapse.hooks.halt import Halt
from neurocollapse.hooks.handlers import (
    AbortHook,
    EndHook,
    EnterHook,
    HintHook,
    InputHook,
    OutputHook,
    StartHook,
    place,
)
from neurocollapse.hooks.select import Tap
from neurocollapse.hooks.sites import Sites
from neurocollapse.support.undo import Undo


def place_hooks(
    engine: Any, root: nn.Module, taps: tuple[Tap, ...], layers: Sites, halt: Halt | None, undo: Undo, hints: Undo
) -> None:
    """Place the hooks of an engine; with `hints` go those that the first forward pass alone needed."""
    if halt is not None:
        halt.place(undo)
    place(StartHook(engine), root, undo, before=True, with_kwargs=True)
    placed: dict[int, Undo] = {}
    for index, tap in enumerate(taps):
        if layers.is_gone(index):
            continue
        own = placed[index] = Undo()
        undo.add(own.close)
        if tap.at_input:
            place(InputHook(engine, index), tap.module, own, before=True, with_kwargs=True)
        else:
            place(OutputHook(engine, index), tap.module, own)
    if not layers.is_settled:
        undo.add(hints.close)
        undo.add(layers.fixed.stop)
        hints.add(_take_off_gone, layers, placed)
        for index in layers.proposed.containers:
            place(EnterHook(engine), taps[index].module, hints, before=True)
        tapped = {id(tap.module) for tap in taps if not tap.at_input}
        for module in layers.modules.values():
            if id(module) not in tapped and not isinstance(module, torch.jit.ScriptModule):
                place(HintHook(engine), module, hints)
    place(EndHook(engine), root, undo)
    place(AbortHook(engine), root, undo, always_call=True)


def _take_off_gone(layers: Sites, placed: Mapping[int, Undo]) -> None:
    """Remove the hooks of taps that have turned out to give nothing: each costs its module the short way of a call."""
    for index, hooks in placed.items():
        if layers.is_gone(index):
            hooks.close()

"""Why a module did not fire, and models in which hooks cannot fire."""

from collections.abc import Mapping

import torch
from torch import nn

from neurocollapse.hooks.errors import CallCountError, CaptureError
from neurocollapse.hooks.plan import Plan, SiteKey, Skip
from neurocollapse.hooks.presets import can_be_called
from neurocollapse.hooks.select import Tap
from neurocollapse.hooks.wrappers import is_compiled, named_modules


def refuse_script_modules(model: nn.Module, taps: tuple[Tap, ...] = ()) -> None:
    """Raise if the model, or a tapped part of it, runs in the TorchScript interpreter."""
    for name, module in (("the model", model), *((f"{tap.name!r}", tap.module) for tap in taps)):
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                f"{name} is a TorchScript module, in which forward hooks do not fire; load the eager model instead"
            )


def refuse_missing(
    taps: tuple[Tap, ...], plans: Mapping[SiteKey, Plan | Skip], gone: Mapping[int, CaptureError]
) -> None:
    """Raise for explicit taps that are gone, as one that never fired is, and for selectors of which nothing is left."""
    for index, error in gone.items():
        if taps[index].explicit:
            raise type(error)(f"layer {taps[index].name!r}: {error}")
    delivered = {key.tap for key, plan in plans.items() if isinstance(plan, Plan)}
    alive = {selector for index in delivered for selector in taps[index].selectors}
    reasons: dict[int, CaptureError] = {key.tap: plan.error for key, plan in plans.items() if isinstance(plan, Skip)}
    for index, reason in (reasons | dict(gone)).items():
        for selector in taps[index].selectors:
            if selector not in alive:
                raise type(reason)(f"every match of {selector} is left out, such as {taps[index].name!r}: {reason}")


def changed_count(tap: Tap, expected: int, count: int) -> CallCountError:
    """The error of a module that is called a different number of times than in the first forward pass."""
    return CallCountError(
        f"called {_times(expected)} in the first forward pass, now {_times(count)}; features of such a layer do not "
        f"compare between batches, leave it out with '!{tap.name}'"
    )


def _times(count: int) -> str:
    """A count in words."""
    return "once" if count == 1 else f"{count} times"


def made_late(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """The outermost modules that a forward pass has made, which `modules` lacks, and why they were not measured."""
    known = {id(module) for module in modules.values()}
    late: dict[str, str] = {}
    for path, module in named_modules(model):
        if id(module) not in known and not any(path.startswith(f"{other}.") for other in late):
            late[path] = "made in the first forward pass, too late to be measured; call the model once before"
    return late


def why_silent(model: nn.Module, modules: dict[str, nn.Module], tap: Tap) -> str:
    """Return the likely reason why a tapped module was never called."""
    if isinstance(model, torch.fx.GraphModule) and tap.path:
        return (
            "the model is a graph that calls no such layer, as torch.export makes it; capture the model that was "
            "exported, or what torch.export.unflatten gives"
        )
    if not can_be_called(tap.module):
        return f"a {type(tap.module).__name__} is never called, select its items with '{tap.path}.*'"
    parents = [modules[path] for path in _parents(tap.path) if path in modules]
    if parents and isinstance(parents[-1], nn.MultiheadAttention):
        return "MultiheadAttention uses the weights of out_proj without calling it, select the attention module"
    if any(isinstance(parent, nn.TransformerEncoderLayer) for parent in parents):
        return "nn.TransformerEncoderLayer may have taken its fused fast path, select the encoder layer"
    if not tap.path:
        return f"{type(model).__name__} has a __call__ of its own, which passes by the hooks; select the layers inside"
    if is_compiled(model):
        return "torch.compile may run it inside a compiled graph, capture the model before compiling it"
    return f"the forward pass of {type(model).__name__} does not call it with these inputs"


def _parents(path: str) -> list[str]:
    """The paths above `path`, outermost first."""
    keys = path.split(".")
    return [".".join(keys[:length]) for length in range(len(keys))]

"""Layers chosen for their weights, not for their activations: by the same names, globs, types and presets."""

from collections.abc import Callable
from typing import Any

from torch import nn

from neurocollapse.hooks.errors import NoMatchError
from neurocollapse.hooks.select import ROOT, Tap, select
from neurocollapse.hooks.wrappers import named_modules
from neurocollapse.support.names import did_you_mean
from neurocollapse.support.text import listed


def choose(
    model: nn.Module, layers: Any, *, fits: Callable[[nn.Module], bool], kind: str = "linear layer"
) -> dict[str, nn.Module]:
    """Return the modules that `layers` chooses among those that fit, in definition order.

    Parameters
    ----------
    model : torch.nn.Module
        The model; its wrappers are looked through and do not appear in names.
    layers
        Names, globs, presets, regular expressions, types, modules, predicates, a list of these or a dict from aliases,
        as `select` takes them. Of what a preset, glob, pattern, type or predicate matches, those that fit are taken;
        what is named must fit. A weight has no input, so that "@in" and "penultimate" are refused.
    fits : callable
        Which modules can be meant.
    kind : str, default "linear layer"
        What these are called in errors.

    Returns
    -------
    dict of str to torch.nn.Module
        By name, or by the user's alias; a module that is used in several places once.

    Raises
    ------
    NoMatchError
        If a selector matches nothing that fits; the message holds the nearest names.
    TypeError
        If `layers` holds something that is no selector.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> list(choose(model, ["**", "!2"], fits=lambda module: isinstance(module, nn.Linear)))
    ['0']
    """
    taps = select(model, layers)
    fitting = {id(tap.module) for tap in taps if fits(tap.module)}
    alive = {selector for tap in taps if id(tap.module) in fitting for selector in tap.selectors}
    for tap in taps:
        if tap.at_input:
            raise NoMatchError(
                f"`layers` = {tap.selectors[0]} is the input of {tap.path!r}, which has no weight; "
                f"name the {kind} itself"
            )
        if id(tap.module) not in fitting and (tap.explicit or not alive.issuperset(tap.selectors)):
            raise NoMatchError(_misfit(model, tap, taps, alive, fits, kind))
    return {tap.name: tap.module for tap in taps if id(tap.module) in fitting}


def _misfit(
    model: nn.Module, tap: Tap, taps: tuple[Tap, ...], alive: set[str], fits: Callable[[nn.Module], bool], kind: str
) -> str:
    """The message for what matches modules, of which none fits."""
    known = [path or ROOT for path, module in named_modules(model) if fits(module)]
    if tap.explicit:
        inside = [path for path in known if not tap.path or path.startswith(f"{tap.path}.")]
        hint = f"; inside are {listed(inside)}" if inside else _nearest(tap.path, known)
        return f"`layers` names {tap.name!r}, a {type(tap.module).__name__} and no {kind}{hint}"
    selector = next(selector for selector in tap.selectors if selector not in alive)
    came = sorted({type(other.module).__name__ for other in taps if selector in other.selectors})
    return f"`layers` = {selector} matches no {kind}, only {listed(came)}{_nearest('', known)}"


def _nearest(path: str, known: list[str]) -> str:
    """The end of a message: names that come near, or the first there are."""
    return did_you_mean(path, known, otherwise=f"there are {listed(known)}" if known else "the model has none")

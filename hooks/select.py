"""Which modules of a model are tapped: names, globs, regular expressions, types, predicates and presets."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from neurocollapse.hooks.errors import CaptureError, NoMatchError
from neurocollapse.hooks.linear import inside_linear
from neurocollapse.hooks.presets import PRESETS, can_be_called, is_leaf
from neurocollapse.hooks.wrappers import all_names, children, named_modules, unwrap
from neurocollapse.support.checks import shown
from neurocollapse.support.names import did_you_mean, glob, is_glob
from neurocollapse.support.text import visible

__all__ = ["ROOT", "Tap", "named_modules", "select", "unwrap"]

ROOT = "(root)"
"""The name under which the model as a whole is selected and shown."""

_INPUT = "@in"
LEAF, LAST, OUTPUT = "leaf", "last", "output"
"""On what a proposed tap depends: that nothing inside the module fires, that it is the last linear layer to fire, that
the model's output is not a linear layer's."""


@dataclass(frozen=True)
class Tap:
    """One place where features leave a model: the output, or the input, of one module.

    Attributes
    ----------
    name
        The name shown to the user: the path, with "@in" for an input, or the user's alias.
    path
        The module's dotted path in the model without its wrappers.
    module
        The module.
    at_input
        Whether the module's input is meant instead of its output.
    explicit
        Whether the module was chosen itself (by name or as an object) rather than swept up by a preset, a glob, a
        regular expression, a type or a predicate. What an explicit tap cannot deliver is an error.
    selectors
        The selectors, as text, that chose it.
    when
        On what it depends in the first forward pass whether the tap is kept; empty for one that is chosen for good. Any
        one of several is enough.
    """

    name: str
    path: str
    module: nn.Module
    at_input: bool = False
    explicit: bool = False
    selectors: tuple[str, ...] = ()
    when: frozenset[str] = frozenset()


def select(model: nn.Module, layers: Any, *, proposals: bool = False) -> tuple[Tap, ...]:
    """Return the taps that `layers` chooses in `model`, in definition order of their modules.

    Parameters
    ----------
    model : torch.nn.Module
        The model; wrappers such as DistributedDataParallel are looked through and do not appear in names.
    layers
        One of, or a list of:

        * a preset: "leaves" (modules inside which nothing fires, or which have a weight or bias beside what does),
          "blocks" (the repeated parts: the outermost non-leaf items of a Sequential or ModuleList), "linear" (see
          `is_linear`), "penultimate" (the input of the last linear layer to fire; the model's output where that comes
          from something else). A preset wins over a module of the same name; select such a module as an object,
          ``model.blocks``.
        * a dotted name, or "(root)" for the model as a whole.
        * a glob: ``*`` inside one dotted segment, ``**`` across segments, ``?`` and ``[...]`` one character.
        * a compiled regular expression, which must match the whole name.
        * a module type, a module of the model, or a predicate ``f(name, module)``.
        * a dict from an alias to any of these; where several modules match, they are called "alias:name".
        * a `Tap`, as this function returns them.

        A string ending in "@in" taps the input of what it names. A string starting with "!" takes away what it
        names from all the others; alone, it takes from "leaves". Only an exact name or the module itself selects
        the whole model, or containers that are never called, such as a ModuleList. A shared module is found under
        each of its names; unless you name it yourself, it is shown under the first.
    proposals : bool, default False
        What fires is known only when the model runs. Without it, "leaves" are the modules with nothing inside that can
        be called, and "penultimate" is the last linear layer in definition order. With it, every tap is returned that
        may turn out to be meant, with its condition in `Tap.when`; a `Recorder` settles them in its first forward pass.

    Returns
    -------
    tuple of Tap
        Without duplicates; proposals come last.

    Raises
    ------
    NoMatchError
        If any selector matches nothing; the message holds the nearest names.
    TypeError
        If `layers` holds something that is no selector.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [tap.name for tap in select(model, ["linear", "!0", "2@in"])]
    ['2@in', '2']
    """
    modules = dict(named_modules(model))
    items = as_list(layers)
    excluded = [item[1:] for item in items if isinstance(item, str) and item.startswith("!")]
    included = [item for item in items if not (isinstance(item, str) and item.startswith("!"))]
    if excluded and not included:
        included = ["leaves"]
    taken_away = {(tap.path, tap.at_input) for item in excluded for tap in _match(modules, item, proposals)}
    found = [tap for item in included for tap in _match(modules, item, proposals)]
    taps = _merge(tap for tap in found if (tap.path, tap.at_input) not in taken_away)
    if not taps:
        raise NoMatchError(f"`layers` = {shown(layers)} leaves no module of {type(modules['']).__name__}")
    _check_names(taps)
    position = {path: index for index, path in enumerate(modules)}
    return tuple(sorted(taps, key=lambda tap: (bool(tap.when), position[tap.path], not tap.at_input)))


def as_list(layers: Any) -> list[Any]:
    """A list of single selectors from what the user passed."""
    if isinstance(layers, Sequence) and not isinstance(layers, str | nn.Module):
        return list(layers)
    return [layers]


def _match(modules: dict[str, nn.Module], item: Any, proposals: bool) -> list[Tap]:
    """The taps of one selector."""
    if isinstance(item, Mapping):
        return [tap for alias, inner in item.items() for tap in _match_alias(modules, alias, inner, proposals)]
    if isinstance(item, str):
        return _match_text(modules, item, proposals)
    if isinstance(item, Tap):
        return [item]
    if isinstance(item, nn.Module):
        return [_match_module(modules, item)]
    if isinstance(item, re.Pattern):
        return _sweep(modules, lambda name, module: bool(item.fullmatch(name)), f"re.compile({item.pattern!r})")
    if isinstance(item, type) and issubclass(item, nn.Module):
        return _sweep(modules, lambda name, module: isinstance(module, item), item.__name__)
    if callable(item) and not isinstance(item, type):
        return _sweep(modules, item, getattr(item, "__name__", repr(item)))
    raise TypeError(
        "`layers` must hold names, globs, regular expressions, module types, modules or predicates, got "
        f"{shown(item)} of type {type(item).__name__}; pass e.g. 'leaves' or a module's dotted name"
    )


def _match_alias(modules: dict[str, nn.Module], alias: Any, item: Any, proposals: bool) -> list[Tap]:
    """The taps of `item`, renamed to the user's alias."""
    if not isinstance(alias, str) or not alias:
        raise TypeError(f"an alias in `layers` must be a non-empty string, got {shown(alias)}")
    taps = _merge(tap for part in as_list(item) for tap in _match(modules, part, proposals))
    if len(taps) == 1 or all({LAST, OUTPUT} & tap.when for tap in taps):  # of these, one is kept
        return [replace(tap, name=alias) for tap in taps]
    return [replace(tap, name=f"{alias}:{tap.name}") for tap in taps]


def _match_text(modules: dict[str, nn.Module], text: str, proposals: bool) -> list[Tap]:
    """The taps of a preset, a glob or a dotted name, at the input where the text ends in "@in"."""
    if text == "penultimate":
        return _match_penultimate(modules, proposals)
    stem = text.removesuffix(_INPUT)
    if stem in PRESETS:
        taps = _match_preset(modules, stem)
        if stem == "leaves" and proposals and stem == text:
            taps += _containers(modules, repr(stem))
    elif is_glob(stem):
        pattern = _glob(stem)
        taps = _sweep(modules, lambda name, module: bool(pattern.fullmatch(name)), repr(text))
    else:
        taps = [_match_name(modules, stem)]
    return taps if stem == text else [_at_input(tap) for tap in taps]


def _match_penultimate(modules: dict[str, nn.Module], proposals: bool) -> list[Tap]:
    """The input of the last linear layer; as proposals, those of all, and the model's output."""
    if not proposals:
        return [_at_input(tap) for tap in _match_preset(modules, "penultimate")]
    paths = PRESETS["linear"](modules[""])
    taps = [_tap(modules, path, explicit=False, selector="'penultimate'") for path in paths]
    output = _tap(modules, "", explicit=False, selector="'penultimate'")
    return [
        *(replace(_at_input(tap), when=frozenset({LAST})) for tap in taps),
        replace(output, when=frozenset({OUTPUT})),
    ]


def _containers(modules: dict[str, nn.Module], selector: str) -> list[Tap]:
    """The modules that are leaves if nothing inside them fires, which can be told only then."""
    leaves = set(PRESETS["leaves"](modules[""]))
    inside = inside_linear(modules.values())
    return [
        replace(_tap(modules, path, explicit=False, selector=selector), when=frozenset({LEAF}))
        for path, module in modules.items()
        if path not in leaves and can_be_called(module) and not is_leaf(module) and id(module) not in inside
    ]


def _at_input(tap: Tap) -> Tap:
    """The tap at the input of the same module."""
    return replace(tap, name=tap.name + _INPUT, at_input=True)


def _glob(text: str) -> re.Pattern[str]:
    """The pattern of a glob; NoMatchError where it is none."""
    try:
        return glob(text)
    except ValueError as error:
        raise NoMatchError(f"`layers` = {error}") from error


def _match_preset(modules: dict[str, nn.Module], preset: str) -> list[Tap]:
    """The taps of a preset."""
    paths = PRESETS[preset](modules[""])
    if not paths:
        advice = "'leaves' or a name" if preset != "blocks" else "'leaves' or 'linear'"
        raise NoMatchError(f"`layers` = {preset!r} matches no module of {type(modules['']).__name__}; try {advice}")
    known = (path if path in modules else _shared_path(modules, path) for path in paths)
    return [_tap(modules, path, explicit=False, selector=repr(preset)) for path in known if path is not None]


def _match_name(modules: dict[str, nn.Module], name: str) -> Tap:
    """The tap of one exact name, which may be the second name of a shared module."""
    if name in ("", ROOT):
        return _tap(modules, "", explicit=True, selector=repr(ROOT))
    path = name if name in modules else _shared_path(modules, name)
    if path is None:
        hint = did_you_mean(name, modules, otherwise="neurocollapse.layers(model) lists all names")
        raise NoMatchError(f"`layers` names {shown(name)}, which {type(modules['']).__name__} does not have{hint}")
    return replace(_tap(modules, path, explicit=True, selector=repr(name)), name=name)


def _match_module(modules: dict[str, nn.Module], module: nn.Module) -> Tap:
    """The tap of one module given as an object."""
    inner = unwrap(module)
    for path, candidate in modules.items():
        if candidate is inner:
            return _tap(modules, path, explicit=True, selector=repr(path or ROOT))
    raise NoMatchError(f"`layers` holds a {type(module).__name__} that is no part of {type(modules['']).__name__}")


def _sweep(modules: dict[str, nn.Module], wanted: Callable[[str, nn.Module], Any], selector: str) -> list[Tap]:
    """The taps of all callable modules below the root that satisfy a predicate under any of their names."""
    first = {id(module): path for path, module in modules.items()}
    names = [(name, module) for name, module in all_names(modules[""]) if name and can_be_called(module)]
    paths = list(dict.fromkeys(first[id(module)] for name, module in names if wanted(name, module)))
    if not paths:
        hint = did_you_mean(selector.strip("'"), modules)
        raise NoMatchError(
            f"`layers` = {visible(selector, most=60)} matches no module of {type(modules['']).__name__}{hint}"
        )
    return [_tap(modules, path, explicit=False, selector=selector) for path in paths]


def _tap(modules: dict[str, nn.Module], path: str, *, explicit: bool, selector: str) -> Tap:
    """The tap at the output of the module at `path`."""
    return Tap(path or ROOT, path, modules[path], explicit=explicit, selectors=(selector,))


def _shared_path(modules: dict[str, nn.Module], name: str) -> str | None:
    """The first path of a shared module that is asked for by one of its later names."""
    module: nn.Module | None = modules[""]
    for key in name.split("."):
        module = dict(children(module)).get(key) if module is not None else None
    return next((path for path, candidate in modules.items() if candidate is module), None)


def _merge(taps: Iterable[Tap]) -> list[Tap]:
    """One tap a place: explicit if any of its selectors is, under the user's alias if there is one."""
    merged: dict[tuple[str, bool], Tap] = {}
    for tap in taps:
        place = (tap.path, tap.at_input)
        other = merged.setdefault(place, tap)
        if other is not tap:
            default = (tap.path or ROOT) + (_INPUT if tap.at_input else "")
            own = _goes_by_own_name(other) and _goes_by_own_name(tap)  # a shared module has several
            names = [name for name in dict.fromkeys((other.name, tap.name)) if own or name != default] or [default]
            if len(names) > 1:
                shown_names = [shown(name) for name in (default, *names)]
                raise CaptureError("`layers` calls {} both {} and {}; keep one name".format(*shown_names))
            selectors = tuple(dict.fromkeys(other.selectors + tap.selectors))
            explicit = other.explicit or tap.explicit
            when = other.when | tap.when if other.when and tap.when else frozenset()
            merged[place] = replace(tap, name=names[0], explicit=explicit, selectors=selectors, when=when)
    return list(merged.values())


def _goes_by_own_name(tap: Tap) -> bool:
    """Whether the tap is called as the user has named its module, not by an alias."""
    return tap.explicit and repr(tap.name.removesuffix(_INPUT)) in tap.selectors


def _check_names(taps: list[Tap]) -> None:
    """Raise if an alias is the name of another tap."""
    chosen = {tap.name for tap in taps if {LAST, OUTPUT} & tap.when}  # proposals for one layer share its alias
    names = [*chosen, *(tap.name for tap in taps if not {LAST, OUTPUT} & tap.when)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CaptureError(f"`layers` gives the name {shown(twice)} to two layers; choose another alias")

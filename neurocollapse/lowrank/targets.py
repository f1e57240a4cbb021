"""Which linear layers of a model are meant: dotted names and globs, near misses named."""

from collections.abc import Iterable

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from neurocollapse.support.names import did_you_mean, is_glob, matching


def linear_layers(model: nn.Module, layers: str | Iterable[str]) -> dict[str, nn.Linear]:
    """The linear layers that names and globs choose, in definition order, each once under its first name.

    Parameters
    ----------
    model
        Any module.
    layers
        A dotted name or glob, or several: ``*`` stays inside one dotted segment, ``**`` crosses the dots. A name must
        be that of an `nn.Linear`; a glob takes the `nn.Linear` layers among what it matches. ``"**"`` takes them all;
        a model that is itself a linear layer has the name ``""``.

    Raises
    ------
    ValueError
        If a name does not exist or is no plain `nn.Linear`, or a glob matches none; the message names the nearest.
    TypeError
        If `layers` holds something else than text.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> list(linear_layers(model, "*")), list(linear_layers(model, ["2"]))
    (['0', '2'], ['2'])
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    chosen: set[int] = set()
    for selector in [layers] if isinstance(layers, str) else list(layers):
        if not isinstance(selector, str):
            raise TypeError(f"`layers` must hold names or globs, got a {type(selector).__name__}")
        chosen |= {id(module) for module in _match(modules, selector, type(model).__name__)}
    if not chosen:
        raise ValueError("`layers` must name at least one linear layer, got none")
    first = {id(module): name for name, module in reversed(modules.items())}
    return {
        name: module
        for name, module in modules.items()
        if isinstance(module, nn.Linear) and id(module) in chosen and first[id(module)] == name
    }


def _match(modules: dict[str, nn.Module], selector: str, model: str) -> list[nn.Linear]:
    """The linear layers of one name or glob."""
    if selector in modules:
        return [_plain(selector, modules[selector])]
    if not is_glob(selector):
        raise ValueError(f"`layers` names {selector!r}, which {model} does not have{_nearest(selector, modules)}")
    matched = {name: modules[name] for name in matching(selector, modules)}
    found = [module for module in matched.values() if type(module) is nn.Linear]
    if not found:
        came = (
            f"only {', '.join(sorted({type(module).__name__ for module in matched.values()}))}"
            if matched
            else "nothing"
        )
        raise ValueError(
            f"`layers` = {selector!r} matches no nn.Linear of {model}, {came}{_nearest(selector, modules)}"
        )
    return [_plain(name, module) for name, module in matched.items() if type(module) is nn.Linear]


def _plain(name: str, module: nn.Module) -> nn.Linear:
    """The module, if it is an ordinary linear layer with a weight of its own."""
    if parametrize.is_parametrized(module):
        raise ValueError(
            f"`layers` names {name!r}, whose weight is parametrized; "
            "call torch.nn.utils.parametrize.remove_parametrizations before"
        )
    if isinstance(module, nn.Linear) and isinstance(module.weight, UninitializedParameter):
        raise ValueError(f"`layers` names {name!r}, which has no weight yet; run the model once before")
    if type(module) is not nn.Linear:
        raise ValueError(
            f"`layers` names {name!r}, a {type(module).__name__}; only plain nn.Linear layers can be replaced"
        )
    return module


def _nearest(name: str, modules: dict[str, nn.Module]) -> str:
    """A hint at the linear layers whose names come close, or at all of them."""
    names = [known for known, module in modules.items() if type(module) is nn.Linear]
    all_of_them = f"its linear layers are {', '.join(map(repr, names[:5]))}{', …' if len(names) > 5 else ''}"
    return did_you_mean(name, names, otherwise=all_of_them if names else "")

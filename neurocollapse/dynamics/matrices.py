"""The weight matrices of a model: chosen by name, read as out × (everything else), as they are at every moment."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy

from neurocollapse.dynamics.errors import TrackerError
from neurocollapse.hooks import NoMatchError, choose, is_linear, weight_and_bias
from neurocollapse.hooks.linear import inside_linear
from neurocollapse.hooks.select import ROOT, as_list
from neurocollapse.hooks.weights import current
from neurocollapse.hooks.wrappers import named_modules
from neurocollapse.support.checks import shown
from neurocollapse.support.names import did_you_mean, matching

Weights = nn.Module | Sequence[Tensor]
"""A model, or the weights of one, input side first."""


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A matrix that could be tracked.

    Attributes
    ----------
    name
        Name of the module, or of the parameter.
    module
        The module whose weight it is; None for another parameter.
    parts
        The parameters that it is computed from, by which a shared weight is known.
    by_default
        Whether it is tracked unless the caller names others.
    read
        Reads it as a matrix.
    """

    name: str
    module: nn.Module | None
    parts: tuple[object, ...]
    by_default: bool
    read: Callable[[], Tensor]


def named_matrices(model: Weights, layers: Any = None) -> dict[str, Callable[[], Tensor]]:
    """Find weight matrices by name, each as a function that reads it at the time of the call.

    The weight of a linear layer is the one that it computes with, adapters, factors and masks worked in (see
    `neurocollapse.hooks.weight_and_bias`). A weight of more than two axes is read as a matrix of its first axis by all
    others: out × (in · height · width) for a convolution, transposed or not. A weight that modules share appears once,
    under the first name that was asked for; by default, under that of a linear or convolutional layer.

    Parametrised weights are computed in eval mode, and pruned ones from their mask, so that reading changes nothing.

    Parameters
    ----------
    model : torch.nn.Module or sequence of Tensors
        A model, whose wrappers do not appear in names; or tensors, whose matrices are called W_1, W_2, …; its vectors
        (biases) are left out.
    layers
        Modules that have a `weight`, as `neurocollapse.hooks.select` takes them: names, globs, presets, types, …
        Names and globs can also mean parameters such as "attention.in_proj_weight"; of tensors there are only names and
        globs. Default: every linear and convolutional layer.

    Returns
    -------
    dict
        Name → function without arguments, in the model's order.

    Raises
    ------
    ValueError
        If a selector matches no matrix, or there is none, with the nearest name; if a lazy layer has no weight yet.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Linear(8, 2))
    >>> {name: tuple(read().shape) for name, read in named_matrices(model).items()}
    {'0': (8, 75), '2': (2, 8)}
    """
    if not isinstance(model, nn.Module):
        return {name: _reader(model[place]) for name, place in _places(model, layers).items()}
    candidates = _candidates(model)
    chosen = [candidate for candidate in candidates if candidate.by_default]
    if layers is not None:
        chosen = _chosen(model, layers, candidates)
    elif not chosen:
        raise ValueError(f"{type(model).__name__} has no linear or convolutional layer; name parameters with `layers`")
    return {candidate.name: candidate.read for candidate in _once(chosen)}


def matrix_places(weights: Sequence[Tensor], layers: Any = None) -> list[int]:
    """Where in a list the matrices lie that `named_matrices` finds."""
    return list(_places(weights, layers).values())


def as_matrix(weight: Tensor) -> Tensor:
    """First axis by all others."""
    return weight if weight.ndim == 2 else weight.flatten(1)


def _places(weights: Sequence[Tensor], layers: Any) -> dict[str, int]:
    """Name → place of the matrices of a list, W_1 first."""
    if isinstance(weights, Tensor) or not isinstance(weights, Sequence):
        raise TypeError(
            f"`model` must be a module or a list of tensors, got {type(weights).__name__}; hand over the module, or "
            "put the tensors in a list"
        )
    if not all(isinstance(weight, Tensor) for weight in weights) or isinstance(weights, str | bytes):
        raise TypeError(f"`model` must be a module or a list of tensors, got {shown(weights)}")
    matrices = [place for place, weight in enumerate(weights) if weight.ndim >= 2]
    if not matrices:
        raise ValueError("`model` must hold at least one matrix, got none")
    found = {f"W_{index}": place for index, place in enumerate(matrices, start=1)}
    if layers is None:
        return found
    chosen = _selected(as_list(layers), list(found), lambda item: _listed(item, list(found)))
    return {name: place for name, place in found.items() if name in chosen}


def _selected(items: Sequence[Any], default: Iterable[str], names: Callable[[Any], Iterable[str]]) -> set[str]:
    """What all items choose but those with "!" take away; these alone take from the default."""
    taken_away = [item[1:] for item in items if isinstance(item, str) and item.startswith("!")]
    wanted = [item for item in items if not (isinstance(item, str) and item.startswith("!"))]
    chosen = {name for item in wanted for name in names(item)} if wanted else set(default)
    return chosen - {name for item in taken_away for name in names(item)}


def _listed(pattern: Any, names: list[str]) -> list[str]:
    """The matrices of a list that a name or glob means."""
    if not isinstance(pattern, str):
        raise TypeError(f"`layers` of a list of tensors must hold names or globs, got {shown(pattern)}")
    found = matching(pattern, names)
    if not found:
        hint = did_you_mean(pattern, names, otherwise=f"it has {', '.join(names[:6])}")
        raise ValueError(f"`layers` names {shown(pattern)}, which matches no weight matrix of the list{hint}")
    return found


def _candidates(model: nn.Module) -> list[_Candidate]:
    """Every matrix of a model; one that is shared comes once for each module that has it."""
    raw = {id(module): path for path, module in model.named_modules()}
    modules = dict(named_modules(model))
    inside = inside_linear(modules.values())
    found = [
        _Candidate(
            path or ROOT,
            module,
            _parts(module),
            (is_linear(module) or isinstance(module, _ConvNd)) and id(module) not in inside,
            _follow(model, raw[id(module)], path, "weight", _matrix_of),
        )
        for path, module in modules.items()
        if _has_matrix(module)
    ]
    weights = {id(candidate.module._parameters.get("weight")) for candidate in found if candidate.module is not None}
    for path, module in modules.items():
        for key, parameter in module._parameters.items():
            if (
                parameter is not None
                and not is_lazy(parameter)
                and parameter.ndim >= 2
                and id(parameter) not in weights
            ):
                read = _follow(model, raw[id(module)], path, key, partial(_parameter, key=key))
                found.append(_Candidate(f"{path}.{key}".lstrip("."), None, (parameter,), False, read))
    return found


def _has_matrix(module: nn.Module) -> bool:
    """Whether a module has a weight of at least two axes, or will have one."""
    if is_linear(module) or isinstance(module, _ConvNd):
        return True
    try:
        weight = current(module, "weight")
    except AttributeError:
        return False
    return isinstance(weight, Tensor) and not is_lazy(weight) and weight.ndim >= 2


def _parts(module: nn.Module) -> tuple[object, ...]:
    """The parameters of a module but its biases, or the module itself where it keeps its weight otherwise."""
    return tuple(value for name, value in module.named_parameters() if not name.endswith("bias")) or (module,)


def _matrix_of(module: nn.Module) -> Tensor:
    """The weight of a module as a matrix, outputs first."""
    pair = weight_and_bias(module)
    if pair is not None:
        return pair[0]
    weight = current(module, "weight")
    if isinstance(module, _ConvTransposeNd):
        return weight.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)
    return as_matrix(weight)


def _parameter(module: nn.Module, *, key: str) -> Tensor:
    """Another parameter of a module as a matrix."""
    return as_matrix(current(module, key))


def _follow(
    model: nn.Module, raw: str, path: str, attribute: str, read: Callable[[nn.Module], Tensor]
) -> Callable[[], Tensor]:
    """A function that finds a module by name at every call, because it may be swapped, and reads a matrix of it."""
    segments = raw.split(".") if raw else []

    def follow() -> Tensor:
        try:
            module = model
            for segment in segments:  # `get_submodule` would take longer than the copy
                module = module._modules[segment]  # type: ignore[assignment]
            return read(module)
        except (KeyError, AttributeError) as error:
            name = f"{path}.{attribute}".lstrip(".")
            raise TrackerError(f"the model has no {name} any more; use a new tracker for another network") from error

    return follow


def _chosen(model: nn.Module, layers: Any, candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The candidates that `layers` means, in the model's order, under the caller's aliases."""
    of_module = {id(candidate.module): candidate for candidate in candidates if candidate.module is not None}
    parameters = [candidate.name for candidate in candidates if candidate.module is None]
    names: dict[str, str] = {}

    def meant(item: Any) -> list[str]:
        found = matching(item, parameters) if isinstance(item, str) else []
        try:
            modules = choose(model, item, fits=lambda module: id(module) in of_module, kind="weight matrix")
        except NoMatchError:
            if not found:
                raise
            modules = {}
        names.update({of_module[id(module)].name: name for name, module in modules.items()})
        return [*found, *(of_module[id(module)].name for module in modules.values())]

    default = [candidate.name for candidate in candidates if candidate.by_default]
    chosen = _selected(as_list(layers), default, meant)
    if not chosen:
        raise NoMatchError(f"`layers` = {layers!r} leaves no weight matrix of {type(model).__name__}")
    return [replace(one, name=names.get(one.name, one.name)) for one in candidates if one.name in chosen]


def _once(chosen: Iterable[_Candidate]) -> list[_Candidate]:
    """The first of those that share a weight."""
    kept: dict[tuple[int, ...], _Candidate] = {}
    for candidate in chosen:
        if any(isinstance(part, Tensor) and is_lazy(part) for part in candidate.parts):
            raise ValueError(f"{candidate.name} has no weight yet; run one batch through the model first")
        kept.setdefault(tuple(map(id, candidate.parts)), candidate)
    return list(kept.values())


def _reader(weight: Tensor) -> Callable[[], Tensor]:
    """Read a tensor that is updated in place."""
    return lambda: as_matrix(weight)

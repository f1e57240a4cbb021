"""The weight matrices of a model: chosen by name, read as out × (everything else)."""

import sys
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from neurocollapse.names import did_you_mean, matching

Weights = nn.Module | Sequence[Tensor]
"""A model, or the weights of one, input side first."""


def named_matrices(weights: Weights, layers: str | Iterable[str] | None = None) -> dict[str, Callable[[], Tensor]]:
    """Find weight matrices by name, each as a function that reads it at the time of the call.

    A weight of more than two axes is read as a matrix of its first axis by all others: out × (in · height · width) for
    a convolution. The Conv1D of transformers, a dense layer that keeps in × out, is turned. Weights that modules share
    appear once.

    Parameters
    ----------
    weights
        A module; or a sequence of tensors, whose matrices are called W_1, W_2, …; its vectors (biases) are left out.
    layers
        Names or globs (``*`` inside one dotted segment, ``**`` across segments) of modules that have a `weight`, or of
        parameters such as "attention.in_proj_weight"; default: every linear (Conv1D of transformers included) and
        convolutional layer.

    Returns
    -------
    dict
        Name → function without arguments, in the model's order.

    Raises
    ------
    ValueError
        If a name or glob matches no matrix, or there is none; the message holds the nearest name.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Linear(8, 2))
    >>> {name: tuple(read().shape) for name, read in named_matrices(model).items()}
    {'0': (8, 75), '2': (2, 8)}
    """
    patterns = _patterns(layers)
    if not isinstance(weights, nn.Module):
        return {name: _reader(weights[place]) for name, place in _places(weights, patterns).items()}
    candidates = _of_module(weights)
    if patterns is None:
        chosen = [name for name, (default, _) in candidates.items() if default]
        if not chosen:
            raise ValueError(
                f"{type(weights).__name__} has no linear or convolutional layer; name parameters with `layers`"
            )
    else:
        chosen = _matching(patterns, list(candidates), type(weights).__name__)
    return {name: candidates[name][1] for name in chosen}


def matrix_places(weights: Sequence[Tensor], layers: str | Iterable[str] | None = None) -> list[int]:
    """Where in a list the matrices lie that `named_matrices` finds."""
    return list(_places(weights, _patterns(layers)).values())


def keeps_inputs_first(module: nn.Module) -> bool:
    """Tell whether a module is the Conv1D of transformers, a dense layer whose weight is in × out."""
    package = sys.modules.get("transformers.pytorch_utils")  # a model that has one has imported it
    return package is not None and isinstance(module, package.Conv1D)


def as_matrix(weight: Tensor) -> Tensor:
    """First axis by all others."""
    return weight if weight.ndim == 2 else weight.flatten(1)


def _patterns(layers: str | Iterable[str] | None) -> list[str] | None:
    """A list of names and globs."""
    return [layers] if isinstance(layers, str) else None if layers is None else list(layers)


def _places(weights: Sequence[Tensor], patterns: Sequence[str] | None) -> dict[str, int]:
    """Name → place of the matrices of a list, W_1 first."""
    matrices = [place for place, weight in enumerate(weights) if weight.ndim >= 2]
    if not matrices:
        raise ValueError("`model_or_weights` must hold at least one matrix, got none")
    found = {f"W_{index}": place for index, place in enumerate(matrices, start=1)}
    return found if patterns is None else {name: found[name] for name in _matching(patterns, list(found), "the list")}


def _of_module(model: nn.Module) -> dict[str, tuple[bool, Callable[[], Tensor]]]:
    """Every matrix of a model: (whether it is one by default, how to read it)."""
    found: dict[str, tuple[bool, Callable[[], Tensor]]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim >= 2 and id(weight) not in seen:
            seen.add(id(weight))
            by_default = isinstance(module, nn.Linear | _ConvNd) or keeps_inputs_first(module)
            found[path or "weight"] = (by_default, _attribute_of(module, "weight"))
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and id(parameter) not in seen:
            owner, _, attribute = name.rpartition(".")
            found[name] = (False, _attribute_of(model.get_submodule(owner), attribute))
    return found


def _matching(patterns: Sequence[str], names: Sequence[str], owner: str) -> list[str]:
    """The names that a pattern matches, in their own order; every pattern must match one."""
    chosen: set[str] = set()
    for pattern in patterns:
        found = matching(pattern, names)
        if not found:
            hint = did_you_mean(pattern, names, otherwise=f"it has {', '.join(names[:6])}")
            raise ValueError(f"`layers` names {pattern!r}, which matches no weight matrix of {owner}{hint}")
        chosen.update(found)
    return [name for name in names if name in chosen]


def _attribute_of(module: nn.Module, name: str) -> Callable[[], Tensor]:
    """Read a weight anew each time, because a parametrisation computes it."""
    if name == "weight" and keeps_inputs_first(module):
        return lambda: getattr(module, name).T
    return lambda: as_matrix(getattr(module, name))


def _reader(weight: Tensor) -> Callable[[], Tensor]:
    """Read a tensor that is updated in place."""
    return lambda: as_matrix(weight)

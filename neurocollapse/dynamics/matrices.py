"""The weight matrices of a model: chosen by name, read as out × (everything else)."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy

from neurocollapse.dynamics.reading import reader
from neurocollapse.hooks.weights import current
from neurocollapse.support.names import did_you_mean, matching

Weights = nn.Module | Sequence[Tensor]
"""A model, or the weights of one, input side first."""


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A matrix that could be tracked; holding the weight keeps its identity from going to another one.

    Attributes
    ----------
    name
        Of the module, or of the parameter.
    by_default
        Whether it is tracked unless the caller names others.
    weight
        The tensor as it is now.
    read
        Reads it as a matrix.
    """

    name: str
    by_default: bool
    weight: Tensor
    read: Callable[[], Tensor]


def named_matrices(weights: Weights, layers: str | Iterable[str] | None = None) -> dict[str, Callable[[], Tensor]]:
    """Find weight matrices by name, each as a function that reads it at the time of the call.

    A weight of more than two axes is read as a matrix of its first axis by all others: out × (in · height · width) for
    a convolution. What keeps its inputs first is turned to that: transposed convolutions, and the Conv1D of
    transformers. A weight that modules share appears once, under the first name that was asked for; by default, under
    that of a linear or convolutional layer.

    Parametrised weights are computed in eval mode, and pruned ones from their mask, so that reading changes nothing.

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
        If a name or glob matches no matrix, or there is none, with the nearest name; if a lazy layer has no weight yet.

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
        chosen = [candidate for candidate in candidates if candidate.by_default]
        if not chosen:
            raise ValueError(
                f"{type(weights).__name__} has no linear or convolutional layer; name parameters with `layers`"
            )
    else:
        names = _matching(patterns, [candidate.name for candidate in candidates], type(weights).__name__)
        chosen = [candidate for candidate in candidates if candidate.name in names]
    return {candidate.name: candidate.read for candidate in _once(chosen)}


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
    if isinstance(weights, Tensor) or not isinstance(weights, Sequence):
        raise TypeError(
            f"`model_or_weights` must be a module or a list of tensors, got {type(weights).__name__}; hand over the "
            "module, or put the tensors in a list"
        )
    matrices = [place for place, weight in enumerate(weights) if weight.ndim >= 2]
    if not matrices:
        raise ValueError("`model_or_weights` must hold at least one matrix, got none")
    found = {f"W_{index}": place for index, place in enumerate(matrices, start=1)}
    return found if patterns is None else {name: found[name] for name in _matching(patterns, list(found), "the list")}


def _of_module(model: nn.Module) -> list[_Candidate]:
    """Every matrix of a model; one that is shared comes once for each module that has it."""
    found: list[_Candidate] = []
    for path, module in model.named_modules():
        by_default = isinstance(module, nn.Linear | _ConvNd) or keeps_inputs_first(module)
        weight = _weight(module)
        if weight is not None and (by_default if is_lazy(weight) else weight.ndim >= 2):
            read = reader(model, path, "weight", _turn(module))
            found.append(_Candidate(path or "weight", by_default, weight, read))
    seen = {id(candidate.weight) for candidate in found}
    for name, parameter in model.named_parameters():
        if not is_lazy(parameter) and parameter.ndim >= 2 and id(parameter) not in seen:
            path, _, attribute = name.rpartition(".")
            found.append(_Candidate(name, False, parameter, reader(model, path, attribute, as_matrix)))
    return found


def _weight(module: nn.Module) -> Tensor | None:
    """The weight of a module that has one."""
    try:
        weight = current(module, "weight")
    except AttributeError:
        return None
    return weight if isinstance(weight, Tensor) else None


def _turn(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """How the weight of a module becomes a matrix, outputs first."""
    if keeps_inputs_first(module):
        return lambda weight: weight.T
    if isinstance(module, _ConvTransposeNd):
        groups = module.groups
        return lambda weight: weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)
    return as_matrix


def _once(chosen: Iterable[_Candidate]) -> list[_Candidate]:
    """The first of those that share a weight."""
    kept: dict[int, _Candidate] = {}
    for candidate in chosen:
        if is_lazy(candidate.weight):
            raise ValueError(f"{candidate.name} has no weight yet; run one batch through the model first")
        kept.setdefault(id(candidate.weight), candidate)
    return list(kept.values())


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


def _reader(weight: Tensor) -> Callable[[], Tensor]:
    """Read a tensor that is updated in place."""
    return lambda: as_matrix(weight)

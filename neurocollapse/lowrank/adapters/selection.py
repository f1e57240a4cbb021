"""Which layers of a model an adapter can be put on, chosen by names and globs."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from neurocollapse.dynamics.matrices import keeps_inputs_first
from neurocollapse.support.names import did_you_mean, matching

CHILD = "adapter"
"""Name under which an adapter hangs on its layer."""
NUM_NAMED = 3


class AdapterError(ValueError):
    """Adapters that cannot be injected, stored, loaded or merged; the message is one line that says what to do."""


def dense_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name → every Linear of a model, and every Conv1D of transformers, in the order of definition."""
    return {name: module for name, module in model.named_modules() if _is_dense(module)}


def choose(model: nn.Module, layers: str | Sequence[str]) -> dict[str, nn.Module]:
    """The dense layers that names and globs choose, in the order of definition.

    Parameters
    ----------
    layers
        A name as `model.named_modules()` gives it, a glob, or a list of them. In a glob ``*`` stays inside one segment
        of a dotted name and ``**`` crosses the dots: ``encoder.layer.*.attention.self.query``, ``**.query``.

    Raises
    ------
    AdapterError
        If one of them chooses no dense layer; the message holds the nearest names.
    """
    patterns = [layers] if isinstance(layers, str) else list(layers) if isinstance(layers, list | tuple) else []
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"`layers` must be a name or glob, or a non-empty list of them, got {layers!r}")
    known = dense_layers(model)
    if not known:
        raise AdapterError(f"{type(model).__name__} has no Linear layer to adapt")
    chosen: set[str] = set()
    for pattern in patterns:
        found = matching(pattern, known)
        if not found:
            raise AdapterError(_no_match(pattern, known, dict(model.named_modules())))
        chosen.update(found)
    for name in chosen:
        _check_usable(name, known[name])
    return {name: module for name, module in known.items() if name in chosen}


def weight_shape(layer: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a dense layer."""
    rows, columns = weight_of(layer).shape
    return (columns, rows) if keeps_inputs_first(layer) else (rows, columns)


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a dense layer, as the layer keeps it."""
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"the weight of a {type(layer).__name__} must be a tensor, got a {type(weight).__name__}")
    return weight


def few(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more


def _is_dense(module: nn.Module) -> bool:
    """Tell whether a module is a Linear, or a Conv1D of transformers."""
    return isinstance(module, nn.Linear) or keeps_inputs_first(module)


def _no_match(pattern: str, known: dict[str, nn.Module], modules: dict[str, nn.Module]) -> str:
    """The message for a pattern that chooses nothing."""
    if pattern in modules:
        inside = few(name for name in known if name.startswith(f"{pattern}."))
        hint = f"; its dense layers are {inside}" if inside else ""
        return f"`layers` names {pattern!r}, a {type(modules[pattern]).__name__} and no Linear layer{hint}"
    hint = did_you_mean(pattern, known, otherwise=f"there are {few(known)}")
    return f"`layers` = {pattern!r} matches no Linear layer{hint}"


def _check_usable(name: str, layer: nn.Module) -> None:
    """Raise if an adapter on the layer would have no effect or no place."""
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        raise AdapterError(
            f"{name!r} is never called: nn.MultiheadAttention reads its weight directly, and an adapter on it would do "
            "nothing; choose other layers"
        )
    if hasattr(layer, CHILD):
        raise AdapterError(
            f"{name!r}, a {type(layer).__name__}, has an attribute {CHILD!r} of its own, which the adapter would take "
            "the place of; choose other layers"
        )
    if isinstance(layer.weight, nn.UninitializedParameter):
        raise AdapterError(f"{name!r} has no weight yet; run the model once before adapters are injected")
    if not weight_of(layer).is_floating_point():
        raise AdapterError(f"{name!r} holds {weight_of(layer).dtype} weights; adapters need floating-point ones")

"""Which layers of a model an adapter can be put on."""

from typing import Any

from torch import Tensor, nn

from neurocollapse.hooks import NoMatchError, choose, is_linear, weight_and_bias
from neurocollapse.hooks.linear import inside_linear
from neurocollapse.hooks.wrappers import named_modules

CHILD = "adapter"
"""Name under which an adapter hangs on its layer."""


class AdapterError(ValueError):
    """Adapters that cannot be injected, stored, loaded or merged; the message is one line that says what to do."""


def adaptable(model: nn.Module, layers: Any) -> dict[str, nn.Module]:
    """The linear layers that `layers` chooses, by their names without wrappers, in the order of definition.

    Parameters
    ----------
    layers
        As `neurocollapse.hooks.select` takes them. Parts of a linear layer, such as another library's adapters, are not
        meant by globs and types.

    Raises
    ------
    AdapterError
        If a selector chooses no linear layer, or one on which an adapter would have no effect or no place.
    """
    modules = dict(named_modules(model))
    inside = inside_linear(modules.values())
    try:
        found = choose(model, layers, fits=lambda module: is_linear(module) and id(module) not in inside)
    except NoMatchError as error:
        raise AdapterError(str(error)) from error
    chosen = {id(module) for module in found.values()}
    for name, module in modules.items():
        if id(module) in chosen:
            _check_usable(name, module)
    return {name: module for name, module in modules.items() if id(module) in chosen}


def linear_layer(model: nn.Module, name: str, source: str) -> nn.Module:
    """The linear layer of exactly this name, which a file gives."""
    modules = dict(named_modules(model))
    if name not in modules or not is_linear(modules[name]):
        raise AdapterError(f"{source} does not fit: {type(model).__name__} has no linear layer {name!r}")
    _check_usable(name, modules[name])
    return modules[name]


def weight_of(layer: nn.Module) -> Tensor:
    """The weight that a linear layer computes with, (outputs, inputs)."""
    pair = weight_and_bias(layer)
    if pair is None:
        raise AdapterError(f"a {type(layer).__name__} has no weight yet; run the model once before")
    return pair[0]


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
    if weight_and_bias(layer) is None:
        raise AdapterError(f"{name!r} has no weight yet; run the model once before adapters are injected")
    if not weight_of(layer).is_floating_point():
        raise AdapterError(f"{name!r} holds {weight_of(layer).dtype} weights; adapters need floating-point ones")

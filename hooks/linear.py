"""What a linear layer is, and the weight and bias that it computes with."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from neurocollapse.hooks.shards import whole
from neurocollapse.hooks.weights import current
from neurocollapse.support.quiet import in_mode


def is_linear(module: nn.Module) -> bool:
    """Whether a module maps the last axis of its input linearly, with or without a bias.

    These are, known by what they offer rather than by where they come from:

    * `torch.nn.Linear` and its subclasses, parametrised and pruned ones and those on quantised tensors included;
    * the Conv1D of transformers, whose weight is in × out and which has a number of filters `nf`;
    * torch's quantised Linear, whose `weight` is a method;
    * a layer with PEFT's adapters, if the layer inside, which `get_base_layer()` gives, is linear;
    * any module with a method `effective_weight()`.

    However many modules such a layer is composed of, it is one layer.

    Parameters
    ----------
    module : torch.nn.Module
        Any module.

    Examples
    --------
    >>> is_linear(nn.Linear(4, 2)), is_linear(nn.ReLU())
    (True, False)
    """
    return (
        isinstance(module, nn.Linear)
        or is_transposed(module)
        or callable(getattr(module, "effective_weight", None))
        or (callable(getattr(type(module), "weight", None)) and hasattr(module, "in_features"))
        or (_is_adapted(module) and is_linear(module.get_base_layer()))  # type: ignore[operator]  # PEFT's, seen to be callable
    )


def is_transposed(module: nn.Module) -> bool:
    """Tell whether a module is a linear layer that keeps its weight as in × out, known by its number of filters."""
    weight = getattr(module, "weight", None) if isinstance(getattr(module, "nf", None), int) else None
    return isinstance(weight, Tensor) and weight.dim() == 2


def inside_linear(modules: Iterable[nn.Module]) -> set[int]:
    """Return the identities of what lies inside linear layers: parts, such as adapters, that are no layers."""
    return {id(part) for module in modules if is_linear(module) for part in module.modules() if part is not module}


def weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    r"""Return W and b of the map :math:`x \mapsto W x + b` that a linear layer computes in eval mode.

    Parametrisations, masks, adapters and quantisation are worked in, so that W is one matrix however the layer keeps
    it; reading it changes nothing. A module of your own takes part with a method ``effective_weight()`` that returns
    the pair. A change that a hook adds to the layer's output counts if it is a child with a method ``weight_change()``,
    which returns a matrix of shape (outputs, inputs).

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    (Tensor of shape (outputs, inputs), Tensor of shape (outputs,) or None)
        Detached, on the layer's device and in its precision; they may share memory with the layer. None for a module
        that is not linear (see `is_linear`), and for one that has no weight yet, such as a fresh `nn.LazyLinear`.

    Examples
    --------
    >>> weight, bias = weight_and_bias(nn.Linear(4, 2, bias=False))
    >>> weight.shape, bias
    (torch.Size([2, 4]), None)
    """
    own = module._parameters.get("weight")
    plain = own if type(module) is nn.Linear and type(own) is nn.Parameter and not module._modules else None
    if plain is not None and not plain.is_meta:  # trackers read many of them
        own_bias = module._parameters.get("bias")
        return plain.detach(), None if own_bias is None else own_bias.detach()
    if not is_linear(module):
        return None
    with torch.no_grad():
        pair = _of_layer(module)
        if pair is None:
            return None
        weight, bias = pair
        for child in module._modules.values():
            if callable(getattr(child, "weight_change", None)):
                change = child.weight_change()  # type: ignore[union-attr, operator]  # seen to be callable above
                weight = (weight + change).to(torch.promote_types(weight.dtype, torch.float32))
        return weight.detach(), None if bias is None else bias.detach()


def _of_layer(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Weight and bias, without what hooks add."""
    if callable(getattr(module, "effective_weight", None)):
        return module.effective_weight()  # type: ignore[operator]  # seen to be callable above
    if _is_adapted(module):
        return _of_lora(module) or _as_run(module)
    weight, bias = _tensor(module, "weight"), _tensor(module, "bias")
    if weight is None or is_lazy(weight):
        return None
    if is_transposed(module):
        return weight.T, bias
    packed = tuple(weight.shape) != (module.out_features, module.in_features)
    readable = not packed and (weight.is_floating_point() or weight.is_complex())
    return (weight, bias) if readable else _as_run(module)


def _tensor(module: nn.Module, name: str) -> Tensor | None:
    """A tensor of a layer, dequantised; quantised layers have a method that unpacks it."""
    try:
        value: Any = current(module, name)
    except AttributeError:
        return None
    value = whole(value() if callable(value) and not isinstance(value, Tensor) else value)
    if isinstance(value, Tensor) and (value.is_quantized or type(value).dequantize is not Tensor.dequantize):
        return value.dequantize()
    return value if isinstance(value, Tensor) else None


def _is_adapted(module: nn.Module) -> bool:
    """Whether a layer is one of PEFT's around another."""
    return callable(getattr(module, "get_base_layer", None)) and isinstance(
        module._modules.get("base_layer"), nn.Module
    )


def _of_lora(module: Any) -> tuple[Tensor, Tensor | None] | None:
    """Base weight and changes of a plain LoRA layer, merged or not; None for other kinds, in which changes multiply."""
    pair = weight_and_bias(module.base_layer)
    if pair is None or not hasattr(module, "lora_A"):
        return None
    merged = list(module.merged_adapters)
    names, sign = (merged, -1.0) if module.disable_adapters else ([] if merged else module.active_adapters, 1.0)
    weight, bias = pair
    for name in (name for name in names if name in module.lora_A):
        if any(getattr(module, kind, {}).get(name) for kind in ("lora_variant", "use_dora", "lora_bias")):
            return None
        change = module.get_delta_weight(name)
        weight = weight + sign * (change.T if getattr(module, "fan_in_fan_out", False) else change)
    return weight, bias


def _as_run(module: Any) -> tuple[Tensor, Tensor | None]:
    """What a layer gives for zero and for every unit vector; its own hooks are passed by."""
    given = [*module.parameters(), *module.buffers(), torch.empty(0, device="cpu")]
    dtype = next(tensor.dtype for tensor in given if tensor.is_floating_point())
    options = {"device": given[0].device, "dtype": dtype}
    with in_mode(module), torch.autocast(given[0].device.type, enabled=False):
        offset = module.forward(torch.zeros(1, module.in_features, **options))[0]
        weight = (module.forward(torch.eye(module.in_features, **options)) - offset).T
    return weight, offset if bool(offset.any()) else None

"""How the weight of a layer is read: by name, as it is now, and without a change to the layer."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from neurocollapse.dynamics.errors import TrackerError


def reader(model: nn.Module, path: str, attribute: str, turn: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    """A function that finds a layer's tensor by name at every call, because a layer may be swapped, and turns it."""
    segments = path.split(".") if path else []

    def read() -> Tensor:
        try:
            module = model
            for segment in segments:  # `get_submodule` would take longer than the copy
                module = module._modules[segment]  # type: ignore[assignment]
            return turn(current(module, attribute))
        except (KeyError, AttributeError) as error:
            name = f"{path}.{attribute}" if path else attribute
            raise TrackerError(f"the model has no {name} any more; use a new tracker for another network") from error

    return read


def current(module: nn.Module, attribute: str) -> Tensor:
    """A tensor of a module as it is now.

    What a forward pre-hook sets (pruning, the older weight and spectral normalisation) is computed from its parts: the
    attribute itself lags behind by one update.

    Raises
    ------
    AttributeError
        If there is none of that name.
    """
    if attribute in module._parameters:
        return module._parameters[attribute]  # type: ignore[return-value]
    if is_parametrized(module, attribute):
        return _parametrised(module.parametrizations[attribute])  # type: ignore[index, arg-type]
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == attribute:
            return hook.apply_mask(module)
        if isinstance(hook, WeightNorm) and hook.name == attribute:
            return hook.compute_weight(module)
        if isinstance(hook, SpectralNorm) and hook.name == attribute:
            return hook.compute_weight(module, do_power_iteration=False)
    return getattr(module, attribute)


def _parametrised(parametrizations: ParametrizationList) -> Tensor:
    """What the parametrisations compute in eval mode: in train mode, the spectral one moves its buffers."""
    modes = [(module, module.training) for module in parametrizations.modules()]
    try:
        for module, _ in modes:
            module.training = False
        return parametrizations()
    finally:
        for module, mode in modes:
            module.training = mode

"""A module's tensors as the module computes with them now, read without a change to the module."""

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from neurocollapse.hooks.offload import loaded
from neurocollapse.support.quiet import in_mode


def current(module: nn.Module, attribute: str) -> Tensor:
    """Return a tensor of a module as it is now.

    What a forward pre-hook sets (pruning, the older weight and spectral normalisation) is computed from its parts: the
    attribute itself lags behind by one update. A parametrised tensor is the one of eval mode.

    Raises
    ------
    AttributeError
        If there is none of that name.
    ValueError
        If it is on the meta device, and nothing keeps its numbers.
    """
    own = module._parameters.get(attribute)
    if own is not None:
        return loaded(module, attribute, own)
    if attribute in module._parameters:
        return own  # type: ignore[return-value]  # None, as the attribute itself would be
    if is_parametrized(module, attribute):
        # torch types the attribute as any tensor or module; it is a ModuleDict of ParametrizationLists.
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
    with in_mode(parametrizations):
        return parametrizations()

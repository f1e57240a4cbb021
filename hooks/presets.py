"""The selections that have a name: leaves, blocks, linear, penultimate."""

from collections.abc import Callable, Iterator

from torch import nn

from neurocollapse.hooks.linear import is_linear
from neurocollapse.hooks.wrappers import children, named_modules


def leaves(model: nn.Module) -> list[str]:
    """Paths of the modules that are one layer, see `is_leaf`; the model itself where it is."""
    return [path for path, _ in _walk_leaves("", model, set())]


def linear(model: nn.Module) -> list[str]:
    """Paths of the linear layers, see `is_linear`."""
    return [path for path, module in _walk_leaves("", model, set()) if is_linear(module)]


def penultimate(model: nn.Module) -> list[str]:
    """Path of the classifier as far as definition tells: the last linear layer, whose input is meant."""
    return linear(model)[-1:]


def blocks(model: nn.Module) -> list[str]:
    """Paths of the outermost non-leaf items of Sequentials and ModuleLists, looking through bare stages of blocks."""
    return list(dict.fromkeys(_walk_blocks("", model, set())))


PRESETS: dict[str, Callable[[nn.Module], list[str]]] = {
    "leaves": leaves,
    "blocks": blocks,
    "linear": linear,
    "penultimate": penultimate,
}


def is_leaf(module: nn.Module) -> bool:
    """Tell whether `module` is one layer: linear, however it is composed, or with nothing inside that can be called.

    Attention counts, as it never calls its output projection.
    """
    if is_linear(module) or isinstance(module, nn.MultiheadAttention):
        return True
    return not any(can_be_called(part) for child in children(module) for _, part in named_modules(child[1]))


def can_be_called(module: nn.Module) -> bool:
    """Tell whether `module` has a forward, which ModuleList and ModuleDict have not."""
    return getattr(type(module), "forward", None) is not nn.Module.forward


def _walk_leaves(path: str, module: nn.Module, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """Leaves below `module` in definition order, each once."""
    if id(module) in seen:
        return
    seen.add(id(module))
    if is_leaf(module):
        if can_be_called(module):
            yield path, module
        return
    for key, child in children(module):
        yield from _walk_leaves(f"{path}.{key}" if path else key, child, seen)


def _walk_blocks(path: str, module: nn.Module, seen: set[int]) -> Iterator[str]:
    """Blocks below `module` in definition order, each once."""
    in_row = isinstance(module, nn.Sequential | nn.ModuleList)
    for key, child in children(module):
        if is_leaf(child) or id(child) in seen:
            continue
        seen.add(id(child))
        name = f"{path}.{key}" if path else key
        if in_row and can_be_called(child) and not _is_bare_stage(child):
            yield name
        else:
            yield from _walk_blocks(name, child, seen)


def _is_bare_stage(module: nn.Module) -> bool:
    """A plain Sequential or ModuleList of blocks: a stage, whose items are the blocks."""
    bare = type(module) in (nn.Sequential, nn.ModuleList)
    return bare and any(not is_leaf(child) for _, child in children(module))

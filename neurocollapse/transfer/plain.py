"""A skip connection as a part of a model's own forward pass, without hooks."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from neurocollapse.hooks.masks import NAME, find_masks
from neurocollapse.hooks.outputs import pick_tensor
from neurocollapse.hooks.wrappers import named_modules
from neurocollapse.support.text import first_line
from neurocollapse.transfer.errors import TransferError
from neurocollapse.transfer.skip import Skip


def with_skip(model: nn.Module, skip: Skip) -> fx.GraphModule:
    """The model with the skip in its forward pass; it shares the model's modules.

    Raises
    ------
    TransferError
        If the forward pass cannot be traced symbolically: it branches on values, or runs on text models' arguments.
    """
    modules = dict(named_modules(model))
    tracer = _Tracer({modules[skip.layer], modules[skip.head]})
    try:
        traced = tracer.trace(model)
    except Exception as error:  # whatever a model's own code raises when it is given no values
        raise TransferError(
            f"{type(model).__name__} cannot be traced ({first_line(error)}); keep the skip on it, and use save and "
            "load_tuned"
        ) from error
    graph = fx.Graph()  # one that does not know the tracer, for which torch.load would ask
    graph.output(graph.graph_copy(traced, {}))
    plain = fx.GraphModule(model, graph, type(model).__name__)
    calls = {node.target: node for node in plain.graph.nodes if node.op == "call_module"}
    source, head = (calls.get(_path(model, modules[name])) for name in (skip.layer, skip.head))
    hidden = None if head is None else next(iter((*head.args, *head.kwargs.values())), None)
    if source is None or head is None or not isinstance(hidden, fx.Node):
        raise TransferError(f"{skip.layer!r} and {skip.head!r} are not both called; keep the skip, and use save")
    with plain.graph.inserting_before(head):
        features = _features(plain, source, skip)
        padded = plain.graph.call_function(functional.pad, (features, (0, skip.padding)))
        alike = plain.graph.call_method("to", (padded, hidden))
        total = plain.graph.call_function(operator.add, (hidden, alike))
    head.args = tuple(total if one is hidden else one for one in head.args)
    head.kwargs = {name: total if one is hidden else one for name, one in head.kwargs.items()}
    plain.graph.lint()
    plain.recompile()
    plain.train(model.training)
    return plain


class _Tracer(fx.Tracer):
    """Traces into everything but torch's own modules and those between which the skip runs."""

    def __init__(self, whole: set[nn.Module]) -> None:
        super().__init__()
        self._whole = whole

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Whether a module is called as it is."""
        return module in self._whole or super().is_leaf_module(module, name)


def _path(model: nn.Module, module: nn.Module) -> str:
    """The module's name as torch has it, with wrappers inside."""
    return next(name for name, one in model.named_modules() if one is module)


class _Pooled(nn.Module):
    """One row per sample of what the layer gives, where that is no plain tensor, or has positions that are padding."""

    def __init__(self, skip: Skip) -> None:
        super().__init__()
        self.skip = skip

    def forward(self, output: Any, mask: Tensor | None = None) -> Tensor:
        """The same as behind the hooks."""
        given = {} if mask is None else {NAME: mask}
        tensor = pick_tensor(output, num_samples=None)
        return self.skip.pooled(tensor, find_masks(self, (), given, len(tensor)).first)


def _features(plain: fx.GraphModule, source: fx.Node, skip: Skip) -> fx.Node:
    """One row per sample of what the layer gives: by torch's own functions where they are enough."""
    graph = plain.graph
    mask = _mask(graph) if skip.layout == "tokens" and skip.pooling != "none" else None
    if skip.nested or mask is not None:
        name = next(name for name in ("skip", "neurocollapse_skip") if not hasattr(plain, name))
        plain.add_submodule(name, _Pooled(skip))
        return graph.call_module(name, (source, mask))
    if skip.pooling == "none":
        return source
    if skip.pooling in ("cls", "last"):
        place = 0 if skip.pooling == "cls" else -1
        return graph.call_function(operator.getitem, (source, (slice(None), place)))
    axes = tuple(range(2, skip.num_axes)) if skip.layout == "channels-first" else tuple(range(1, skip.num_axes - 1))
    if skip.pooling == "max":
        return graph.call_method("amax", (source, axes))
    dtype = graph.call_function(getattr, (source, "dtype"))
    wide = graph.call_function(torch.promote_types, (dtype, torch.float32))  # as the hooks take the mean of half floats
    return graph.call_method("mean", (source, axes), {"dtype": wide})


def _mask(graph: fx.Graph) -> fx.Node | None:
    """The padding mask where the model takes one: an argument of its own, or an entry of one."""
    arguments = {node.target: node for node in graph.nodes if node.op == "placeholder"}
    if NAME in arguments:
        return arguments[NAME]
    entries = (node for node in graph.nodes if node.args[1:2] == (NAME,) and node.args[0] in arguments.values())
    read = next(entries, None)
    return None if read is None else graph.node_copy(read)

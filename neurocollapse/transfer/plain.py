"""A skip connection as a part of a model's own forward pass, without hooks."""

import operator

from torch import fx, nn
from torch.nn import functional

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
        graph = tracer.trace(model)
    except Exception as error:  # whatever a model's own code raises when it is given no values
        raise TransferError(
            f"{type(model).__name__} cannot be traced ({first_line(error)}); keep the skip on it, and use save and "
            "load_tuned"
        ) from error
    calls = {node.target: node for node in graph.nodes if node.op == "call_module"}
    source, head = (calls.get(_path(model, modules[name])) for name in (skip.layer, skip.head))
    if source is None or head is None or not isinstance(head.args[0], fx.Node):
        raise TransferError(f"{skip.layer!r} and {skip.head!r} are not both called; keep the skip, and use save")
    with graph.inserting_before(head):
        features = _pooled(graph, source, skip)
        padded = graph.call_function(functional.pad, (features, (0, skip.padding)))
        total = graph.call_function(operator.add, (head.args[0], padded))
    head.args = (total, *head.args[1:])
    graph.lint()
    plain = fx.GraphModule(model, graph, type(model).__name__)
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


def _pooled(graph: fx.Graph, source: fx.Node, skip: Skip) -> fx.Node:
    """One row a sample of what the layer gives."""
    if skip.pooling == "none":
        return source
    if skip.pooling in ("cls", "last"):
        place = 0 if skip.pooling == "cls" else -1
        return graph.call_function(operator.getitem, (source, (slice(None), place)))
    axes = tuple(range(2, skip.num_axes)) if skip.layout == "channels-first" else tuple(range(1, skip.num_axes - 1))
    return graph.call_method({"mean": "mean", "max": "amax"}[skip.pooling], (source, axes))

"""What can be hooked in a model: a table of its modules, with shapes where an example input is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from neurocollapse.hooks.audit import refuse_script_modules
from neurocollapse.hooks.eager import unfuse
from neurocollapse.hooks.errors import CaptureError
from neurocollapse.hooks.handlers import place
from neurocollapse.hooks.layout import LayoutMemory, is_sequence_first
from neurocollapse.hooks.outputs import first_tensor
from neurocollapse.hooks.owner import claim
from neurocollapse.hooks.plan import Plan, make_plan
from neurocollapse.hooks.presets import can_be_called, is_leaf
from neurocollapse.hooks.select import ROOT
from neurocollapse.hooks.wrappers import named_modules, unwrap
from neurocollapse.support.checks import shown
from neurocollapse.support.quiet import in_mode
from neurocollapse.support.text import first_line
from neurocollapse.support.undo import undoing


@dataclass(frozen=True)
class LayerInfo:
    """One module that a selector can name.

    Attributes
    ----------
    name
        Dotted name.
    module_type
        Class name.
    shape
        Shape of the activation, without the batch axis; None without an example, or where no tensor can be told.
    num_features
        Width of the features under the default pooling; None where it is not certain.
    num_parameters
        Parameters of the module and everything inside it.
    num_calls
        Calls in one forward pass; None without an example.
    note
        Why features cannot be taken by default; empty where they can.
    """

    name: str
    module_type: str
    shape: tuple[int, ...] | None
    num_features: int | None
    num_parameters: int
    num_calls: int | None
    note: str = ""


def inspect_layers(model: nn.Module, example: Any = None) -> list[LayerInfo]:
    """List the modules of a model that can be hooked, in definition order.

    With an example the model runs once, without gradients and in evaluation mode; the mode of every module and torch's
    random state are restored.

    Parameters
    ----------
    model : torch.nn.Module
        The model, with or without wrappers.
    example : Tensor, tuple or dict, optional
        The input of one forward pass: one tensor, positional arguments, or keyword arguments.

    Returns
    -------
    list of LayerInfo

    Raises
    ------
    CaptureError
        If the model fails on an example that holds no tensor; its own errors on tensors are passed on.

    Examples
    --------
    >>> [(info.name, info.num_features) for info in inspect_layers(nn.Sequential(nn.Linear(4, 8)), torch.zeros(2, 4))]
    [('0', 8)]
    """
    root = unwrap(model)
    refuse_script_modules(root)
    found = named_modules(root) if not is_leaf(root) else [(ROOT, root)]
    modules = {name: module for name, module in found if name and can_be_called(module)}
    survey = _run(root, modules, example) if example is not None else None
    return [_info(name, module, survey) for name, module in modules.items()]


def call_of(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a forward pass that an example stands for: keywords, several by position, or one."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}


class _Survey:
    """What one forward pass shows of every module."""

    def __init__(self, num_samples: int | None, *, sequence_first: bool) -> None:
        self.num_samples = num_samples
        self.memory = LayoutMemory(sequence_first=sequence_first)
        self.num_calls: dict[nn.Module, int] = {}
        self.plans: dict[nn.Module, Plan | CaptureError] = {}

    def observe(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook: count the call, and settle how the module is read."""
        self.num_calls[module] = self.num_calls.get(module, 0) + 1
        try:
            plan = make_plan(module, output, self.num_samples, self.memory, pool="auto", path=None, at_input=False)
            plan.features(plan.pick(output, self.num_samples))
            self.plans[module] = plan
        except CaptureError as error:
            self.plans.setdefault(module, error)


def _run(root: nn.Module, modules: dict[str, nn.Module], example: Any) -> _Survey:
    """Run the model on the example and watch all its modules."""
    args, kwargs = call_of(example)
    first = first_tensor((args, kwargs))
    sequence_first = any(map(is_sequence_first, root.modules()))
    survey = _Survey(None if first is None else first.shape[0], sequence_first=sequence_first)
    devices = {parameter.device for parameter in root.parameters() if parameter.is_cuda}
    with undoing() as undo:
        claim(root.modules(), undo)
        unfuse(modules.values(), undo)
        undo.add(torch.set_grad_enabled, torch.is_grad_enabled())  # for an interrupt on the way out of no_grad
        undo.add(torch.set_rng_state, torch.get_rng_state())
        observe = survey.observe  # one object, by which the hook is found again
        for module in modules.values():
            place(observe, module, undo)
        with torch.random.fork_rng(devices), torch.no_grad(), in_mode(root):
            try:
                root(*args, **kwargs)
            except Exception as error:
                if first is not None:
                    raise
                raise CaptureError(f"the model fails on `example` = {shown(example)}: {first_line(error)}") from error
    return survey


def _info(name: str, module: nn.Module, survey: _Survey | None) -> LayerInfo:
    """The row of one module."""
    plan = survey.plans.get(module) if survey is not None else None
    num_calls = survey.num_calls.get(module, 0) if survey is not None else None
    known = isinstance(plan, Plan)
    return LayerInfo(
        name=name,
        module_type=type(module).__name__,
        shape=plan.shape if isinstance(plan, Plan) else None,
        num_features=plan.num_features if isinstance(plan, Plan) else None,
        num_parameters=sum(parameter.numel() for parameter in module.parameters()),
        num_calls=num_calls,
        note="" if survey is None or known else str(plan) if plan is not None else "never called",
    )

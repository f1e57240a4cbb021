"""The engine: places hooks, turns what fires into features inside the hook, and audits every forward pass."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from neurocollapse.hooks.audit import refuse_changed_count, refuse_missing, refuse_script_modules, why_silent
from neurocollapse.hooks.eager import outside_autocast, unfused
from neurocollapse.hooks.errors import CaptureError, CaptureWarning, NeverFiredError
from neurocollapse.hooks.handlers import AbortHook, EndHook, EnterHook, HintHook, InputHook, OutputHook, StartHook
from neurocollapse.hooks.layout import BatchConflict, LayoutMemory, is_sequence_first
from neurocollapse.hooks.options import readings
from neurocollapse.hooks.outputs import Path, first_tensor
from neurocollapse.hooks.plan import Plan, Site, SiteKey, Skip, make_plan
from neurocollapse.hooks.pool import Pool
from neurocollapse.hooks.provisional import Provisional
from neurocollapse.hooks.select import LAST, select
from neurocollapse.hooks.wrappers import is_compiled, named_modules, unwrap
from neurocollapse.support.choices import check_choice

Calls = Literal["all", "first", "last"]
"""Which calls of a module within one forward pass are kept."""
Receiver = Callable[[SiteKey, Tensor, int], None]


class Recorder:
    """Hand the features of chosen layers to a function, from inside the model's own forward passes.

    Inside ``with recorder:`` every forward pass of the model calls ``sink(key, features, positions)`` once a site,
    before the model's next operation runs: `features` has shape (samples · positions, features), is detached, float32
    or float64, computed outside autocast, and may share memory with the model (copy what is kept). How each site is
    read is settled in the first forward pass. The model's device, mode and values are never touched, and only the
    recorder's own hooks are removed, also after an error.

    Inside the context, torch.compile falls back to eager execution and fused attention to its parts, as neither
    calls the modules inside; both are restored afterwards.

    A forward pass is a call of the model itself. Hooks that fire outside one (recomputation of checkpointed
    activations during backward) are ignored. Where the model is never called, only its parts or methods
    (``model.encode(x)``), every call counts until `finish` or `reset`.

    Parameters
    ----------
    model : torch.nn.Module
        The model, with or without wrappers.
    layers
        What to tap; see `neurocollapse.hooks.select`.
    pool : str, callable or dict
        How activations with positions become features, for all taps or by tap name; see `pool_features`.
    output : str, callable or dict, optional
        Which tensor of a structured output is meant, for all outputs or by tap name; see `pick_tensor`.
    calls : {"all", "first", "last"}
        Which calls of a module within one forward pass are kept.
    sink : callable
        Receives (SiteKey, features, positions).

    Raises
    ------
    NoMatchError, CaptureError, ReplicaError
        If the model or the selection cannot be used; errors of single layers are raised by the first forward pass.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    >>> with Recorder(model, "leaves", sink=lambda key, features, positions: print(key.tap, features.shape)):
    ...     output = model(torch.zeros(3, 4))
    0 torch.Size([3, 8])
    1 torch.Size([3, 8])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Any,
        *,
        pool: Pool | Mapping[str, Pool] = "auto",
        output: Path | Mapping[str, Path] | None = None,
        calls: Calls = "all",
        sink: Receiver,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
        check_choice("calls", calls, Calls)
        self.model = unwrap(model)
        refuse_script_modules(self.model)
        self.taps = select(self.model, layers, proposals=True)
        refuse_script_modules(self.model, self.taps)
        self._readings = readings(self.taps, pool, output)
        self._calls = calls
        self._sink = sink
        self._compiled = is_compiled(model)
        self._modules = dict(named_modules(self.model))
        self._proposed = Provisional(self.taps, self._modules)
        self._stack: ExitStack | None = None
        self._hints = ExitStack()
        self._expected: tuple[int, ...] | None = None
        self._never: dict[int, NeverFiredError] = {}
        self._open = self._root_seen = False
        self._announced: int | None = None
        self.forward = 0
        self._counts: list[int] = []
        self._sites: dict[SiteKey, Site] | None = None
        self._num_samples: int | None = None
        self._restart()

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise CaptureError("this Recorder is already recording; make one Recorder for each `with` block")
        if self._compiled:
            message = "the model is set up for torch.compile; it runs eagerly while its features are captured"
            warnings.warn(message, CaptureWarning, stacklevel=2)
        with ExitStack() as stack:
            stack.enter_context(unfused(self._modules.values()))
            stack.callback(self._hints.close)
            self._place_hooks(stack)
            self._stack = stack.pop_all()
        self._root_seen = False
        self._restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()
        self.abort()  # torch calls no hook after KeyboardInterrupt
        if kind is None and not self._root_seen and any(self._counts):
            self.finish()

    def expect(self, num_samples: int) -> None:
        """Tell the batch size of the next forward pass, which is otherwise the length of its first tensor."""
        if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples < 1:
            raise ValueError(f"`num_samples` must be a positive integer, got {num_samples!r}")
        self._announced = num_samples

    def reset(self) -> None:
        """Forget the calls since the last finished forward pass."""
        self._announced = None
        self._restart()

    def finish(self) -> None:
        """Audit the forward pass that has just ended; called after every call of the model itself.

        Raises
        ------
        NeverFiredError, LayoutError, AmbiguousOutputError
            After the first forward pass, if an explicit tap, or every match of a selector, gave no features.
        CallCountError
            If a module was called a different number of times than in the first forward pass.
        """
        self._open, self._announced = False, None
        if self._expected is None:
            self._finish_first()
        else:
            for tap, expected, count in zip(self.taps, self._expected, self._counts, strict=True):
                refuse_changed_count(tap, expected, count)
        if not self._root_seen:
            self._counts = [0] * len(self.taps)

    @property
    def is_open(self) -> bool:
        """Whether a forward pass of the model has begun and has not ended."""
        return self._open

    @property
    def sites(self) -> dict[SiteKey, Site]:
        """What has fired, in order of first firing; complete after the first forward pass."""
        if self._sites is None or self._expected is None:
            counts = self._expected or self._counts
            plans = [(key, plan) for key, plan in self._plans.items() if isinstance(plan, Plan)]
            self._sites = {
                key: plan.describe(self.taps[key.tap], self._name(key), key.call, counts[key.tap], depth)
                for depth, (key, plan) in enumerate(plans)
            }
        return self._sites

    @property
    def skipped(self) -> dict[str, str]:
        """The sites that were left out after the first forward pass, and why."""
        left_out = {self._name(key): str(plan.error) for key, plan in self._plans.items() if isinstance(plan, Skip)}
        return left_out | {self.taps[index].name: str(error) for index, error in self._never.items()}

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start a forward pass of the model."""
        self._root_seen = True
        self._restart()
        self._open = True
        self._num_samples = self._announced
        if self._num_samples is None:
            tensor = first_tensor((args, kwargs))
            self._num_samples = None if tensor is None else tensor.shape[0]

    def end(self) -> None:
        """End a forward pass of the model."""
        if not self._open:
            raise CaptureError("the model calls itself inside its forward pass; capture a part of it instead")
        self.finish()

    def abort(self) -> None:
        """End a forward pass that raised."""
        if self._open:
            self._open, self._announced = False, None
            self._restart()

    def fire(self, index: int, value: Any) -> None:
        """Hand the features of one call of one tap to the sink."""
        if self._ignores() or self._is_dropped(index, value):
            return
        call = self._counts[index]
        self._counts[index] = call + 1
        key = SiteKey(index, call)
        if key in self._forgotten or not self._wants(index, call):
            return
        try:
            plan = self._plans.get(key) or self._settle(key, value)
            if isinstance(plan, Skip):
                return
            tensor = plan.pick(value, self._num_samples if self._open else self._announced)
        except CaptureError as error:
            raise self._named(key, error) from error.__cause__
        with outside_autocast(tensor):
            try:
                features = plan.features(tensor)
            except CaptureError as error:
                raise self._named(key, error) from error.__cause__
            self._hand_over(key, features, features.shape[0] // tensor.shape[0] if tensor.shape[0] else 1)

    def enter(self) -> None:
        """Start a container that may turn out to be a leaf, in the first forward pass."""
        if not self._ignores():
            self._proposed.enter()

    def observe(self, module: nn.Module, output: Any) -> None:
        """Learn the layout of a module that is not tapped, in the first forward pass."""
        if self._ignores():
            return
        self._proposed.note(module, output)
        try:
            make_plan(module, output, self._samples(), self._memory, pool="auto", path=None, at_input=False)
        except BatchConflict:
            if self._announced is None:
                raise
        except CaptureError:
            return

    def _place_hooks(self, stack: ExitStack) -> None:
        """Put hooks on the root (around all else) and on the tapped modules."""
        root = self.model
        start = root.register_forward_pre_hook(StartHook(self), with_kwargs=True)
        stack.callback(start.remove)
        for index, tap in enumerate(self.taps):
            if index in self._proposed.dropped:
                continue
            if tap.at_input:
                handle = tap.module.register_forward_pre_hook(InputHook(self, index), with_kwargs=True)
            else:
                handle = tap.module.register_forward_hook(OutputHook(self, index))
            stack.callback(handle.remove)
        if self._expected is None:
            for index in self._proposed.containers:
                self._hints.callback(self.taps[index].module.register_forward_pre_hook(EnterHook(self)).remove)
            tapped = {id(tap.module) for tap in self.taps if not tap.at_input}
            for module in self._modules.values():
                if id(module) not in tapped and not isinstance(module, torch.jit.ScriptModule):
                    self._hints.callback(module.register_forward_hook(HintHook(self)).remove)
        stack.callback(root.register_forward_hook(EndHook(self)).remove)
        stack.callback(root.register_forward_hook(AbortHook(self), always_call=True).remove)

    def _restart(self) -> None:
        """Forget the calls of an unfinished forward pass, and what was learnt if it was the first."""
        self.forward += 1
        self._counts = [0] * len(self.taps)
        self._num_samples = None
        self._held: dict[SiteKey, tuple[Tensor, int]] = {}
        if self._expected is None:
            self._proposed.restart()
            self._forgotten: set[SiteKey] = set()
            self._plans: dict[SiteKey, Plan | Skip] = {}
            self._never = {}
            sequence_first = any(map(is_sequence_first, self._modules.values()))
            self._memory = LayoutMemory(sequence_first=sequence_first)

    def _is_dropped(self, index: int, value: Any) -> bool:
        """Whether a tap that was only proposed turns out not to be meant; forget what others gave in its place."""
        if self._expected is not None:
            return index in self._proposed.dropped
        tap = self.taps[index]
        if not tap.at_input:
            self._proposed.note(tap.module, value)
        gone = self._proposed.fire(index, value) if tap.when else set()
        for key in [key for key in self._plans if key.tap in gone]:
            self._forgotten.add(key)
            self._plans.pop(key)
            self._held.pop(key, None)
        return index in gone

    def _ignores(self) -> bool:
        """Whether a hook fired outside a forward pass: recomputation during backward, or a part called alone."""
        return not self._open and (self._root_seen or torch._C._current_graph_task_id() != -1)

    def _samples(self) -> int | None:
        """The batch size if it is known."""
        return self._num_samples if self._open else self._announced

    def _wants(self, index: int, call: int) -> bool:
        """Whether this call of a tap is kept."""
        if self._calls == "first":
            return call == 0
        if self._expected is None:
            return True
        count = self._expected[index]
        if call >= count:
            refuse_changed_count(self.taps[index], count, call + 1)
        return self._calls == "all" or call == count - 1

    def _settle(self, key: SiteKey, value: Any) -> Plan | Skip:
        """Find out how a site is read; what an explicit tap cannot deliver raises."""
        tap = self.taps[key.tap]
        reading = self._readings[key.tap]
        plan: Plan | Skip
        try:
            plan = make_plan(
                tap.module,
                value,
                self._samples(),
                self._memory,
                pool=reading.pool,
                path=reading.path_for(tap, value),
                at_input=tap.at_input,
            )
        except CaptureError as error:
            if tap.explicit or (isinstance(error, BatchConflict) and self._announced is None):
                raise
            plan = Skip(error)
        if self._calls == "last":
            self._plans.pop(SiteKey(key.tap, key.call - 1), None)
            self._held.pop(SiteKey(key.tap, key.call - 1), None)
        self._plans[key] = plan
        return plan

    def _hand_over(self, key: SiteKey, features: Tensor, positions: int) -> None:
        """Give to the sink, or hold back while a later call may turn out to be the last."""
        if self._expected is None and (self._calls == "last" or LAST in self.taps[key.tap].when):
            self._held[key] = (features.clone(), positions)
        else:
            self._sink(key, features, positions)

    def _finish_first(self) -> None:
        """Settle names and call counts, and report what gave no features."""
        self._proposed.finish(self._counts)
        for index, (tap, count) in enumerate(zip(self.taps, self._counts, strict=True)):
            if count == 0 and index not in self._proposed.dropped:
                self._never[index] = NeverFiredError(f"never called: {why_silent(self.model, self._modules, tap)}")
        refuse_missing(self.taps, self._plans, self._never)
        for key, (features, positions) in self._held.items():
            self._sink(key, features, positions)
        self._held = {}
        self._hints.close()
        dropped = self._proposed.dropped
        self._expected = tuple(0 if index in dropped else count for index, count in enumerate(self._counts))
        self._counts, self._sites = list(self._expected), None
        if remark := self._proposed.remark:
            warnings.warn(f"'penultimate' is the model's output: {remark}", CaptureWarning, stacklevel=2)
        if skipped := self.skipped:
            parts = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
            warnings.warn(f"no features of {len(skipped)} of the layers: {parts}", CaptureWarning, stacklevel=2)

    def _named(self, key: SiteKey, error: CaptureError) -> CaptureError:
        """The same error with the layer's name in front."""
        return type(error)(f"layer {self._name(key)!r}: {error}")

    def _name(self, key: SiteKey) -> str:
        """The shown name of a site."""
        name = self.taps[key.tap].name
        many = self._calls == "all" and (self._expected or self._counts)[key.tap] > 1
        return f"{name}#{key.call}" if many else name

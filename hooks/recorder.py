"""The engine: places hooks, turns what fires into features inside the hook, and audits every forward pass."""

import warnings
from collections.abc import Callable, Mapping
from threading import get_ident
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from neurocollapse.hooks.audit import refuse_script_modules
from neurocollapse.hooks.eager import outside_autocast, unfuse
from neurocollapse.hooks.errors import CaptureError, CaptureWarning
from neurocollapse.hooks.halt import Halt, cannot_halt, refuse_halted
from neurocollapse.hooks.handlers import Engine
from neurocollapse.hooks.masks import Forward, Masks, Positions, as_mask, begun, checked_name
from neurocollapse.hooks.options import readings
from neurocollapse.hooks.outputs import Path
from neurocollapse.hooks.owner import claim
from neurocollapse.hooks.placing import place_hooks
from neurocollapse.hooks.plan import Site, SiteKey
from neurocollapse.hooks.pool import Pool
from neurocollapse.hooks.select import select
from neurocollapse.hooks.shards import refuse_tensor_parallel
from neurocollapse.hooks.sites import Calls, Sites
from neurocollapse.hooks.wrappers import is_compiled, named_modules, unwrap
from neurocollapse.support.checks import shown
from neurocollapse.support.choices import check_choice
from neurocollapse.support.undo import Undo

Receiver = Callable[[SiteKey, Tensor, Positions], None]


class Recorder(Engine):
    """Hand the features of chosen layers to a function, from inside the model's own forward passes.

    Inside ``with recorder:`` every forward pass of the model calls ``sink(key, features, positions)`` once a site,
    before the model's next operation runs: `features` has shape (samples · positions, features), is detached, float32
    or float64, computed outside autocast, and may share memory with the model (copy what is kept); `positions` says
    which rows there are where every position has one. How each site is read is settled in the first forward pass. The
    model's device, mode and values are never touched; only the recorder's own hooks are removed, also after an error.

    Inside the context, torch.compile falls back to eager execution and fused attention to its parts, as neither
    calls the modules inside; both are restored afterwards. The thread that enters it has the model for itself: another
    one that enters a Recorder of the same modules is refused, and calls of the model in other threads are ignored.

    A forward pass is a call of the model itself; hooks that fire outside one (recomputation) are ignored. Where
    only parts or methods of the model are called (``model.encode(x)``), every call counts until `finish` or `reset`.

    Parameters
    ----------
    model : torch.nn.Module
        The model, with or without wrappers.
    layers
        What to tap; see `neurocollapse.hooks.select`.
    pool : str, callable or dict, default "auto"
        How activations with positions become features, for all taps or by tap name; see `pool_features`.
    output : str, int, callable or dict, optional
        Which tensor of a structured output is meant, for all outputs or by tap name; see `pick_tensor`.
    calls : {"all", "first", "last"}, default "all"
        Which calls of a module within one forward pass are kept.
    mask : str or False, optional
        Argument of the model that says which positions are real. Default: `attention_mask`, where it has that; False
        for none.
    halt : bool, default False
        End every forward pass but the first behind the last site; the model then returns None.
    sink : callable
        Receives (SiteKey, features, Positions).

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
        output: Path | int | Mapping[str, Path | int] | None = None,
        calls: Calls = "all",
        mask: str | Literal[False] | None = None,
        halt: bool = False,
        sink: Receiver,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
        check_choice("calls", calls, Calls)
        self.model = unwrap(model)
        refuse_script_modules(self.model)
        refuse_tensor_parallel(self.model)
        self.taps = select(self.model, layers, proposals=True)
        refuse_script_modules(self.model, self.taps)
        self._layers = Sites(
            self.model, dict(named_modules(self.model)), self.taps, readings(self.taps, pool, output), calls
        )
        self._sink = sink
        if halt and calls == "last":
            raise cannot_halt('calls="last" knows the last call only after the forward pass')
        self._halt = Halt(model, self.model) if halt else None
        self._mask_name = checked_name(mask)
        self._compiled = is_compiled(model)
        self._undo, self._hints = Undo(), Undo()
        self._open = self._root_seen = False
        self._thread = get_ident()
        self._announced = self._current = Forward()
        self._num_passes: int | None = None  # in one call of `run`
        self.forward = 0

    def __enter__(self) -> Self:
        if self._undo:
            raise CaptureError("this Recorder is already recording; make one Recorder for each `with` block")
        try:
            claim(self._layers.modules.values(), self._undo)
            refuse_halted(self._layers.modules.values())
            if self._compiled:
                message = "the model is set up for torch.compile; it runs eagerly while its features are captured"
                warnings.warn(message, CaptureWarning, stacklevel=2)
            unfuse(self._layers.modules.values(), self._undo)
            self._thread = get_ident()
            place_hooks(self, self.model, self.taps, self._layers, self._halt, self._undo, self._hints)
            self._root_seen = False
            self._restart()
            return self
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            self.close()
        if kind is None and not self._root_seen and any(self._layers.counts):
            self.finish()

    def close(self) -> None:
        """Remove all hooks, as leaving the block does; call it again if an interrupt may have landed in that."""
        self._undo.close()
        if self._open:  # torch calls no hook after KeyboardInterrupt
            self._forget()

    def expect(
        self,
        num_samples: int,
        *,
        mask: Tensor | None = None,
        masks: Masks | None = None,
        labelled: tuple[int, ...] | None = None,
    ) -> None:
        """Tell what the next forward pass does not show.

        Parameters
        ----------
        num_samples : int
            The batch size, which is otherwise the length of the first tensor.
        mask : Tensor of shape (samples, positions, …), optional
            Which positions are real. Default: the model's own mask.
        masks : Masks, optional
            Two masks in place of one, where encoder and decoder have one each. Default: `mask` is the only one.
        labelled : tuple of int, optional
            Positions of a sample that have labels of their own: every position becomes a row then.

        Raises
        ------
        MaskError, ValueError
            If the mask holds something else than zeros and ones, or fits no batch of that size.
        """
        if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples < 1:
            raise ValueError(f"`num_samples` must be a positive integer, got {shown(num_samples)}")
        if mask is not None:
            masks = Masks(as_mask(mask, num_samples, "`mask`"))
        self._announced = Forward(num_samples, True, masks, labelled)

    def run(
        self,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        num_samples: int,
        *,
        masks: Masks | None = None,
        labelled: tuple[int, ...] | None = None,
    ) -> Any:
        """Call the model on one batch, and return its output.

        Parameters
        ----------
        call : callable
            The model, or a function that calls it.
        args : tuple
            Its positional arguments.
        kwargs : dict
            Its named arguments.
        num_samples : int
            The batch size.
        masks : Masks, optional
            Which positions are real. Default: the model's own masks.
        labelled : tuple of int, optional
            Shape of the positions of a sample that have labels of their own. Default: one label per sample.

        Raises
        ------
        CaptureError
            If the call runs the model's forward pass more than once; past `torch.nn.Module.__call__` it counts as one.
        """
        self.expect(num_samples, masks=masks, labelled=labelled)
        self._num_passes = 0
        try:
            output = call(*args, **kwargs)
            if not self._num_passes:
                if self._halt is not None:
                    raise cannot_halt(f"{type(self.model).__name__}.__call__ bypasses torch.nn.Module.__call__")
                self.finish()
        finally:
            self._num_passes = None
        return output

    def reset(self) -> None:
        """Forget the calls since the last finished forward pass."""
        self._announced = Forward()
        self._restart()

    def finish(self) -> None:
        """Audit the forward pass that has just ended; called after every call of the model itself.

        Raises
        ------
        NeverFiredError, LayoutError, AmbiguousOutputError
            After the first forward pass, if an explicit tap, or every match of a selector, gave no features.
        CallCountError
            If a module that was named was called a different number of times than in the first forward pass.
        """
        self._open, self._announced = False, Forward()
        if not self._layers.is_settled:
            self._layers.fixed.stop()
        halted = self._halt is not None and self._halt.done
        for key, features, positions in self._layers.finish(halted=halted):
            self._sink(key, features, positions)
        self._hints.close()
        if not self._root_seen:
            self._layers.begin()

    @property
    def is_open(self) -> bool:
        """Whether a forward pass of the model has begun and has not ended."""
        return self._open

    @property
    def sites(self) -> dict[SiteKey, Site]:
        """What has fired, in order of first firing; the same object until a layer is left out that no longer fits."""
        return self._layers.described

    @property
    def skipped(self) -> dict[str, str]:
        """The layers that are left out, and why."""
        return self._layers.skipped

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start a forward pass of the model."""
        if get_ident() != self._thread:
            return
        if self._num_passes and not self._open:
            raise CaptureError(
                f"{type(self.model).__name__}.__call__ runs its forward pass more than once for one batch, as "
                "test-time augmentation does, so that samples would count more than once; pass the model without it"
            )
        self._root_seen = True
        if self._halt is not None:
            self._halt.begin()
        self._restart()
        self._open = True
        if not self._layers.is_settled:
            self._layers.fixed.start()
        self._current = begun(self._announced, self.model, args, kwargs, self._mask_name)

    def end(self) -> None:
        """End a forward pass of the model."""
        if get_ident() != self._thread:
            return
        if not self._open:
            raise CaptureError("the model calls itself inside its forward pass; capture a part of it instead")
        if self._num_passes is not None:
            self._num_passes += 1
        self.finish()

    def abort(self) -> None:
        """End a forward pass that raised."""
        if self._open and get_ident() == self._thread:
            self._forget()

    def fire(self, index: int, value: Any) -> None:
        """Hand the features of one call of a tap to the sink; end the forward pass if nothing else is wanted."""
        if self._ignores():
            return
        if self._halt is None:
            self._take(index, value)
        elif not self._halt.done:  # the root's own hooks also run after a forward pass that has ended early
            self._halt.check()
            self._take(index, value)
            if self._open and self._layers.is_complete and self.taps[index].module is not self.model:
                self._halt.signal()

    def _take(self, index: int, value: Any) -> None:
        """Hand the features of one call of one tap to the sink."""
        forward = self._current if self._open else self._announced
        entry = self._layers.entry(index, value, forward)
        if entry is None:
            return
        key, plan = entry
        if (quick := plan.quick(value, forward)) is not None:
            self._sink(key, *quick)
            return
        tap = self.taps[index]
        try:
            tensor = plan.pick(value, forward.num_samples)
        except CaptureError as error:
            self._layers.leave_out(key, error)
            return
        with self._layers.fixed.resting(), outside_autocast(tensor):
            try:
                features, positions = plan.features(tensor, forward.mask(tap.path, tap.module))
            except CaptureError as error:
                self._layers.leave_out(key, error)
                return
            if self._layers.is_settled or not self._layers.hold(key, features, positions):
                self._sink(key, features, positions)

    def enter(self) -> None:
        """Start a container that may turn out to be a leaf, in the first forward pass."""
        if not self._ignores():
            self._layers.proposed.enter()

    def observe(self, module: nn.Module, output: Any) -> None:
        """Learn the layout of a module's output in the first forward pass."""
        if not self._ignores():
            self._layers.observe(module, output, self._current if self._open else self._announced)

    def _forget(self) -> None:
        """Give up the forward pass that is going on."""
        self._open, self._announced = False, Forward()
        self._layers.fixed.stop()
        self._restart()

    def _restart(self) -> None:
        """Forget the calls of an unfinished forward pass, and what was learnt if it was the first."""
        self.forward += 1
        self._current = Forward()
        self._layers.begin()

    def _ignores(self) -> bool:
        """Whether a hook fired outside a forward pass (recomputation, a part called alone) or in another thread."""
        if get_ident() != self._thread:
            return True
        return not self._open and (self._root_seen or torch._C._current_graph_task_id() != -1)

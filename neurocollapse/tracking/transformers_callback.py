"""A tracker as a callback of the Trainer of Hugging Face's transformers."""

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

import xarray as xr
from transformers import TrainerCallback

from neurocollapse.support.checks import integer
from neurocollapse.tracking.alarm import Alarm
from neurocollapse.tracking.tracker import FeatureTracker, Log

_WHEN = ("evaluate", "epoch")


class Transformers(TrainerCallback):
    """Follow a network through a Trainer of transformers; hand it over in ``Trainer(callbacks=[…])``.

    Parameters
    ----------
    loader : iterable of batches
        What the layers are measured on: a DataLoader of dicts, for example; see `nc.track`.
    every : {"evaluate", "epoch"} or int, default "evaluate"
        Record after each evaluation, after each epoch, or every so many updates.
    path : path-like, optional
        File of the run, continued by a Trainer that resumes from a checkpoint.
    log : bool, default False
        Add the numbers to the Trainer's ``state.log_history``, which it saves with its checkpoints.
    alarms : list of Alarm or str
        Refused before training if they are wrong; one with action "stop" ends the training.
    **options
        Everything that `nc.analyze` takes. Without `distributed`, the first process alone records.

    Attributes
    ----------
    tracker : FeatureTracker or None
        From the start of the training on.

    Raises
    ------
    ValueError, TypeError
        If `every` is something else; for the other options as `nc.track`, when the training starts.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        every: int | str = "evaluate",
        path: str | PathLike[str] | None = None,
        log: bool = False,
        alarms: Sequence[Alarm | str] = (),
        **options: Any,
    ) -> None:
        if isinstance(every, str) and every not in _WHEN:
            raise ValueError(f'`every` must be "evaluate", "epoch" or a number of updates, got {every!r}')
        self.every = every if isinstance(every, str) else integer("every", every, least=1)
        self.tracker: FeatureTracker | None = None
        self._loader, self._log = loader, log
        self._options: dict[str, Any] = {"path": path, "alarms": alarms, **options}

    def to_dataset(self) -> xr.Dataset:
        """All records; see `nc.track`.

        Raises
        ------
        ValueError
            If nothing has been recorded.
        """
        if self.tracker is None:
            raise ValueError("nothing has been recorded yet; train first")
        return self.tracker.to_dataset()

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Check alarms and file before the first update."""
        if self._options.get("distributed") or state.is_world_process_zero:
            log: Log | None = (
                (lambda numbers, step: state.log_history.append({"step": step, **numbers})) if self._log else None
            )
            self.tracker = FeatureTracker(given["model"], self._loader, log=log, progress=False, **self._options)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Record after so many updates."""
        if not isinstance(self.every, str) and state.global_step % self.every == 0:
            self._record(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Record after an epoch."""
        if self.every == "epoch":
            self._record(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Record after an evaluation in training, with what it has measured."""
        if self.every == "evaluate":
            metrics = given.get("metrics") or {}
            self._record(state, control, **{name: value for name, value in metrics.items() if name != "epoch"})

    def _record(self, state: Any, control: Any, **scalars: float) -> None:
        """Record at the update that the Trainer has reached."""
        if self.tracker is not None:
            self.tracker.record(state.global_step, epoch=state.epoch, **scalars)
            control.should_training_stop |= self.tracker.should_stop

"""A tracker as a callback of the Trainer of Hugging Face's transformers."""

import warnings
from collections.abc import Iterable, Sequence
from numbers import Real
from os import PathLike
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback

from neurocollapse.tracking.alarm import Alarm
from neurocollapse.tracking.follower import Follower
from neurocollapse.tracking.occasions import Occasions
from neurocollapse.tracking.tracker import Log

_EVALUATE = "evaluate"


class Transformers(Follower, TrainerCallback):
    """Follow a network through a Trainer of transformers; hand it over in ``Trainer(callbacks=[…])``.

    Parameters
    ----------
    loader : iterable of batches
        What the layers are measured on: a DataLoader of dicts, for example; see `nc.track`.
    every : str or int, default "evaluate"
        Record after each evaluation during the training; after each epoch ("epoch") or several ("10 epochs"); every so
        many updates; after updates each a quarter later ("log"); or as often as takes at most a share of wall time
        ("5%").
    path : path-like, optional
        File of the run, continued by a Trainer that resumes from a checkpoint; one that starts over begins it again.
    log : bool, str or callable, default False
        Add the numbers to the Trainer's ``state.log_history``, which it saves with its checkpoints; a text is put in
        front of their names. A function takes the numbers by name, and the step.
    alarms : list of Alarm or str, default none
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
        If `every` or `log` is something else; for the other options as `nc.track`, when the training starts.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        every: int | str = _EVALUATE,
        path: str | PathLike[str] | None = None,
        log: bool | str | Log = False,
        alarms: Sequence[Alarm | str] = (),
        **options: Any,
    ) -> None:
        super().__init__(loader, Occasions(every, (_EVALUATE,)), path=path, log=log, alarms=alarms, options=options)
        self._training = False
        self._evaluated: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Check alarms and file before the first update."""
        self._occasions.start(state.global_step)
        self._training, self._evaluated = True, None
        if self._occasions.after(_EVALUATE) and args.eval_strategy == "no":
            warnings.warn(
                "nothing will be recorded, as it is after each evaluation and this training has none: "
                'set eval_strategy="epoch", or pass every="epoch" to the callback',
                stacklevel=2,
            )
        if self._options.get("distributed") or state.is_world_process_zero:

            def own(numbers: dict[str, float], step: float) -> None:
                state.log_history.append({"step": step, **numbers})

            self._begin(given["model"], self._loader, state.global_step, own)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Record after so many updates."""
        if self._occasions.after_update(state.global_step):
            self._record(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Record after an epoch."""
        if self._occasions.after_epoch(round(state.epoch)):
            self._record(args, state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Record after an evaluation in training, with what it has measured.

        Where several data sets are evaluated in turn, the later ones only add what they have measured.
        """
        if not (self._training and self._occasions.after(_EVALUATE)):
            return
        metrics = given.get("metrics") or {}
        numbers = {name: float(one) for name, one in metrics.items() if isinstance(one, Real) and name != "epoch"}
        if self._evaluated == state.global_step:
            self._supplement(numbers)
        else:
            self._evaluated = state.global_step
            self._record(args, state, control, **numbers)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Record no evaluations from here on: the weights may be those of another step, such as the best one."""
        self._training = False

    def _record(self, args: Any, state: Any, control: Any, **scalars: float) -> None:
        """Record at the update that the Trainer has reached, and end the training on every process if one says so."""
        stop = self._follow(state.global_step, {"epoch": state.epoch, **scalars})
        if self._options["alarms"] and args.world_size > 1:
            decision = torch.tensor(int(stop), device=args.device)
            distributed.all_reduce(decision, op=distributed.ReduceOp.MAX)
            stop = bool(decision.item())
        control.should_training_stop |= stop

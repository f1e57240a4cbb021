"""A tracker as a callback of Lightning's Trainer, under either of the names by which Lightning is imported."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from os import PathLike
from typing import Any

from torch import nn

from neurocollapse.support.checks import shown
from neurocollapse.support.names import did_you_mean
from neurocollapse.tracking.alarm import Alarm
from neurocollapse.tracking.beforehand import check_repeatable
from neurocollapse.tracking.callbacks import is_installed
from neurocollapse.tracking.follower import Follower
from neurocollapse.tracking.occasions import Occasions
from neurocollapse.tracking.tracker import Log

PACKAGES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
"""The two names, each with classes of its own; a Trainer refuses callbacks of the other one."""
_FIRST, *_OTHERS = (import_module(module).Callback for package, module in PACKAGES.items() if is_installed(package))


class Lightning(Follower, _FIRST, *_OTHERS):  # type: ignore[misc, valid-type]  # known only when it is imported
    """Follow a network through a Trainer of Lightning; hand it over in ``Trainer(callbacks=[…])``.

    Steps are Lightning's ``global_step``; beside the numbers stand the epoch, and what the module logs itself, with
    "logged_" in front of a name that is measured, too. With a true precision, such as "bf16-true", batches are cast as
    for training; with a mixed one, the network is measured in that of its weights.

    Parameters
    ----------
    loader : iterable of batches or callable
        What the layers are measured on, see `nc.track`; or a function of the Trainer that returns it when the training
        starts, for one of a DataModule: ``lambda trainer: trainer.datamodule.val_dataloader()``.
    part : str, default ""
        The part of the LightningModule to measure, such as "model", where its own ``forward`` is not what to measure.
    every : str or int, default "epoch"
        Record after each training epoch and the validation in it; after each so many epochs ("10 epochs"); every so
        many updates; after updates each a quarter later ("log"); or as often as takes at most a share of wall time
        ("5%").
    path : path-like, optional
        File of the run, continued by a Trainer that resumes from a checkpoint; one that starts over begins it again.
        Nothing is written with ``fast_dev_run``.
    log : bool, str or callable, default False
        Log the numbers through the module's ``log``, so that loggers get them and callbacks can monitor them; a text is
        put in front of their names. A function takes the numbers by name, and the step.
    alarms : list of Alarm or str, default none
        Refused before training if they are wrong; one with action "stop" ends the training.
    **options
        Everything that `nc.analyze` takes. Without `distributed`, the first process alone records.

    Attributes
    ----------
    tracker : FeatureTracker or None
        From the start of the training on; where processes are started for the training, only inside them.

    Raises
    ------
    ValueError, TypeError
        If `every` or `log` is something else; for the other options as `nc.track`, when the training starts.
    """

    def __init__(
        self,
        loader: Iterable[Any] | Callable[[Any], Iterable[Any]],
        *,
        part: str = "",
        every: int | str = "epoch",
        path: str | PathLike[str] | None = None,
        log: bool | str | Log = False,
        alarms: Sequence[Alarm | str] = (),
        **options: Any,
    ) -> None:
        if not isinstance(part, str):
            raise TypeError(f"`part` must be the name of a part of the module, got {shown(part)}")
        super().__init__(loader, Occasions(every), path=path, log=log, alarms=alarms, options=options)
        self._part = part
        self._logged: set[str] = set()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Check alarms and file before the first update."""
        self._occasions.start(trainer.global_step)
        if not (self._options.get("distributed") or trainer.is_global_zero):
            return

        def own(numbers: dict[str, float], step: float) -> None:
            self._log_all(trainer, pl_module, numbers)

        loader = self._loader(trainer) if callable(self._loader) else self._loader
        check_repeatable(loader)
        if trainer.precision.endswith("true"):
            loader = _Cast(loader, trainer.precision_plugin.convert_input)
        changes = {"path": None} if trainer.fast_dev_run else {}
        self._begin(_part(pl_module, self._part), loader, trainer.global_step, own, **changes)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record after so many updates."""
        if self._occasions.after_update(trainer.global_step):
            self._record(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Record after an epoch."""
        if self._occasions.after_epoch(trainer.current_epoch + 1):
            self._record(trainer)

    def _record(self, trainer: Any) -> None:
        """Record at the update that the Trainer has reached, and end the training on every process if one says so."""
        stop = self._follow(trainer.global_step, self._from_log(trainer))
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        trainer.should_stop = trainer.should_stop or stop

    def _from_log(self, trainer: Any) -> dict[str, float]:
        """The epoch, and what the module and other callbacks have logged.

        Every process asks for it, because processes wait for each other to bring what is logged up to date.
        """
        ours = {name for one in trainer.callbacks if isinstance(one, Lightning) for name in one._logged}
        metrics = trainer.callback_metrics
        others = {name: float(metrics[name]) for name in metrics if name not in ours | {"step", "epoch"}}
        return {"epoch": trainer.current_epoch, **others}

    def _log_all(self, trainer: Any, module: Any, numbers: dict[str, float]) -> None:
        """Log through the module.

        What is logged at a batch reaches the loggers at every `log_every_n_steps` only, so they are given it at once.
        """
        self._logged |= set(numbers)
        epoch = self._occasions.at_epochs
        alone = trainer.world_size > 1 and not self._options.get("distributed")
        module.log_dict(numbers, on_step=not epoch, on_epoch=epoch, logger=epoch, batch_size=1, rank_zero_only=alone)
        for logger in () if epoch else trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)


class _Cast:
    """A loader whose batches are cast, as a Trainer casts those of training where weights are not in float32."""

    def __init__(self, loader: Iterable[Any], cast: Callable[[Any], Any]) -> None:
        self.loader, self._cast = loader, cast

    def __iter__(self) -> Iterator[Any]:
        return map(self._cast, self.loader)


def _part(module: nn.Module, name: str) -> nn.Module:
    """The network to measure."""
    if not name:
        if type(module).forward.__qualname__ == "LightningModule.forward":
            parts = ", ".join(repr(child) for child, _ in module.named_children())
            raise ValueError(f"{type(module).__name__} defines no forward; name the part to measure: part={parts}")
        return module
    found = dict(module.named_modules())
    if name not in found:
        children = [child for child, _ in module.named_children()]
        raise ValueError(f"`part`: {type(module).__name__} has no {name!r}{did_you_mean(name, children)}")
    return found[name]

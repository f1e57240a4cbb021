"""A network followed through training: what `nc.analyze` measures, step by step, in memory or in a file."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from os import PathLike
from typing import Any

import numpy as np
import xarray as xr
from torch import distributed, nn

from neurocollapse.passes.analyze import analyze
from neurocollapse.support.dataset import layer_names
from neurocollapse.support.text import visible
from neurocollapse.tracking.alarm import Alarm
from neurocollapse.tracking.beforehand import check_beforehand
from neurocollapse.tracking.records import Records
from neurocollapse.tracking.rhythm import Rhythm
from neurocollapse.tracking.run_file import RunFile
from neurocollapse.tracking.untouched import untouched_random_states

Log = Callable[[dict[str, float], float], Any]
"""Takes numbers by name and the step; names are "quantity/layer", or those of scalars."""


class FeatureTracker:
    """Measure a network's layers again and again while it trains; see `neurocollapse.track`.

    Parameters
    ----------
    model, loader, every, path, alarms, log, progress, **options
        See `neurocollapse.track`, whose defaults these are.

    Attributes
    ----------
    model : torch.nn.Module
        What is measured; another network of the same layers may take its place.
    about : dict of str to str
        Texts that stand beside the next records along `step`, such as the name of a checkpoint.
    clashing : str
        What is put in front of the name of a scalar that is measured, too. Default: nothing, and the scalar is refused.
    should_stop : bool
        Whether an alarm with action "stop" has gone off.
    seconds : float
        What recording has cost so far.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        *,
        every: float | str | None = None,
        path: str | PathLike[str] | None = None,
        alarms: Sequence[Alarm | str] = (),
        log: Log | None = None,
        progress: bool = True,
        **options: Any,
    ) -> None:
        if log is not None and not callable(log):
            raise TypeError(f"`log` must be a function of numbers by name and the step, got {type(log).__name__}")
        self.model, self.loader, self.log = model, loader, log
        self.alarms = tuple(Alarm(one) if isinstance(one, str) else one for one in _listed(alarms))
        self.about: dict[str, str] = {}
        self.clashing = ""
        self.should_stop = False
        self._rhythm = Rhythm(every)
        self._progress = progress
        self._options = options
        self._distributed = bool(options.get("distributed"))
        check_beforehand(model, loader, options, self.alarms)
        writes = path is not None and not (self._distributed and distributed.get_rank())
        self._file = RunFile(path) if path is not None and writes else None
        self._records = Records() if self._file is None else self._file.read()

    @property
    def seconds(self) -> float:
        """What recording has cost so far."""
        return self._rhythm.spent

    @property
    def num_records(self) -> int:
        """How many records there are, those of a continued file among them."""
        return len(self._records.steps)

    def record(self, step: float, **scalars: float) -> bool:
        """Measure the network at a step, if it is one of those wanted, and say whether it was.

        A step at or before the last one drops the records from there on: a run that continues from a checkpoint
        overwrites what it repeats.

        Parameters
        ----------
        step : number
            Step of training: a count of updates, an epoch, also a fraction of one.
        **scalars
            Numbers of your own that stand beside, such as ``accuracy=0.9``; NaN at steps without them. A slash in a
            name becomes an underscore, as files have no room for it: "val/loss" is found as ``run["val_loss"]``.

        Raises
        ------
        TypeError, ValueError
            If the step or a scalar is no finite or real number, or the layers, quantities or classes are not those of
            the records before; else as `neurocollapse.analyze`.
        """
        step, numbers = _checked_step(step), _checked_scalars(scalars)
        if self._records.last is not None and step <= self._records.last:
            self._records.cut(step)
        if not self._is_due(step):
            return False
        start = time.monotonic()
        with untouched_random_states(self.model, self.loader):
            dataset = analyze(self.model, self.loader, progress=False, **self._options)
        self._records.add(step, dataset, numbers, self.about, clashing=self.clashing)
        if self._file is not None:
            self._file.write(self._records)
        self._count(time.monotonic() - start)
        if self.log is not None:
            self.log(_flat(dataset) | numbers, step)
        self._sound_alarms()
        return True

    def supplement(self, **scalars: float) -> None:
        """Put more scalars beside the last record, without measuring again; the log gets them, too.

        Parameters
        ----------
        **scalars
            As for `record`.

        Raises
        ------
        TypeError, ValueError
            If a scalar is no number, or nothing has been recorded.
        """
        numbers = _checked_scalars(scalars)
        if self._records.last is None:
            raise ValueError("nothing has been recorded yet; call record(step)")
        self._records.supplement(numbers, clashing=self.clashing)
        if self._file is not None:
            self._file.write(self._records)
        if self.log is not None:
            self.log(numbers, self._records.last)

    def resume(self, step: float) -> None:
        """Drop the records after the step from which training continues; they belong to a run that was given up.

        The file shows it from the next record on.

        Parameters
        ----------
        step : number
            The last step to keep.
        """
        self._records.cut(math.nextafter(_checked_step(step), math.inf))

    def to_dataset(self) -> xr.Dataset:
        """All records along `step`, each as `nc.analyze` gives it, with the scalars and each step's provenance.

        Raises
        ------
        ValueError
            If nothing has been recorded.
        """
        return self._records.dataset()

    def __enter__(self) -> "FeatureTracker":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing waits to be written."""

    def __repr__(self) -> str:
        where = "memory" if self._file is None else visible(self._file.path)
        count = self.num_records
        return f"FeatureTracker({count} record{'s' * (count != 1)} of {type(self.model).__name__}, in {where})"

    def _is_due(self, step: float) -> bool:
        """Whether to record; of several processes the first one decides where it depends on the clock."""
        due = self._rhythm.due(step, self._records.last)
        if not (self._distributed and self._rhythm.by_time):
            return due
        decision = [due]
        distributed.broadcast_object_list(decision, src=0)
        return decision[0]

    def _count(self, seconds: float) -> None:
        """Count what a record has cost, and say of the first one what it was."""
        if self._progress and not self._rhythm.spent and sys.stderr is not None and sys.stderr.isatty():
            print(f"neurocollapse: a record takes {seconds:.2g} s", file=sys.stderr)
        self._rhythm.add(seconds)

    def _sound_alarms(self) -> None:
        """Act on every alarm that goes off at the last step."""
        for alarm in self.alarms:
            found = alarm.found(self._records.dataset(last=alarm.patience + 1))
            if found is not None:
                self.should_stop |= alarm.act(found)


def track(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    every: float | str | None = None,
    path: str | PathLike[str] | None = None,
    alarms: Sequence[Alarm | str] = (),
    log: Log | None = None,
    progress: bool = True,
    **options: Any,
) -> FeatureTracker:
    """Follow a network through training: measure its layers at the steps of your own loop.

    Training is not disturbed: weights, gradients, buffers, modes and random states (also those of Python, NumPy and the
    loader) are the same, to the last bit, as without tracking.

    Parameters
    ----------
    model : torch.nn.Module
        The network to measure.
    loader : iterable of batches
        The data that the layers are measured on, read at each record: a probe set, or the training loader itself, but
        not one with persistent workers that training is reading at that time, and no generator, which is read once.
    every : number or str, optional
        When to measure. "epoch": at every call of `record`. A number: at steps at least that far apart. "log": at steps
        that grow by a quarter each time. "5%": as often as fits into that share of wall time. Default: at every call.
    path : path-like, optional
        NetCDF file that holds all finished records at any moment; an existing one is continued. Default: in memory.
    alarms : list of Alarm or str, default none
        Conditions to watch for; wrong ones are refused now, before training.
    log : callable, optional
        Takes the numbers of each record by name, and the step; for TensorBoard, for example,
        ``lambda numbers, step: [writer.add_scalar(name, value, step) for name, value in numbers.items()]``.
    progress : bool, default True
        Say on a terminal what the first record costs.
    **options
        Everything that `nc.analyze` takes: `layers`, `quantities`, `probes`, `distributed`, …. With `distributed` every
        process records, and the first one writes.

    Returns
    -------
    FeatureTracker
        Call its `record(step, **scalars)`, and `to_dataset()` in the end.

    Raises
    ------
    ValueError, TypeError
        If an option, quantity or layer does not exist, an alarm cannot be used, `loader` can be read only once, or
        `path` holds something else.

    Examples
    --------
    >>> import torch
    >>> model, batches = nn.Linear(4, 3), [(torch.eye(4), torch.tensor([0, 0, 1, 1]))]
    >>> with track(model, batches) as tracker:
    ...     for epoch in range(3):
    ...         _ = tracker.record(epoch, accuracy=0.5)
    >>> dict(tracker.to_dataset()["compression"].sizes)
    {'step': 3, 'layer': 1}
    """
    return FeatureTracker(
        model, loader, every=every, path=path, alarms=alarms, log=log, progress=progress, **options
    )  # fmt: skip


def _listed(alarms: Any) -> Sequence[Any]:
    """Alarms as a list; a single one is likely meant as one."""
    if isinstance(alarms, str | Alarm) or not isinstance(alarms, Sequence):
        raise TypeError(
            f"`alarms` must be a list of Alarm or expressions, got {type(alarms).__name__}; write [{alarms!r}]"
        )
    wrong = next((one for one in alarms if not isinstance(one, str | Alarm)), None)
    if wrong is not None:
        raise TypeError(f"`alarms` must hold Alarm or expressions, got {type(wrong).__name__}")
    return alarms


def _checked_step(step: Any) -> float:
    """A step as a plain int or float."""
    step = step.item() if hasattr(step, "item") else step
    if not isinstance(step, int | float) or isinstance(step, bool) or not math.isfinite(step):
        raise TypeError(f"`step` must be a finite number, got {visible(repr(step), most=60)}")
    return step


def _checked_scalars(scalars: Mapping[str, Any]) -> dict[str, float]:
    """Scalars as floats."""
    found = {}
    for name, value in scalars.items():
        number = value.item() if hasattr(value, "item") and getattr(value, "size", 1) != 0 else value
        if not isinstance(number, Real):
            raise TypeError(f"record(…, {name}=…) must be a number, got {type(value).__name__}")
        found[name] = float(number)
    return found


def _flat(dataset: xr.Dataset) -> dict[str, float]:
    """Numbers of layers and of the network by name, those that are defined."""
    found: dict[str, float] = {}
    for name, one in dataset.data_vars.items():
        if one.dims == ("layer",) and one.dtype.kind in "fiub":
            pairs = zip(layer_names(dataset), one.values.tolist(), strict=True)
            found |= {f"{name}/{layer}": float(value) for layer, value in pairs if not np.isnan(value)}
        elif not one.dims and one.dtype.kind in "fiub" and not np.isnan(one.item()):
            found[str(name)] = float(one.item())
    return found

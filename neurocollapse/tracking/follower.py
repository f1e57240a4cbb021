"""What the callbacks of all trainers have in common: a tracker that begins with the training."""

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

import xarray as xr
from torch import nn

from neurocollapse.support.checks import shown
from neurocollapse.tracking.alarm import Alarm
from neurocollapse.tracking.occasions import Occasions
from neurocollapse.tracking.tracker import FeatureTracker, Log


class Follower:
    """Follow a network through the training of a trainer; the callbacks say when, and where its log is.

    Attributes
    ----------
    tracker : FeatureTracker or None
        From the start of the training on.
    """

    def __init__(
        self,
        loader: Any,
        occasions: Occasions,
        *,
        path: str | PathLike[str] | None,
        log: bool | str | Log,
        alarms: Sequence[Alarm | str],
        options: dict[str, Any],
    ) -> None:
        if not isinstance(log, bool | str) and not callable(log):
            raise TypeError(f"`log` must be True, a prefix of names or a function, got {shown(log)}")
        self.tracker: FeatureTracker | None = None
        self._loader, self._occasions, self._send = loader, occasions, log
        self._options = {"path": path, "alarms": alarms, **options}
        self._beside: dict[str, float] = {}
        self._path: Any = None

    @property
    def every(self) -> str | int:
        """How often it records."""
        return self._occasions.every

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

    def _begin(self, model: nn.Module, loader: Iterable[Any], step: int, own: Log, **changes: Any) -> None:
        """Check alarms and file before the first update, and drop what an earlier training recorded after this step.

        A training that goes on with the same network in memory, and into the same file, keeps its records; it has a
        loader of its own, and does not end because an alarm has ended an earlier one.
        """
        options = {"every": self._occasions.rhythm, **self._options, **changes}
        path = options["path"]
        if self.tracker is None or self.tracker.model is not model or path != self._path:
            self.tracker = FeatureTracker(model, loader, progress=False, **options)
            self.tracker.clashing = "logged_"
        self._path = path
        self.tracker.loader, self.tracker.should_stop = loader, False
        self.tracker.log = self._log_into(own)
        self.tracker.resume(step)

    def _follow(self, step: int, beside: dict[str, float]) -> bool:
        """Record with numbers of the training beside, where this process records; whether the training is to stop."""
        self._beside = beside
        if self.tracker is None:
            return False
        self.tracker.record(step, **beside)
        return self.tracker.should_stop

    def _supplement(self, beside: dict[str, float]) -> None:
        """Put more numbers of the training beside the last record, where this process records."""
        self._beside = beside
        if self.tracker is not None:
            self.tracker.supplement(**beside)

    def _log_into(self, own: Log) -> Log | None:
        """What the numbers go to: nothing, a function, or under names with a prefix the log that has those beside."""
        if self._send is False:
            return None
        if callable(self._send):
            return self._send
        prefix = self._send if isinstance(self._send, str) else ""

        def measured(numbers: dict[str, float], step: float) -> None:
            found = {f"{prefix}{name}": value for name, value in numbers.items() if name not in self._beside}
            if found:
                own(found, step)

        return measured

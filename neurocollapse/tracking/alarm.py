"""Alarms while a network trains: conditions met for some records in a row, and what happens then."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from neurocollapse.support.checks import integer
from neurocollapse.support.choices import check_choice
from neurocollapse.tracking.check import Checks, check
from neurocollapse.tracking.condition import Condition

ACTIONS = ("warn", "stop")


class AlarmWarning(UserWarning):
    """An alarm went off."""


@dataclass(frozen=True)
class Alarm:
    """A condition to watch for while a network trains.

    Parameters
    ----------
    expression : str
        ``QUANTITY@LAYER OP NUMBER``, such as ``compression@penultimate < 0.01``; see `nc.check`.
    patience : int, default 1
        Number of records in a row at which the condition must be met.
    action : {"warn", "stop"} or callable, default "warn"
        "warn" gives an `AlarmWarning` each time the condition begins to be met; "stop" also asks training to stop (a
        tracker's `should_stop`); a callable is given the `Checks` that say where the condition is met.

    Raises
    ------
    ValueError, TypeError
        If the expression is not of that form, or an option is of another kind.

    Examples
    --------
    >>> Alarm("compression@penultimate < 0.01", patience=2).condition.number
    0.01
    """

    expression: str
    patience: int = 1
    action: str | Callable[[Checks], Any] = "warn"
    condition: Condition = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "condition", Condition.parse(self.expression))
        object.__setattr__(self, "patience", integer("patience", self.patience, least=1))
        if not callable(self.action):
            check_choice("action", self.action, ACTIONS)

    def found(self, run: xr.Dataset) -> Checks | None:
        """The place at which the condition is met at the last step of a run, if the alarm goes off there; else None.

        It goes off where the condition has been met at the last `patience` steps, and at none before these.

        Parameters
        ----------
        run : xarray.Dataset
            As `tracker.to_dataset()` gives it.
        """
        met = [check(run.isel(step=[at]), self.expression) for at in range(run.sizes["step"])]
        streak = 0
        for one in reversed(met):
            if not one.findings:
                break
            streak += 1
        return met[-1] if streak == self.patience else None

    def act(self, found: Checks) -> bool:
        """Run the alarm's action, and say whether training is to stop.

        Parameters
        ----------
        found : Checks
            What `found` returned.
        """
        if callable(self.action):
            self.action(found)
            return False
        ending = f" ({self.patience} records in a row)" if self.patience > 1 else ""
        warnings.warn(f"{found.findings[0]}{ending}", AlarmWarning, stacklevel=4)
        return self.action == "stop"

"""The steps of a run at which something is recorded."""

import re
import time
from typing import Any

from neurocollapse.support.checks import positive_number
from neurocollapse.support.text import visible

LOG_FACTOR = 1.25
"""Growth of logarithmic steps: the next is at least a quarter larger, about ten in a decade."""
_CHOICES = 'a number of steps, "epoch", "log", or a share of wall time such as "5%"'


class Rhythm:
    """Decides at each step whether it is recorded.

    Parameters
    ----------
    every : number or str, optional
        None or "epoch": every step that is handed over. A number: a step at least so far from the last record. "log":
        one at least a quarter larger. "5%": as often as keeps recording within that share of wall time.

    Raises
    ------
    ValueError, TypeError
        If `every` is something else.
    """

    def __init__(self, every: Any = None) -> None:
        self.every = every
        self.spent = 0.0
        self._cost = 0.0
        self._start: float | None = None
        self._share = _share(every)
        self._distance = None
        if every not in (None, "epoch", "log") and self._share is None:
            if isinstance(every, str):
                raise ValueError(f"`every` must be {_CHOICES}, got {visible(repr(every), most=60)}")
            self._distance = positive_number("every", every)

    @property
    def by_time(self) -> bool:
        """Whether it depends on the clock, which differs from process to process."""
        return self._share is not None

    def due(self, step: float, last: float | None) -> bool:
        """Whether to record at a step, after a last record."""
        if self._start is None:
            self._start = time.monotonic()
        if last is None:
            return True
        if self._share is not None:
            return self.spent + self._cost <= self._share * (time.monotonic() - self._start)
        if self.every == "log":
            return step >= max(1.0, LOG_FACTOR * last)
        return self._distance is None or step - last >= self._distance

    def add(self, seconds: float) -> None:
        """Count what a record has cost."""
        self.spent += seconds
        self._cost = seconds


def _share(every: Any) -> float | None:
    """A share of wall time, as a part of one."""
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*%\s*", every) if isinstance(every, str) else None
    if found is None:
        return None
    if not 0 < float(found[1]) <= 100:
        raise ValueError(f"`every` must be a share above 0% and up to 100%, got {every!r}")
    return float(found[1]) / 100

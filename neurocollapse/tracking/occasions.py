"""When the callback of a trainer records: after epochs, evaluations, or updates of the weights."""

import re
from typing import Any

from neurocollapse.support.checks import integer
from neurocollapse.support.text import visible
from neurocollapse.tracking.rhythm import Rhythm

_EPOCHS = re.compile(r"\s*(\d+)\s+epochs?\s*")
_UPDATE, _EPOCH = "update", "epoch"


class Occasions:
    """Decides after each event of a training whether it is one to record at.

    Parameters
    ----------
    every : str or int
        "epoch" or "10 epochs"; a number of updates; "log" or a share of wall time such as "5%", of which a tracker's
        `Rhythm` chooses among all updates; or the name of another event.
    others : tuple of str
        Names of the other events that there are.

    Attributes
    ----------
    rhythm : str or None
        The `every` of the tracker, where that is to choose among updates.

    Raises
    ------
    ValueError, TypeError
        If `every` is something else.
    """

    def __init__(self, every: Any, others: tuple[str, ...] = ()) -> None:
        self.every = every
        self.rhythm: str | None = None
        self._event, self._number, self._step = _UPDATE, 1, 0
        if not isinstance(every, str):
            self._number = integer("every", every, least=1)
        elif every in (_EPOCH, *others):
            self._event = every
        elif (found := _EPOCHS.fullmatch(every)) and int(found[1]):
            self._event, self._number = _EPOCH, int(found[1])
        else:
            self.rhythm = _rhythm(every, others)

    @property
    def at_epochs(self) -> bool:
        """Whether epochs are what it waits for."""
        return self._event == _EPOCH

    def start(self, step: int) -> None:
        """Count updates from here: 0, or where a training resumes."""
        self._step = step

    def after_update(self, step: int) -> bool:
        """Whether to record now that so many updates are done; several may have been at once, or none."""
        before, self._step = self._step, step
        return self._event == _UPDATE and step // self._number > before // self._number

    def after_epoch(self, count: int) -> bool:
        """Whether to record at the end of this epoch, the first being 1."""
        return self._event == _EPOCH and count % self._number == 0

    def after(self, event: str) -> bool:
        """Whether to record after another event."""
        return self._event == event


def _rhythm(every: str, others: tuple[str, ...]) -> str:
    """A rhythm of updates in words."""
    try:
        Rhythm(every)
    except ValueError:
        names = ", ".join(f'"{name}"' for name in (*others, _EPOCH, "10 epochs"))
        raise ValueError(
            f'`every` must be {names}, a number of updates, "log" or a share of wall time such as "5%", '
            f"got {visible(repr(every), most=60)}"
        ) from None
    return every

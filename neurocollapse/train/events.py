"""The moments of a training run at which an event is called, and what it is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import nn

from neurocollapse.support.checks import shown
from neurocollapse.support.choices import check_choice

EVENTS = ("on_start", "before_epoch", "after_batch", "after_epoch", "on_end")


@dataclass(frozen=True)
class Progress:
    """The state of training, as every event receives it.

    ============  =====================================================================================
    event         loss and accuracy
    ============  =====================================================================================
    on_start      NaN, or those of the last finished epoch of a resumed run
    before_epoch  the same
    after_batch   of the batch, measured before its update
    after_epoch   means over the epoch's samples, each measured in its batch (in train mode)
    on_end        those of the last epoch
    ============  =====================================================================================

    Attributes
    ----------
    epoch
        Number of finished epochs: 0 in the first `before_epoch`, 1 in the first `after_epoch`.
    step
        Number of finished optimizer steps.
    loss
        Mean loss per sample.
    accuracy
        Part of the samples classified correctly, in [0, 1].
    model
        The model in training, in train mode.
    """

    epoch: int
    step: int
    loss: float
    accuracy: float
    model: nn.Module = field(repr=False)


Event = Callable[[Progress], object]


@runtime_checkable
class Journal(Protocol):
    """An event that keeps a file of its own, which must not fall behind that of the training.

    A training with a `resume` file asks it to write before it writes itself. After a crash at any moment, the journal
    then knows at least as much as the training, and drops what the training repeats.
    """

    def __call__(self, progress: Any) -> object:
        """Take note of an event."""

    def commit(self, progress: Any) -> None:
        """Write everything up to this step."""

    def resume(self, progress: Any) -> None:
        """Go on behind this step, and forget later ones; raise if earlier ones are missing."""


def journals(events: Mapping[str, Any]) -> list[Journal]:
    """The events that keep files of their own, each once."""
    return list({id(event): event for event in events.values() if isinstance(event, Journal)}.values())


def checked_events(events: Any, names: tuple[str, ...] = EVENTS) -> dict[str, Any]:
    """Return the events, or say which name is unknown or which value cannot be called."""
    events = {} if events is None else events
    if not isinstance(events, Mapping):
        raise TypeError(f"`events` must map names to functions, got {shown(events)}")
    for name, event in events.items():
        check_choice("events", name, names)
        if not callable(event):
            raise TypeError(f"`events[{name!r}]` must be callable, got a {type(event).__name__}")
    return dict(events)

"""Ctrl-C between batches, not within one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from neurocollapse.support.undo import undoing


@contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Let Ctrl-C take effect at the end of the block, so that no batch is left half counted; a second one at once."""
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is None:
        yield  # only the main thread may set a handler, and one that was not set from Python cannot be put back
        return
    pending = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pending
        if pending and callable(previous):
            previous(number, frame)
        pending = True

    with undoing() as undo:
        undo.add(signal.signal, signal.SIGINT, previous)
        signal.signal(signal.SIGINT, remember)
        yield
    if pending and callable(previous):
        previous(signal.SIGINT, None)

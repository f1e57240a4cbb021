"""Putting things back as they were, also where an interrupt lands in the middle of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any


class Undo:
    """Steps that put things back, run last one first.

    Add a step before what it undoes takes effect: then no interrupt falls between the two. A step must do no harm where
    its change has not been made yet, or is undone already, as closing starts again where an interrupt has stopped it.

    Examples
    --------
    >>> undo, names = Undo(), {"before"}
    >>> undo.add(names.discard, "now")
    >>> names.add("now")
    >>> undo.close()
    >>> names
    {'before'}
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, step: Callable[..., object], *arguments: Any) -> None:
        """Add a step, with what it is called with."""
        self._steps.append(partial(step, *arguments))

    def close(self) -> None:
        """Run all steps, and forget them."""
        try:
            self._run()
        finally:
            self._run()  # what an interrupt has left of it

    def _run(self) -> None:
        """Forget each step only once it has run to its end."""
        while self._steps:
            self._steps[-1]()
            self._steps.pop()


@contextmanager
def undoing() -> Iterator[Undo]:
    """Run the steps that are added inside the block when it ends, however it ends.

    Closed twice, as one interrupt can keep either from beginning. A context manager that is a generator has a third
    chance: where a `with` statement is interrupted before it leaves the block, the generator is closed with its frame.
    """
    undo = Undo()
    try:
        try:
            yield undo
        finally:
            undo.close()
    finally:
        undo.close()


def locked(change: Callable[..., object], *arguments: Any) -> None:
    """Call a function while no other thread is in here."""
    with undoing() as undo:
        undo.add(_unlock)
        _LOCK.acquire()
        change(*arguments)


def _unlock() -> None:
    """Give the lock back if this thread has it."""
    with suppress(RuntimeError):
        _LOCK.release()


_LOCK = threading.RLock()
"""Taken again by the same thread where the garbage collector closes a generator inside `locked`."""

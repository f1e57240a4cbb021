"""Progress on standard error, which leaves standard output to results: bars, or lines where nobody sees a bar move."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm

INTERVAL = 15.0
"""Seconds without a line, after which a bar in a log writes one."""


class _StandardError:
    """Standard error, unknown to tqdm: where that knows the stream, it flushes standard output as well.

    Standard output may be full, or its reader gone. That must not end a run before its results are saved.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


class _Log:
    """Lines on standard error: of bars one every `INTERVAL` seconds at most, so that a quick run stays silent."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._latest = clock()

    def say(self, text: str) -> None:
        """Write a line; a log that is full or gone must not end a run before its results are saved."""
        self._latest = self._clock()
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)

    def say_if_due(self, text: str) -> None:
        """Write a line, unless the last one is too recent."""
        if self._clock() - self._latest >= INTERVAL:
            self.say(text)


class _Lines(tqdm):
    """A bar that is written as lines."""

    def __init__(self, items: Iterable[Any] | None, log: _Log, **options: Any) -> None:
        self._log = log  # decides when a line is due, so the bar shows itself after each item
        super().__init__(items, **options | {"leave": False, "mininterval": 0, "miniters": 1, "file": _StandardError()})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write where the bar is, unless tqdm wants to clear it."""
        if msg is None:
            unit = "" if self.unit == "it" else f"{self.unit} "
            total = "" if self.total is None else f" of {self.total}"
            postfix = f", {self.postfix}" if self.postfix else ""
            self._log.say_if_due(f"{self.desc or 'progress'}: {unit}{self.n}{total}{postfix}")

    def write(self, text: str, **_: Any) -> None:
        """Write what is said beside the bar."""
        self._log.say_if_due(text)


_log: _Log | None = None


@contextmanager
def progress_in_lines(clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Write progress as lines where standard error is no terminal: the command line's choice, for logs.

    Between two lines pass 15 seconds, and as many more as an item takes; the first comes that long after the start.

    Parameters
    ----------
    clock
        Gives the seconds.

    Examples
    --------
    >>> with progress_in_lines():
    ...     list(progress_bar([1, 2], shown=False))
    [1, 2]
    """
    global _log
    before, _log = _log, _Log(clock)
    try:
        yield
    finally:
        _log = before


def progress_bar(items: Iterable[Any] | None, *, shown: bool, in_notebooks: bool = False, **options: Any) -> Any:
    """A bar over some items, if it is to be shown and standard error is a terminal, or a notebook where that is asked.

    Elsewhere nothing is shown, or lines where `progress_in_lines` asks for them.

    Parameters
    ----------
    items
        What to go through; None for a bar that the caller moves.
    shown
        Whether anybody wants to see it.
    in_notebooks
        Show it in notebooks as well.
    **options
        As `tqdm.tqdm` takes them.

    Examples
    --------
    >>> list(progress_bar([1, 2], shown=False))
    [1, 2]
    """
    visible = shown and (sys.stderr.isatty() or (in_notebooks and in_notebook()))
    if shown and not visible and _log is not None:
        return _Lines(items, _log, **options)
    return tqdm(items, file=_StandardError(), disable=not visible, **options)


def announce(step: str, *, shown: bool) -> None:
    """Say which step begins, where a bar or lines would be shown; for steps without a bar of their own.

    Parameters
    ----------
    step
        What begins.
    shown
        Whether anybody wants to see it.

    Examples
    --------
    >>> announce("drawing", shown=False)
    """
    if shown and _log is not None:
        _log.say(step)
    elif shown and sys.stderr.isatty():
        print(step, file=sys.stderr, flush=True)


def in_notebook() -> bool:
    """Whether this code runs in the kernel of a notebook: libraries of Jupyter may be imported elsewhere, too."""
    shell_of = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return shell_of is not None and hasattr(shell_of(), "kernel")

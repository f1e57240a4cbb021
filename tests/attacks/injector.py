"""Raises an error at any one of the lines that an action executes inside some folders."""

import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from neurocollapse import hooks, passes


def _folder(package: ModuleType) -> str:
    """Where a package's files lie: `hooks` has a folder of its own beside the others in a checkout."""
    return str(Path(package.__file__).resolve().parent)


HOOKS = _folder(hooks)
PASSES = _folder(passes)


class Injector:
    """Counts the executed lines of files in some folders, and raises at one of them.

    Parameters
    ----------
    folders : tuple of str
        Resolved paths; lines of other files are neither counted nor interrupted.
    at : int, optional
        Number of the line, counted from 1, at which to raise, before it runs. None only counts.
    error : callable, default KeyboardInterrupt
        Makes the error.

    Attributes
    ----------
    count : int
        Lines counted so far.
    place : str
        File and line of the error, empty as long as there is none.
    places : dict of (file, line) to list of int
        The numbers of each line of the source.
    """

    def __init__(
        self, folders: tuple[str, ...], at: int | None = None, error: Callable[[], BaseException] = KeyboardInterrupt
    ) -> None:
        self.folders, self.at, self.error = folders, at, error
        self.count, self.place = 0, ""
        self.places: dict[tuple[str, int], list[int]] = {}
        self._inside: dict[str, bool] = {}

    def run(self, action: Callable[[], object]) -> BaseException | None:
        """Run an action under the injector; what it raised, without the frames that the error would keep alive."""
        with self._tracing():
            try:
                action()
            except BaseException as error:
                error.__traceback__ = None
                return error
        return None

    @contextmanager
    def _tracing(self):
        """Trace this thread, and put back the trace function of before: a debugger's, or that of coverage."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame, event, argument):
        """Follow the lines of a function if its file is meant; a generator is called again each time it goes on."""
        name = frame.f_code.co_filename
        if name not in self._inside:
            self._inside[name] = str(Path(name).resolve()).startswith(self.folders)
        return self._line if self._inside[name] else None

    def _line(self, frame, event, argument):
        """Count one line; Python stops tracing by itself when this raises."""
        if event == "line":
            self.count += 1
            self.places.setdefault((frame.f_code.co_filename, frame.f_lineno), []).append(self.count)
            if self.count == self.at:
                self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise self.error()
        return self._line


def executed_lines(action: Callable[[], object], folders: tuple[str, ...]) -> Injector:
    """An injector that has counted the lines of an action."""
    injector = Injector(folders)
    error = injector.run(action)
    if error is not None:
        raise error
    return injector

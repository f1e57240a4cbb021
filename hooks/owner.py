"""One thread at a time owns a model, because hooks and modes set by two threads would mix on its modules."""

import threading
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from torch import nn

from neurocollapse.hooks.errors import CaptureError
from neurocollapse.support.undo import Undo, locked


def claim(modules: Iterable[nn.Module], undo: Undo) -> None:
    """Take modules for this thread, which may take them several times, until `undo` is closed.

    Raises
    ------
    CaptureError
        If a thread that is still running has one of them.
    """
    modules, token = list(modules), object()
    undo.add(locked, _give_back, modules, token)
    locked(_take, modules, token)


_OWNERS: "WeakKeyDictionary[nn.Module, dict[object, threading.Thread]]" = WeakKeyDictionary()
"""Module → the threads that hold it, once for each claim."""


def _take(modules: list[nn.Module], token: object) -> None:
    """Enter one claim, if no other thread has any on these modules."""
    here = threading.current_thread()
    for module in modules:
        for thread in _OWNERS.get(module, {}).values():
            if thread is not here and thread.is_alive():
                raise CaptureError(
                    f"{type(modules[0]).__name__} is in use: thread {thread.name!r} captures features of it, or of a "
                    "part of it; use one model in one thread at a time, or give each thread a copy.deepcopy of it"
                )
    for module in modules:
        _OWNERS.setdefault(module, {})[token] = here


def _give_back(modules: list[nn.Module], token: object) -> None:
    """Take one claim out again."""
    for module in modules:
        owners = _OWNERS.get(module, {})
        owners.pop(token, None)
        if not owners:
            _OWNERS.pop(module, None)

"""Trackers for trainers of other libraries, each imported when it is first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurocollapse.tracking.transformers_callback import Transformers

__all__ = ["Transformers"]

_LIBRARIES = {"Transformers": ("transformers", "text")}
"""Callback → the library that it is for, and the extra that brings it."""


def __getattr__(name: str) -> Any:
    """Import the callback of a library that need not be installed."""
    if name not in _LIBRARIES:
        known = ", ".join(_LIBRARIES)
        raise AttributeError(f"module 'neurocollapse.callbacks' has no attribute {name!r}; there are {known}")
    library, extra = _LIBRARIES[name]
    try:
        return getattr(import_module(f"neurocollapse.tracking.{library}_callback"), name)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise ImportError(f"{library} is not installed; pip install 'neurocollapse[{extra}]'") from error

"""Trackers for trainers of other libraries, each imported when it is first used."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurocollapse.tracking.lightning_callback import Lightning
    from neurocollapse.tracking.transformers_callback import Transformers

__all__ = ["Lightning", "Transformers"]

_LIBRARIES = {
    "Lightning": ("lightning", ("lightning", "pytorch_lightning"), "lightning"),
    "Transformers": ("transformers", ("transformers",), "text"),
}
"""Callback → the module that holds it, the packages one of which it needs, and the extra that brings it."""


def __getattr__(name: str) -> Any:
    """Import the callback of a library that need not be installed."""
    if name not in _LIBRARIES:
        known = ", ".join(_LIBRARIES)
        raise AttributeError(f"module 'neurocollapse.callbacks' has no attribute {name!r}; there are {known}")
    library, packages, extra = _LIBRARIES[name]
    if not any(map(is_installed, packages)):
        raise ImportError(f"{library} is not installed; pip install 'neurocollapse[{extra}]'")
    return getattr(import_module(f"neurocollapse.tracking.{library}_callback"), name)


def is_installed(package: str) -> bool:
    """Whether a package could be imported."""
    try:
        return find_spec(package) is not None
    except ValueError:  # a None in sys.modules, by which it is said to be absent
        return False

"""The compiled code of the package, which an installation may lack: the one place that asks whether it is there."""

from importlib import import_module
from typing import Any, TypeVar

Choice = TypeVar("Choice")

try:
    _kernel: Any = import_module("neurocollapse.statistics._kernel")  # by name: it may not be there
except ImportError as error:
    MISSING = str(error)
else:
    add_rows, group_rows = _kernel.add_rows, _kernel.group_rows
    MISSING = ""
"""Why there is no compiled code; empty where there is some."""


def built(compiled: Choice, otherwise: Choice) -> Choice:
    """The first where there is compiled code, else the second."""
    return otherwise if MISSING else compiled


def check_built(asked_by: str) -> None:
    """Raise ValueError where there is no compiled code, though somebody asks for it."""
    if MISSING:
        raise ValueError(
            f"{asked_by}, but this installation has no compiled kernel ({MISSING}); install again where there is a C "
            "compiler, or leave the variable out"
        )

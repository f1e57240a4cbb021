"""The compiled code of the package, which an installation may lack."""

from importlib import import_module
from typing import Any

try:
    kernel: Any = import_module("neurocollapse.statistics._kernel")  # by name: it may not be there
except ImportError as error:
    kernel, MISSING = None, str(error)
else:
    MISSING = ""
"""Why there is no compiled code; empty where there is some."""

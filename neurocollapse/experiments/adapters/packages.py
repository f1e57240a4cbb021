"""Optional packages that import torchvision if it is installed, and fail where it was built for another torch."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from neurocollapse.models import ModelError


@contextmanager
def without_unusable_torchvision() -> Iterator[None]:
    """Hide torchvision while a package looks for it, if it is installed and cannot be imported.

    transformers' text models and PEFT do not need it, but stop where its import raises.
    """
    hide = "torchvision" not in sys.modules and not _torchvision_works()
    if hide:
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # how Python marks what cannot be had
    try:
        yield
    finally:
        if hide:
            del sys.modules["torchvision"]


def peft() -> Any:
    """The package PEFT, or an error that says how to install it or do without.

    Raises
    ------
    ModelError
        If it is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise ModelError(
            "AdaLoRA needs peft, which is not installed; pip install 'neurocollapse[adapters]', or set other methods"
        )
    with without_unusable_torchvision():
        return importlib.import_module("peft")


def _torchvision_works() -> bool:
    """Whether torchvision can be imported, or is not there."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        return error.name == "torchvision"
    except Exception:  # operators of another torch's build raise RuntimeError and more
        return False
    return True

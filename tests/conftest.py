"""One thread, one random state and a clean pyplot for every test, and torchvision beside a CPU build of torch.

Sums on several threads differ in their last bits from machine to machine, and threads stall where cores are shared; the
variable reaches the processes that tests start. Layers that a test makes without a seed of its own begin with the same
weights in every run and order.

A torchvision wheel whose compiled operators do not fit the installed torch refuses to import, although its models are
plain Python. Where that is so, the operators are declared here without an implementation, before anything imports
torchvision: models then run, and only detection operators such as nms do not.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch reads it
os.environ["TRITON_INTERPRET"] = "1"  # before Triton reads it: its kernels run on the CPU

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_state() -> None:
    """Start every test from one random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _leave_no_figures() -> Iterator[None]:
    """Close what a test drew."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


def _loads(library: Path) -> bool:
    """Whether a compiled library fits this torch."""
    try:
        torch.ops.load_library(library)
    except OSError:
        return False
    return True


def _declare_torchvision_operators() -> torch.library.Library | None:
    """Declare the operators that torchvision describes, unless its own compiled ones can be loaded."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent
    if any(_loads(library) for library in folder.glob("_C*.so")):
        return None
    described = (folder / "_meta_registrations.py").read_text()
    names = {"nms", *re.findall(r"register_(?:meta|fake)\(\"(?:torchvision::)?(\w+)\"", described)}
    library = torch.library.Library("torchvision", "DEF")
    for name in names:
        library.define(f"{name}(Tensor x) -> Tensor")
    return library


# Kept for the whole run: the declarations end with the object.
TORCHVISION_OPERATORS = _declare_torchvision_operators()

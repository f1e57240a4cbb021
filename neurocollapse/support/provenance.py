"""Where a result comes from: versions, model, device, seed, time and command, as plain strings and numbers."""

import datetime
import functools
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neurocollapse.support.progress import in_notebook

DEFAULT_SEED = 67280421310721
"""What torch.initial_seed() says in a process that has set no seed."""


def describe_run(model: nn.Module, device: torch.device) -> dict[str, Any]:
    """Provenance of a run over `model`, for the attributes of its results."""
    return describe_process() | {
        "model": type(model).__name__,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": str(device),
        "seed": "not set" if torch.initial_seed() == DEFAULT_SEED else str(torch.initial_seed()),
    }


def describe_process() -> dict[str, str]:
    """Versions, time and command of this process."""
    return {
        "neurocollapse_version": _own_version(),
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command_line(),
    }


@functools.cache
def _own_version() -> str:
    """The installed version: reading it takes as long as a small layer's statistics."""
    return version("neurocollapse")


def command_line() -> str:
    """The command that this process was started with, or "interactive" in a notebook or a prompt."""
    if in_notebook() or not sys.argv or not sys.argv[0]:
        return "interactive"
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])

"""State on disk: safetensors with a JSON header, written in one step, read without running code."""

import json
import os
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neurocollapse.support.atomic import replacing

FORMAT_VERSION = 1
_KEY = "neurocollapse"


class StateFileError(ValueError):
    """A state file that is missing, damaged, or of another kind or version."""


def write_state(path: str | PathLike[str], kind: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write tensors and a JSON header to `path`: a reader sees the old file or the new one, never a part.

    Raises
    ------
    StateFileError
        If the folder does not exist or cannot be written to, the disk is full, or `path` is a folder.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise StateFileError(f"cannot write {target}: there is no such folder; name a folder that exists")
    text = json.dumps({"kind": kind, "version": FORMAT_VERSION, **header})
    try:
        with replacing(target) as part:
            save_file(_unshared(tensors), part, metadata={_KEY: text})
            with part.open("rb+") as file:
                os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
        raise StateFileError(f"cannot write {target}: {reason}; name another file") from error


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, contiguous, with a copy of each whose memory another one uses, which safetensors refuses."""
    unshared: dict[str, Tensor] = {}
    pointers: set[int] = set()
    for name, tensor in tensors.items():
        repeated = tensor.untyped_storage().data_ptr() in pointers
        unshared[name] = tensor.clone(memory_format=torch.contiguous_format) if repeated else tensor.contiguous()
        pointers.add(tensor.untyped_storage().data_ptr())
    return unshared


def read_state(path: str | PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file that `write_state` wrote.

    Raises
    ------
    StateFileError
        If the file is missing, not safetensors, or of another kind or version.
    """
    target = Path(path)
    if not target.is_file():
        raise StateFileError(f"{target} does not exist or is not a file")
    try:
        with safe_open(str(target), framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            header = json.loads(text) if text is not None else None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise StateFileError(f"{target} is not a readable state file ({error}); delete it to start afresh") from error
    if not isinstance(header, dict) or "kind" not in header:
        raise StateFileError(f"{target} is a safetensors file, but not one of neurocollapse's; name another file")
    if (header["kind"], header.get("version")) != (kind, FORMAT_VERSION):
        found = f"{header['kind']} (version {header.get('version')})"
        raise StateFileError(f"{target} holds {found}, not {kind} (version {FORMAT_VERSION}); name another file")
    return header, tensors

"""State on disk: safetensors with a JSON header and a checksum, written in one step, read without running code."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neurocollapse.support.atomic import replacing
from neurocollapse.support.text import first_line, visible

FORMAT_VERSION = 1
_HEADER, _CHECKSUM = "neurocollapse", "checksum"
_UNSEALED = "0" * 64
_SEAL = re.compile(rf'"{_CHECKSUM}":"([0-9a-f]{{{len(_UNSEALED)}}})"'.encode())
"""As it stands in the file; inside any text of the header its quotation marks would be escaped."""
_BLOCK = 2**20
_ADVICE = "delete it, or name another file"


class StateFileError(ValueError):
    """A state file that is missing, damaged, or of another kind or version."""


def write_state(
    path: str | PathLike[str],
    kind: str,
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    error: type[Exception] = StateFileError,
) -> None:
    """Write tensors and a JSON header to `path`: a reader sees the old file or the new one, never a part.

    Parameters
    ----------
    path : path-like
        The file to write.
    kind : str
        What it holds; `read_state` asks for the same.
    header : mapping
        What JSON can express.
    tensors : mapping of str to Tensor
        What is kept.
    error : type of Exception, default StateFileError
        What is raised for a file that cannot be written.

    Raises
    ------
    StateFileError
        If the folder does not exist or cannot be written to, the disk is full, or `path` is a folder.
        `error` names another class for it.
    """
    text = json.dumps({"kind": kind, "version": FORMAT_VERSION, **header})
    with replacing(path, error=error) as part:
        write_tensors(part, tensors, {_HEADER: text})


def read_state(
    path: str | PathLike[str], kind: str, *, error: type[Exception] = StateFileError, copied: bool = True
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the header and tensors of a file that `write_state` wrote.

    Tensors that are not `copied` are those of the mapped file, see `read_tensors`.

    Parameters
    ----------
    path : path-like
        The file to read.
    kind : str
        What it must hold, as given to `write_state`.
    error : type of Exception, default StateFileError
        What is raised for a file that cannot be read.
    copied : bool, default True
        Copy the tensors into memory, so that the file may change afterwards.

    Raises
    ------
    StateFileError
        If the file is missing, not safetensors, of another kind or version, or a byte of it has changed.
        `error` names another class for it.
    """
    metadata, tensors = read_tensors(path, error=error, copied=copied)
    place = visible(path)
    try:
        header = json.loads(metadata[_HEADER])
        found = header["kind"], header["version"]
    except (KeyError, TypeError, ValueError):
        raise error(f"{place} is a safetensors file, but not one of neurocollapse's; name another file") from None
    if found != (kind, FORMAT_VERSION):
        held, wanted = (f"{one} (version {version})" for one, version in (found, (kind, FORMAT_VERSION)))
        raise error(f"{place} holds {held}, not {wanted}; name another file")
    if _CHECKSUM not in metadata:
        raise error(f"{place} is damaged: its checksum is missing; {_ADVICE}")
    return header, tensors


def write_tensors(part: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whose checksum, the SHA-256 of the file with zeros in its place, is in the metadata."""
    try:
        save_file(_unshared(tensors), part, metadata={**metadata, _CHECKSUM: _UNSEALED})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        words = (int(number[1]), os.strerror(int(number[1]))) if number else (first_line(error),)
        raise OSError(*words) from error
    with part.open("r+b") as file:
        place, _, computed = _seal(file)
        file.seek(place)
        file.write(computed)


def read_tensors(
    path: str | PathLike[str], *, error: type[Exception] = StateFileError, copied: bool = True
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and tensors of any safetensors file, and a look at the checksum if it has one.

    Tensors that are not `copied` live in the mapped file, which may be overwritten: copy each before it is kept.

    Raises
    ------
    StateFileError
        If the file is missing, not safetensors, or its checksum is not that of its bytes.
        `error` names another class for it.
    """
    place = visible(path)
    if not Path(path).is_file():
        raise error(f"{place} does not exist or is not a file")
    try:
        with safe_open(os.fspath(path), framework="pt") as opened, Path(path).open("rb") as file:
            metadata = opened.metadata() or {}
            if _CHECKSUM in metadata:
                _, stored, computed = _seal(file)
                if stored != computed:
                    raise error(f"{place} is damaged: it has another checksum than when it was written; {_ADVICE}")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
            if copied:
                tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    except (SafetensorError, OSError) as failure:
        raise error(f"{place} is not a readable safetensors file ({first_line(failure)}); {_ADVICE}") from failure
    return metadata, tensors


def _seal(file: BinaryIO) -> tuple[int, bytes, bytes]:
    """Where a file keeps its checksum, the one that it has there, and that of its bytes."""
    size = file.read(8)
    header = file.read(int.from_bytes(size, "little"))
    found = _SEAL.search(header)
    if found is None:
        return 0, b"", _UNSEALED.encode()
    start, end = found.span(1)
    checksum = hashlib.sha256(size + header[:start] + _UNSEALED.encode() + header[end:])
    while block := file.read(_BLOCK):
        checksum.update(block)
    return len(size) + start, found[1], checksum.hexdigest().encode()


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, with a copy of each whose memory another one uses: safetensors refuses it."""
    unshared: dict[str, Tensor] = {}
    pointers: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        repeated = tensor.untyped_storage().data_ptr() in pointers
        unshared[name] = tensor.clone(memory_format=torch.contiguous_format) if repeated else tensor.contiguous()
        pointers.add(tensor.untyped_storage().data_ptr())
    return unshared

"""Tensors on disk: memory-mapped files without a name, of which only what is touched is in memory."""

import math
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from neurocollapse.support.state import StateFileError
from neurocollapse.support.text import first_line, visible


class Place(NamedTuple):
    """Where matrices with a row for each class are kept: on a device, or in a folder.

    Attributes
    ----------
    device : torch.device
    folder : Path or None
    """

    device: torch.device
    folder: Path | None = None

    def zeros(self, num_classes: int, num_features: int, dtype: torch.dtype) -> Tensor:
        """A matrix of zeros."""
        if self.folder is not None:
            return mapped_zeros(self.folder, (num_classes, num_features), dtype)
        return torch.zeros(num_classes, num_features, dtype=dtype, device=self.device)

    def moved(self, matrix: Tensor, num_classes: int, dtype: torch.dtype | None = None) -> Tensor:
        """A copy of a matrix with room for more classes, or in another dtype."""
        copy = self.zeros(num_classes, matrix.shape[1], dtype or matrix.dtype)
        copy[: len(matrix)] = matrix
        return copy


def mapped_zeros(folder: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in a file of their own, which has no name any more and is gone with the tensor or the process.

    Its room on the disk is reserved, where the system can do this: a disk that fills up later would end the process.

    Raises
    ------
    StateFileError
        If the disk is full, or the folder cannot be written to.
    """
    size = math.prod(shape)
    if not size:
        return torch.zeros(shape, dtype=dtype, device="cpu")
    try:
        handle, name = tempfile.mkstemp(".state", "neurocollapse-", folder)
        try:
            num_bytes = size * dtype.itemsize
            os.ftruncate(handle, num_bytes)
            with suppress(AttributeError):  # macOS and Windows have no such call
                os.posix_fallocate(handle, 0, num_bytes)
            return torch.from_file(name, shared=True, size=size, dtype=dtype).view(shape)
        finally:
            os.close(handle)
            os.unlink(name)
    except OSError as error:
        raise StateFileError(
            f"cannot keep state in {visible(folder)}: {error.strerror or first_line(error)}; name another folder in "
            "`state_dir`"
        ) from error


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is.

    Parameters
    ----------
    folder : pathlib.Path
        An existing folder.

    Raises
    ------
    StateFileError
        If there is no such folder.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise StateFileError(f"`state_dir` must be a folder, but {visible(folder)} {found}; name one that exists")
    return shutil.disk_usage(folder).free

"""Rows of numbers out of a stream, a piece at a time: what is not wanted is never held."""

import io
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from neurocollapse.data.labelled import DataError

PIECE_BYTES = 2**24


def read_rows(
    stream: io.BufferedIOBase | IO[bytes],
    shape: tuple[int, ...],
    stored: DTypeLike,
    wanted: Tensor,
    *,
    dtype: DTypeLike,
    path: Path,
) -> NDArray[Any]:
    """Read some rows of an array that a stream holds row by row.

    Parameters
    ----------
    stream
        Read as far as the last row that is wanted, and no further.
    shape, stored
        Shape and type of the whole array.
    wanted : Tensor of ascending indices
        Which rows to keep.
    dtype
        Type to keep them in.
    path
        For messages.

    Returns
    -------
    Array of shape (wanted, …).

    Raises
    ------
    DataError
        If the stream ends before the last row that is wanted.
    """
    row_bytes = math.prod(shape[1:]) * np.dtype(stored).itemsize
    rows = np.empty((len(wanted), *shape[1:]), dtype)
    piece = max(1, PIECE_BYTES // max(1, row_bytes))
    indices, done = wanted.numpy(), 0
    last = int(indices[-1]) + 1 if len(indices) else 0
    for start in range(0, last, piece):
        stop = min(start + piece, last)
        contents = _exactly((stop - start) * row_bytes, stream)
        if len(contents) < (stop - start) * row_bytes:
            raise DataError(
                f"{path} is truncated: its header promises {shape[0] * row_bytes} bytes, "
                f"{start * row_bytes + len(contents)} follow"
            )
        block = np.frombuffer(contents, stored).reshape(stop - start, *shape[1:])
        here = indices[done : done + int(np.searchsorted(indices[done:], stop))] - start
        with np.errstate(over="ignore"):  # beyond the type becomes infinite, and whoever measures says so
            rows[done : done + len(here)] = block[here]
        done += len(here)
    return rows


def _exactly(num_bytes: int, stream: io.BufferedIOBase | IO[bytes]) -> bytes:
    """The next bytes of a stream, fewer only at its end."""
    parts: list[bytes] = []
    while num_bytes > 0 and (part := stream.read(num_bytes)):
        parts.append(part)
        num_bytes -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)

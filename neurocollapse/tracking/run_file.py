"""The file of a run, which at any moment opens with all that is finished."""

import io
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from neurocollapse.support import files
from neurocollapse.support.atomic import write
from neurocollapse.support.text import visible
from neurocollapse.tracking.records import Records, TrackingError

TRACKED = "tracked"
"""Attribute that marks the file of a run."""
CHUNK_VALUES = 512
"""Numbers in one chunk, 4 KiB: a chunk is the least that a variable takes, and the most that one more step rewrites."""


class RunFile:
    """A NetCDF file that grows along `step`: after each record a new image of it takes the place of the old one.

    One more step is added to an image in memory, which takes milliseconds where making a new one takes a second;
    whatever else has changed, such as a scalar that is new, makes a new one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._image = b""
        self._shown: xr.Dataset | None = None
        self._written = self._stamp()

    def read(self) -> Records:
        """The records in the file; none where there is no file.

        Raises
        ------
        ResultFileError
            If it cannot be read.
        TrackingError
            If it is not the file of a run.
        """
        if not self.path.exists():
            return Records()
        found = files.open(self.path)
        if not isinstance(found, xr.Dataset) or TRACKED not in found.attrs:
            raise TrackingError(f"{visible(self.path)} is not the file of a tracked run; name another file")
        del found.attrs[TRACKED]
        return Records.of(found)

    def write(self, records: Records) -> None:
        """Put all records in the place of those in the file.

        Raises
        ------
        TrackingError
            If something else has written to the file meanwhile.
        ResultFileError
            If the system refuses to write.
        """
        if self._stamp() != self._written:
            raise TrackingError(
                f"{visible(self.path)} was changed by something else; give each tracker a file of its own"
            )
        run = records.dataset()
        self._image = _extended(self._image, run) if self._shown is not None and _adds(run, self._shown) else _new(run)
        write(self.path, self._image)
        self._shown, self._written = run, self._stamp()

    def _stamp(self) -> tuple[int, int] | None:
        """What changes when somebody writes the file; None without one."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns


def _new(run: xr.Dataset) -> bytes:
    """The image of a file."""
    sizes = {
        name: [run.sizes[dim] for dim in one.dims[1:]]
        for name, one in run.variables.items()
        if one.dims[:1] == ("step",)
    }
    encoding = {
        str(name): {
            "chunksizes": (max(1, CHUNK_VALUES // max(1, int(np.prod(others)))), *(max(1, size) for size in others))
        }
        for name, others in sizes.items()
    }
    return bytes(files.netcdf(run.assign_attrs({TRACKED: "run"}), unlimited_dims=["step"], encoding=encoding))


def _extended(image: bytes, run: xr.Dataset) -> bytes:
    """The image with the last step of a run."""
    copy = io.BytesIO(image)
    with h5py.File(copy, "a") as file:
        for name, one in run.variables.items():
            if one.dims[:1] == ("step",):
                part = file[str(name)]
                part.resize(run.sizes["step"], axis=0)
                part[-1] = _stored(one.values[-1], part)
        for name, value in run.attrs.items():
            file.attrs[name] = value
    return copy.getvalue()


def _stored(value: Any, part: Any) -> Any:
    """A value as the file holds it: truth values are small integers there."""
    return value if isinstance(value, str) else np.asarray(value).astype(part.dtype)


def _adds(run: xr.Dataset, shown: xr.Dataset) -> bool:
    """Whether a run is what the file shows and one more step."""
    steps, before = run["step"].values, shown["step"].values
    return (
        len(steps) == len(before) + 1
        and np.array_equal(steps[:-1], before)
        and steps.dtype == before.dtype
        and {name: one.dtype for name, one in run.data_vars.items()}
        == {name: one.dtype for name, one in shown.data_vars.items()}
        and set(run.coords) == set(shown.coords)
        and list(run.attrs) == list(shown.attrs)
    )

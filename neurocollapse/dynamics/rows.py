"""Where a tracker's rows are kept: in memory, or in a NetCDF file that grows along `step`."""

import io
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import h5netcdf
import numpy as np
import xarray as xr

from neurocollapse.dynamics.analysis import Memory, Rows
from neurocollapse.dynamics.errors import TrackerError
from neurocollapse.dynamics.layout import SIDES, VARIABLES, Layout
from neurocollapse.dynamics.reference import frame_of
from neurocollapse.support import files
from neurocollapse.support.atomic import replacing, write
from neurocollapse.support.state import read_state, write_state

SECONDS_BETWEEN_WRITES = 5.0
"""Seconds of a run that are lost at most when its process is killed."""
WRITING_SHARE = 0.05
"""Part of the time that writing may take: a long file is written less often."""
MOST_WAITING_BYTES = 2**26
"""Rows wait for their writing in at most 64 MiB."""
CHUNK_VALUES = 8192
"""Numbers in one chunk of a file, 64 KiB: few enough to read a row, many enough to compress."""

START_KIND = "tracker start"
SEEN = "seen"
"""Attribute of a file: the last step that the tracker was given, and the largest gap between two steps, as JSON."""


class Store(Protocol):
    """Rows by step.

    Attributes
    ----------
    seen : tuple of int, or None
        The last step that the tracker was shown, recorded or not, and the most that lay between two of them.
    """

    seen: tuple[int, int] | None

    @property
    def last(self) -> int | None:
        """The last step, None without rows."""

    @property
    def count(self) -> int:
        """The number of rows."""

    @property
    def due(self) -> bool:
        """Whether rows have waited long enough to be written."""

    def keep(self, memory: Memory) -> None:
        """Keep what rows are compared to for a run that goes on."""

    def append(self, steps: Sequence[int], rows: Rows, memory: Memory) -> None:
        """Add rows at the end, and keep what they were compared to."""

    def write(self) -> None:
        """Write the rows that wait, and the steps seen."""

    def cut(self, step: int) -> int | None:
        """Drop the rows at this step and later; return the last step that stays."""

    def dataset(self) -> xr.Dataset:
        """All rows, labelled."""


class InMemory:
    """Rows in a list of blocks."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.steps: list[int] = []
        self.blocks: Rows = layout.rows(0)
        self._new: list[Rows] = []
        self.due = False
        self.seen: tuple[int, int] | None = None

    def keep(self, memory: Memory) -> None:
        """The memory lives as long as the rows do."""

    def write(self) -> None:
        """Nothing waits."""

    @property
    def last(self) -> int | None:
        """The last step, None without rows."""
        return self.steps[-1] if self.steps else None

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self.steps)

    def append(self, steps: Sequence[int], rows: Rows, memory: Memory) -> None:
        """Add rows at the end."""
        self.steps.extend(steps)
        self._new.append(rows)

    def cut(self, step: int) -> int | None:
        """Drop the rows at this step and later; return the last step that stays."""
        kept = int(np.searchsorted(self.steps, step))
        self.blocks = {name: values[:kept] for name, values in self._joined().items()}
        self.steps = self.steps[:kept]
        return self.last

    def dataset(self) -> xr.Dataset:
        """All rows, labelled; the arrays are copies."""
        return self.layout.dataset(self.steps, {name: values.copy() for name, values in self._joined().items()})

    def _joined(self) -> Rows:
        """One array a variable."""
        if self._new:
            parts, self._new = [self.blocks, *self._new], []
            self.blocks = {name: np.concatenate([part[name] for part in parts]) for name in self.blocks}
        return self.blocks


class RowFile:
    """Rows in a NetCDF file, which at any moment is whole: every change is made in a copy that takes its place.

    What a continued run compares to (the start, and the singular vectors of the reference step) lies beside it, in a
    file that ends in ".start.safetensors".
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path = path
        self.layout = layout
        self._waiting: list[tuple[list[int], Rows]] = []
        self._kept: tuple[bool, int | None] | None = None
        self._written, self._duration = time.monotonic(), 0.0
        if not path.exists():
            self._create()
        files.check_sealed(path, error=TrackerError)
        steps, self.seen = _steps(path), _seen(path)
        self._last, self._count, self._seen = _last(steps), len(steps), self.seen

    @property
    def last(self) -> int | None:
        """The last step, None without rows."""
        return self._waiting[-1][0][-1] if self._waiting else self._last

    @property
    def count(self) -> int:
        """The number of rows."""
        return self._count + sum(len(steps) for steps, _ in self._waiting)

    @property
    def due(self) -> bool:
        """Whether it is time to write: after some seconds, but so that writing takes a small part of them."""
        return time.monotonic() - self._written > max(SECONDS_BETWEEN_WRITES, self._duration / WRITING_SHARE)

    def append(self, steps: Sequence[int], rows: Rows, memory: Memory) -> None:
        """Add rows at the end, and first, if it is new, keep what they are compared to."""
        if self._kept != _kind(memory):
            self.keep(memory)
        self._waiting.append((list(steps), rows))
        if sum(values.nbytes for _, waiting in self._waiting for values in waiting.values()) > MOST_WAITING_BYTES:
            self.write()

    def write(self) -> None:
        """Write the rows that wait, and the steps seen, in one step."""
        self._written = time.monotonic()
        if not self._waiting and self.seen == self._seen:
            return
        with self._edited() as file:
            self._check_is_ours(file.variables["step"][...])
            for steps, rows in self._waiting:
                before = len(file.dimensions["step"])
                file.resize_dimension("step", before + len(steps))
                for name, values in rows.items():
                    file.variables[name][before:] = values
                file.variables["step"][before:] = np.asarray(steps, dtype=np.int64)
        self._last, self._count, self._waiting = self.last, self.count, []
        self._duration = time.monotonic() - self._written

    def cut(self, step: int) -> int | None:
        """Drop the rows at this step and later; return the last step that stays."""
        self.write()
        self._kept = None
        steps = _steps(self.path)
        self._check_is_ours(steps)
        kept = int(np.searchsorted(steps, step))
        if kept < len(steps):
            with self._edited() as file:
                file.resize_dimension("step", kept)
        self._last, self._count = _last(steps[:kept]), kept
        return self._last

    def dataset(self) -> xr.Dataset:
        """All rows, labelled."""
        self.write()
        found = files.open(self.path)
        if not isinstance(found, xr.Dataset):
            raise TrackerError(f"{self.path} holds no tracked weights; name another file")
        return found

    def keep(self, memory: Memory) -> None:
        """Write what a continued run compares to."""
        tensors = {f"start/{layer}": matrix for layer, matrix in enumerate(memory.start)}
        for layer, (left, right) in enumerate(memory.frames):
            tensors[f"left/{layer}"] = left.vectors
            tensors[f"right/{layer}"] = right.vectors
        about = {name: getattr(memory, name) for name in ("reference_step", "start_is_given", "first_step")}
        write_state(start_file(self.path), START_KIND, {"about": about}, tensors, error=TrackerError)
        self._kept = _kind(memory)

    def _create(self) -> None:
        """Write a file without rows."""
        chunks: dict[str, dict[str, Any]] = {
            name: {"chunksizes": _chunk([self.layout.sizes.get(dim, 0) for dim in dims]), "zlib": True}
            for name, (dims, *_) in VARIABLES.items()
        }
        encoding = {**chunks, "step": {"chunksizes": (1024,)}}
        empty = self.layout.dataset([], self.layout.rows(0))
        image = files.netcdf(empty, unlimited_dims=["step"], encoding=encoding)
        with suppress(OSError):
            start_file(self.path).unlink()  # of a run that was deleted
        write(self.path, files.sealed(image), error=TrackerError)

    @contextmanager
    def _edited(self) -> Iterator[Any]:
        """A copy of the file in memory, open (see `files.netcdf`); it takes the file's place if all goes well."""
        with replacing(self.path, error=TrackerError) as part:
            copy = io.BytesIO(files.unsealed(self.path, error=TrackerError))
            with h5netcdf.File(copy, "a") as file:
                yield file
                file.attrs[SEEN] = json.dumps(self.seen)
            part.write_bytes(files.sealed(copy.getbuffer()))
        self._seen = self.seen

    def _check_is_ours(self, steps: np.ndarray) -> None:
        """Two trackers that append to one file would mix their rows."""
        if _last(steps) != self._last:
            raise TrackerError(
                f"{self.path} ends at step {_last(steps)}, not at {self._last}, where this tracker left it; "
                "give each tracker a file of its own"
            )


def stored_layout(path: Path) -> Layout:
    """What a file tracks.

    Raises
    ------
    TrackerError
        If it is no file of tracked weights.
    """
    try:
        with h5netcdf.File(path, "r") as file:
            layout, missing = Layout.from_json(str(file.attrs["tracked"])), set(VARIABLES) - set(file.variables)
    except Exception as error:  # a damaged file makes HDF5 raise nearly anything
        raise TrackerError(f"{path} holds no tracked weights; name another file") from error
    if missing:
        raise TrackerError(f"{path} has no {min(missing)}: another version wrote it; name another file")
    return layout


def stored_memory(path: Path, layout: Layout) -> Memory:
    """What the rows of a file are compared to.

    The files are written one after the other, so that a process killed in between may leave a reference, or a start
    taken from the first row, whose row is not in the file: these are left out.

    Raises
    ------
    TrackerError
        If the file beside it is missing or damaged.
    """
    last = _last(_steps(path))
    if last is None and not start_file(path).exists():
        return Memory()
    try:
        header, tensors = read_state(start_file(path), START_KIND)
        memory = Memory(**header["about"])
        layers = range(len(layout.names))
        if "start/0" in tensors and (memory.start_is_given or last is not None):
            memory.start = [tensors[f"start/{layer}"] for layer in layers]
        if memory.reference_step is not None and (last is None or memory.reference_step > last):
            memory.reference_step = None
        for layer in layers if memory.reference_step is not None else ():
            left, right = (frame_of(tensors[f"{side}/{layer}"], layer, layout) for side in SIDES)
            memory.frames.append((left, right))
    except (KeyError, TypeError, ValueError) as error:
        raise TrackerError(
            f"{start_file(path)} is missing or damaged, and {path.name} cannot be continued without it; delete both"
        ) from error
    return memory


def start_file(path: Path) -> Path:
    """Where what a file's rows are compared to lies."""
    return path.with_name(f"{path.name}.start.safetensors")


def _steps(path: Path) -> np.ndarray:
    """The steps in a file."""
    with h5netcdf.File(path, "r") as file:
        steps: np.ndarray = file.variables["step"][...]
    return steps


def _seen(path: Path) -> tuple[int, int] | None:
    """The steps that a file's tracker was shown."""
    with h5netcdf.File(path, "r") as file:
        found = json.loads(str(file.attrs.get(SEEN, "null")))
    return None if found is None else (int(found[0]), int(found[1]))


def _last(steps: np.ndarray) -> int | None:
    """The last step, None without any."""
    return int(steps[-1]) if len(steps) else None


def _kind(memory: Memory) -> tuple[bool, int | None]:
    """What changes when the memory does: whether there is a start, and the reference."""
    return bool(memory.start), memory.reference_step


def _chunk(sizes: Sequence[int]) -> tuple[int, ...]:
    """Chunk sizes of a variable whose first axis is `step`."""
    others = [max(size, 1) for size in sizes[1:]]
    return (max(1, CHUNK_VALUES // int(np.prod(others))), *others)

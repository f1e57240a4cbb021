"""How much memory the running statistics will take, known before any of it is allocated."""

import math
import os
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Literal

import torch

from neurocollapse.statistics.kernel_choice import kernel_on
from neurocollapse.support.checks import shown
from neurocollapse.support.choices import Precision, check_choice
from neurocollapse.support.text import visible

StateBytes = Literal[16, 12, 8]
"""Bytes of running state for each class and feature, where it is not kept in float64."""
WIDEST: StateBytes = 16
"""Float32 reference and partial sum with a float64 total: the fastest. It is also what a state in float64 takes."""
WITHOUT_PARTIAL: StateBytes = 12
"""Float32 reference and float64 total, which is all that the compiled kernel needs for few classes."""
GIB = 2**30
NARROW = 128
"""Widest layers with their whole state in float64: it costs little, and errors of few features do not average out."""
HEADROOM = 0.9
"""Share of the free memory that the state may take: the forward pass needs the rest."""


class MemoryPlanError(MemoryError):
    """Statistics that would not fit, refused before the first batch counts."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of running state per layer.

    Attributes
    ----------
    entries : tuple of (name, bytes)
    num_classes : int
    limit : int
        Bytes that the state may take.
    state_bytes : {16, 12, 8}
        Bytes for each class and feature with which these are reckoned.
    folder : str, optional
        Where the state is kept, if not in memory.

    Examples
    --------
    >>> MemoryPlan((("conv", 2**30), ("fc", 2**29)), num_classes=10, limit=2**31)
    MemoryPlan(2 layers, 10 classes: 1.50 GiB of 2.00 GiB)
    """

    entries: tuple[tuple[str, int], ...]
    num_classes: int
    limit: int
    state_bytes: StateBytes = WIDEST
    folder: str | None = None

    @property
    def total(self) -> int:
        """Bytes of all layers together."""
        return sum(size for _, size in self.entries)

    def check(self) -> None:
        """Raise MemoryPlanError if the state does not fit."""
        if self.total <= self.limit:
            return
        largest = sorted(self.entries, key=lambda entry: -entry[1])[:3]
        names = ", ".join(f"{visible(name, most=40)} {size / GIB:.2f}" for name, size in largest)
        narrow = "" if self.state_bytes == WIDEST else f" at {self.state_bytes} bytes per class and feature"
        place = "may be used" if self.folder is None else f"may be used in {visible(self.folder)}"
        raise MemoryPlanError(
            f"the statistics of {len(self.entries)} layers and {self.num_classes} classes need "
            f"{self.total / GIB:.2f} GiB{narrow}, but only {self.limit / GIB:.2f} GiB {place} "
            f"(largest, in GiB: {names}); "
            'select fewer layers or classes (classes=), pool="mean", covariance=False, or raise max_memory'
        )

    def __repr__(self) -> str:
        used, limit = self.total / GIB, self.limit / GIB
        narrow = "" if self.state_bytes == WIDEST else f", {self.state_bytes} bytes per class and feature"
        layers = f"{len(self.entries)} layers, {self.num_classes} classes"
        return f"MemoryPlan({layers}: {used:.2f} GiB of {limit:.2f} GiB{narrow})"


def working_dtype(num_features: int, *, precision: Precision, dtype: torch.dtype) -> torch.dtype:
    """Dtype of references and shifted samples: float64 for double precision, float64 features and narrow layers.

    Parameters
    ----------
    num_features : int
        Features of the layer, d.
    precision : {"single", "double"}
        Precision of the running state.
    dtype : torch.dtype
        Dtype of the features.
    """
    check_choice("precision", precision, Precision)
    needs_double = precision == "double" or dtype == torch.float64 or num_features <= NARROW
    return torch.float64 if needs_double else torch.float32


def state_bytes(
    num_classes: int,
    num_features: int,
    *,
    working: torch.dtype,
    covariance: bool,
    per_element: StateBytes = WIDEST,
    device: torch.device | str = "cpu",
) -> int:
    """Bytes that an accumulator of this size holds, however many samples it sees.

    Parameters
    ----------
    num_classes, num_features : int
        K and d.
    working : torch.dtype
        Dtype of references; see `working_dtype`.
    covariance : bool
        Whether a scatter matrix is kept.
    per_element : {16, 12, 8}, default 16
        Bytes for each class and feature of a wide layer in single precision.
    device : torch.device or str, default "cpu"
        Where the state is kept.
    """
    if working == torch.float64:
        per_element = WIDEST
    elif num_classes <= kernel_on(device).most_in_total:
        per_element = min(per_element, WITHOUT_PARTIAL)
    square = num_features**2 * (8 if working == torch.float64 else 12) if covariance else 0
    return num_classes * (per_element * num_features + 40) + square


def memory_limit(device: torch.device, requested: float | None = None) -> int:
    """Bytes that running state may take on `device`: 90 % of what is free, or `requested` bytes.

    Parameters
    ----------
    device : torch.device
        Where the state is kept.
    requested : float, optional
        Bytes that the user allows.
    """
    if requested is not None:
        if not isinstance(requested, Real):
            raise TypeError(f"`max_memory` must be a number of bytes, got {shown(requested)}; 8 GiB is 8 * 2**30")
        if not 0 < requested < math.inf:
            raise ValueError(f"`max_memory` must be a positive number of bytes, got {requested}; 8 GiB is 8 * 2**30")
        return int(requested)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    return int(HEADROOM * free)


def _free_memory() -> int:
    """Free memory of this machine or of this process's control group, whichever is smaller, in bytes."""
    candidates = [size for size in (_machine_memory(), _group_memory()) if size is not None]
    return min(candidates, default=2**62)


def _machine_memory() -> int | None:
    """Memory that can be had without swapping: MemAvailable on Linux, else the physical memory."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _group_memory(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's control group (version 2) leaves free, where there is one with a limit.

    Cached files count as free: reading a large data set fills the group with them, and they give way when needed.
    """
    try:
        limit, used = (int((root / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        return limit - used + int(statistics.get("inactive_file", 0))
    except (OSError, ValueError):
        return None

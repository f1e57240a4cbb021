"""Which code adds a batch to the running sums: one for the CPU, compiled or of torch's operations, two for GPUs."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from neurocollapse.statistics.compiled import add_rows as add_rows_compiled
from neurocollapse.statistics.extension import built, check_built
from neurocollapse.statistics.kernels import add_rows as add_rows_torch
from neurocollapse.statistics.sorted_rows import add_rows as add_rows_sorted
from neurocollapse.support.text import first_line

KernelName = Literal["torch", "compiled", "sorted", "triton"]
VARIABLE = "NEUROCOLLAPSE_KERNEL"
INTERPRETER = "TRITON_INTERPRET"
"""The variable with which Triton runs its kernels on the CPU, to try them."""


class Kernel(NamedTuple):
    """A way to add a batch to the running sums.

    Attributes
    ----------
    name : {"torch", "compiled", "sorted", "triton"}
    add_rows : callable
        See `neurocollapse.statistics.kernels.add_rows`.
    most_in_total : int
        Classes up to which samples are added to the float64 totals at once. Where there are more, float32 sums of
        several batches are kept beside them, if there is room: fewer bytes come and go with every batch then.
    small : int
        Elements of float32 sums up to which they are moved to the totals before every batch: they round less then.
    shifts_in_scratch : bool
        Whether it shifts all rows in memory of its own, so that large batches are worked on in parts.
    never_waits : bool
        Whether it is for a device whose numbers come late: nothing is read back before the next batch, and what
        `add_rows` returns tells classes apart and not samples.
    """

    name: KernelName
    add_rows: Callable[..., tuple[int | Tensor, Tensor | None]]
    most_in_total: int
    small: int
    shifts_in_scratch: bool
    never_waits: bool

    def widths(self, num_features: int, num_behind: int, *, in_double: bool) -> tuple[int, ...]:
        """Columns of the matrices that totals, and what is behind them, are kept in; see `Sums`.

        Where each operation is a launch, totals in float64 share one matrix with what is behind them, to which one
        operation adds.

        Parameters
        ----------
        num_features : int
            Columns of the totals.
        num_behind : int
            Columns behind them: squares, and perhaps counts.
        in_double : bool
            Whether totals are float64, as what is behind them is.
        """
        if not self.never_waits:
            return num_features, *[1] * num_behind
        return (num_features + num_behind,) if in_double else (num_features, num_behind)


def _add_rows_fused(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    """`neurocollapse.statistics.fused_rows.add_rows`, imported when it is used: Triton may not be there."""
    result: tuple[Tensor, Tensor | None] = import_module("neurocollapse.statistics.fused_rows").add_rows(
        *arguments, **options
    )
    return result


_KERNELS = {
    "torch": Kernel("torch", add_rows_torch, most_in_total=0, small=2**16, shifts_in_scratch=True, never_waits=False),
    "compiled": Kernel(
        "compiled", add_rows_compiled, most_in_total=32, small=0, shifts_in_scratch=False, never_waits=False
    ),
    "sorted": Kernel(
        "sorted", add_rows_sorted, most_in_total=sys.maxsize, small=0, shifts_in_scratch=True, never_waits=True
    ),
    "triton": Kernel(
        "triton", _add_rows_fused, most_in_total=sys.maxsize, small=0, shifts_in_scratch=False, never_waits=True
    ),
}


def kernel_on(device: torch.device | str) -> Kernel:
    """The kernel for features on a device.

    It is the compiled one on the CPU, where the installation has it, else torch's operations; elsewhere class-sorted
    rows. The environment variable NEUROCOLLAPSE_KERNEL, "torch", "compiled", "sorted" or "triton", chooses another.
    "triton" is for CUDA devices, and for CPUs where TRITON_INTERPRET=1 has Triton run its kernels there.

    Parameters
    ----------
    device : torch.device or str
        Where the features are.

    Raises
    ------
    ValueError
        If the variable has another value, or asks for a compiled kernel that was not built or does not load, or for
        Triton where it cannot be imported.

    Examples
    --------
    >>> kernel_on("meta").name
    'sorted'
    """
    wanted: Any = os.environ.get(VARIABLE) or None
    if wanted not in (None, *_KERNELS):
        raise ValueError(
            f'{VARIABLE} must be "torch", "compiled", "sorted" or "triton", got {wanted!r}; leave it out to run the '
            "one that fits the device"
        )
    kind = torch.device(device).type
    if wanted == "compiled":
        check_built(f"{VARIABLE}=compiled")
    if wanted == "triton":
        _check_triton()
        if kind == "cuda" or (kind == "cpu" and os.environ.get(INTERPRETER) == "1"):
            return _KERNELS["triton"]
        wanted = None
    if wanted == "sorted" or kind != "cpu":
        return _KERNELS["sorted" if wanted != "torch" else "torch"]
    return _KERNELS[wanted or built("compiled", "torch")]


def _check_triton() -> None:
    """Raise ValueError where Triton is asked for, but not installed, or cannot be imported."""
    try:
        import_module("triton")
    except ImportError as error:
        raise ValueError(
            f"{VARIABLE}=triton, but Triton cannot be imported ({first_line(error)}); it comes with torch for CUDA, "
            "and `pip install triton` adds it on Linux; or leave the variable out"
        ) from error

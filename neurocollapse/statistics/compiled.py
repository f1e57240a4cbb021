"""The running sums in one pass over the features, by the kernel that the installation may have compiled."""

from importlib import import_module

import torch
from torch import Tensor

from neurocollapse.statistics.class_batch import ClassBatch
from neurocollapse.statistics.kernels import scratch_like
from neurocollapse.statistics.sums import Sums

try:
    run_kernel = import_module("neurocollapse.statistics._kernel").add_rows  # by name: it may not be there
except ImportError as error:
    MISSING = str(error)
else:
    MISSING = ""
"""Why there is no compiled kernel; empty where there is one."""


def add_rows(
    features: Tensor, batch: ClassBatch, sums: Sums, *, settle: bool, keep_shifted: bool
) -> tuple[Tensor, Tensor | None]:
    """Add features on the CPU to the running sums; see `neurocollapse.statistics.kernels.add_rows`.

    A batch with too many samples of a class for the partial sums goes to the totals. Both have to be contiguous.

    Raises
    ------
    ValueError
        If a label is none of the classes.
    """
    features = _readable(features)
    reference, target, kept = sums.reference, sums.total if settle else sums.partial, sums.kept
    norms = sums.square.new_empty(features.shape[0])
    num_groups, addresses = batch.groups
    shifted = scratch_like(reference, features.shape) if keep_shifted else None
    run_kernel(
        (*features.shape, features.stride(0), reference.shape[0], num_groups),
        (
            *addresses,
            features.data_ptr(),
            reference.data_ptr(),
            target.data_ptr(),
            sums.square.data_ptr(),
            norms.data_ptr(),
            0 if shifted is None else shifted.data_ptr(),
            0 if kept is None else kept.data_ptr(),
        ),
        (features.dtype == torch.float64, reference.dtype == torch.float64, target.dtype == torch.float64),
    )
    return norms, shifted


def _readable(features: Tensor) -> Tensor:
    """The features as float32 or float64 numbers in memory, each row in one piece."""
    if features.dtype not in (torch.float32, torch.float64):
        features = features.float()
    return features.resolve_neg() if features.stride(1) == 1 else features.resolve_neg().contiguous()

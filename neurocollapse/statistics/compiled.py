"""The running sums in one pass over the features, by the kernel that the installation may have compiled."""

import torch
from torch import Tensor

from neurocollapse.statistics import extension
from neurocollapse.statistics.class_batch import ClassBatch
from neurocollapse.statistics.kernels import scratch_like
from neurocollapse.statistics.sums import Sums


def add_rows(
    features: Tensor, batch: ClassBatch, sums: Sums, *, settle: bool, keep_shifted: bool
) -> tuple[int, Tensor | None]:
    """Add features on the CPU to the running sums; see `neurocollapse.statistics.kernels.add_rows`.

    A batch with too many samples of a class for the partial sums goes to the totals. Both have to be contiguous.

    Raises
    ------
    ValueError
        If a label is none of the classes.
    """
    if features.dtype not in (torch.float32, torch.float64):
        features = features.float()
    if features.is_neg():
        features = features.resolve_neg()
    row, column = features.stride()
    if column != 1:
        features = features.contiguous()
        row = features.stride(0)
    shifted = scratch_like(sums.reference, features.shape) if keep_shifted else None
    spoilt: int = extension.add_rows(
        (*features.shape, row),
        features.data_ptr(),
        0 if shifted is None else shifted.data_ptr(),
        features.dtype == torch.float64,
        settle,
        batch.groups.places,
        sums.places,
    )
    return spoilt, shifted

"""Rows of a batch that are looked at one batch later, when a device that was asked about them has answered."""

from typing import NamedTuple

import torch
from torch import Tensor

from neurocollapse.statistics import ClassBatch
from neurocollapse.support.transfer import Readback, sent


class RowLogits:
    """The logits of a batch for the rows of its layers.

    Parameters
    ----------
    logits : Tensor of shape (samples, outputs)
    copied : bool
        Whether they are needed when the model may have overwritten them.
    """

    def __init__(self, logits: Tensor, *, copied: bool) -> None:
        self._logits = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=copied)
        self._each: dict[tuple[torch.device, int], tuple[ClassBatch, Tensor]] = {}

    def of(self, rows: ClassBatch, device: torch.device) -> Tensor:
        """The logits of the sample that each row belongs to, on a device, shape (rows, outputs)."""
        key = device, id(rows)
        if key not in self._each:
            own = self._logits.to(device)
            self._each[key] = rows, own if rows.source is None else own.index_select(0, rows.sent(rows.samples, device))
        return self._each[key][1]


class HeldRows(NamedTuple):
    """The rows of one layer in one batch, until it is known which of them are finite.

    Attributes
    ----------
    features : Tensor of shape (rows, features)
        A copy.
    rows, batch : ClassBatch
        Their labels, and those of the samples.
    finite : Readback
        Which rows are finite.
    logits : RowLogits or None
        Those of the batch, once it has ended and if it has any.
    """

    features: Tensor
    rows: ClassBatch
    batch: ClassBatch
    finite: Readback
    logits: RowLogits | None = None

    @classmethod
    def of(cls, features: Tensor, rows: ClassBatch, batch: ClassBatch) -> "HeldRows":
        """A copy of some features, about which the device is asked now."""
        return cls(features.clone(), rows, batch, Readback(features.isfinite().all(dim=1)))

    def kept(self) -> Tensor | None:
        """Places of the rows that are finite, on the device; None for all."""
        finite = self.finite.numbers()
        return None if bool(finite.all()) else sent(finite.nonzero().flatten(), self.features.device)

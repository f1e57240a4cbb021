"""References of new classes: of a class's first three finite samples the one nearest to the other two."""

import torch
from torch import Tensor

from neurocollapse.statistics.class_batch import ClassBatch
from neurocollapse.statistics.kernels import at_once, medians
from neurocollapse.statistics.ledger import Step
from neurocollapse.statistics.sums import Sums
from neurocollapse.support.transfer import Readback, sent


class Adoption:
    """Gives the classes of one layer their references, when their first samples come.

    Parameters
    ----------
    never_waits : bool
        Whether nothing may be read back from the device, so that it decides there which samples these are.
    """

    def __init__(self, *, never_waits: bool) -> None:
        self.never_waits = never_waits
        self.forget()

    def forget(self) -> None:
        """Start over with what is known of the classes: there are more of them, or another state."""
        self._known: Tensor | None = None  # which classes have a reference for certain, shape (classes,), on the CPU
        self._asked: Readback | None = None  # how many samples of each class were kept until some batch

    def adopt(self, features: Tensor, batch: ClassBatch, step: Step, sums: Sums) -> None:
        """Give references to the classes that are new in a batch: where samples are left out, until a finite one came.

        Parameters
        ----------
        features : Tensor of shape (samples, features)
        batch, step : ClassBatch, Step
            Their labels, and what these ask for.
        sums : Sums
            Those of the layer.
        """
        reference, kept = sums.reference, sums.kept
        if kept is None:
            if step.new is not None:
                self._take(features, batch.present[step.new], batch.first_rows[step.new], reference)
            return
        unsure = self._unsure(batch, kept)
        if not len(unsure):
            return
        if self.never_waits:
            self._take_finite(features, batch, unsure, reference, kept)
            return
        finite = features.isfinite().all(dim=1).nonzero().flatten().cpu()
        usable = ClassBatch(batch.labels[finite], batch.num_classes)
        new = kept.cpu()[usable.present] == 0
        if new.any():
            self._take(features, usable.present[new], finite[usable.first_rows[new]], reference)

    def _unsure(self, batch: ClassBatch, kept: Tensor) -> Tensor:
        """Places in `batch.present` of the classes that may not have a reference."""
        if self._known is None:
            self._known = torch.zeros(batch.num_classes, dtype=torch.bool, device="cpu")
        unsure = (~self._known[batch.present]).nonzero().flatten()
        if not len(unsure):
            return unsure
        if self._asked is None:
            self._asked = Readback(kept)
        if self._asked.is_there:
            self._known, self._asked = self._asked.numbers() > 0, None
        return (~self._known[batch.present]).nonzero().flatten()

    @staticmethod
    def _take(features: Tensor, classes: Tensor, rows: Tensor, reference: Tensor) -> None:
        """Take the medians of some rows, shape (classes, 3), as references."""
        device = features.device
        height = max(1, at_once(device).classes // max(1, 3 * features.shape[1]))
        for some, chosen in zip(classes.split(height), rows.split(height), strict=True):
            samples = features[sent(chosen, device)].to(reference.dtype)
            reference.index_copy_(0, sent(some, device), medians(samples))

    @staticmethod
    def _take_finite(features: Tensor, batch: ClassBatch, places: Tensor, reference: Tensor, kept: Tensor) -> None:
        """The same for the classes at some places, where the device alone knows which rows are finite."""
        device = features.device
        order = batch.sent(batch.order, device)
        finite = _all_finite(features).long()
        before = torch.cat([finite.new_zeros(1), finite[order].cumsum(0)])  # how many finite ones, in `order`
        parts = torch.stack([batch.present[places], batch.starts[places], batch.starts[places + 1]])
        height = max(1, at_once(device).classes // max(1, 3 * features.shape[1]))
        for some in parts.split(height, dim=1):
            classes, starts, ends = sent(some.contiguous(), device)
            found = before[ends] - before[starts]
            nth = 1 + torch.arange(3, device=device) * (found >= 3).unsqueeze(1)  # the first thrice, of fewer
            behind = torch.searchsorted(before, before[starts].unsqueeze(1) + nth)
            rows = order[(behind - 1).clamp_(max=len(order) - 1)]
            samples = features[rows].to(reference.dtype)
            is_new = ((kept[classes] == 0) & (found > 0)).unsqueeze(1)
            reference.index_copy_(0, classes, torch.where(is_new, medians(samples), reference[classes]))


def _all_finite(features: Tensor) -> Tensor:
    """Which rows are finite, shape (samples,), bool."""
    if not features.shape[1]:
        return features.new_ones(len(features), dtype=torch.bool)
    return torch.linalg.vector_norm(features, torch.inf, dim=1) <= torch.finfo(features.dtype).max

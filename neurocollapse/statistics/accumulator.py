"""Streaming class moments: the shifted update, its float64 totals and its rebasing."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurocollapse.statistics.adoption import Adoption
from neurocollapse.statistics.class_batch import ClassBatch
from neurocollapse.statistics.kernel_choice import kernel_on
from neurocollapse.statistics.kernels import ALL_FINITE, at_once, move_sums, some_of
from neurocollapse.statistics.ledger import FLUSH_COUNT, Ledger
from neurocollapse.statistics.mapped import Place
from neurocollapse.statistics.memory import WIDEST, Precision, StateBytes, working_dtype
from neurocollapse.statistics.moments import ClassMoments
from neurocollapse.statistics.products import COVARIANCE_FLUSH_ROWS, ProductSums
from neurocollapse.statistics.references import REBASE_RATIO, move_references
from neurocollapse.statistics.sums import Sums
from neurocollapse.support.transfer import sent

COMPACT_COUNT = 1024
"""Samples of one class that sums without a float64 total may gather before its reference moves to its mean.

Samples that are nearly equal round alike: 40,000 of them far from their reference leave 5e-4 of D, 1,024 at most 1e-6.
"""


class MomentAccumulator:
    """Class moments of one layer, updated batch by batch in memory that does not grow with the samples.

    Each sample is first shifted by its class's reference, an actual sample of that class (the median of three, so that
    no single outlier is chosen), which is exact in floating point when the two are close (Sterbenz). Sums of a few
    dozen shifted samples stay in the working dtype; they and the squared norms are then added to float64 totals. The
    reference of a class moves if it turns out to be far from the mean: first at 4 to 8 samples, then after each two- to
    fourfold increase. Nothing is read back from a GPU.

    Parameters
    ----------
    num_classes, num_features : int
    precision : {"single", "double"}, default "single"
        "double" keeps the whole state in float64. Features in float64 and layers of at most 128 features always do.
    state_bytes : {16, 12, 8}, default 16
        Bytes for each class and feature, where the state is not in float64. 12: samples go straight to the float64
        totals. 8: there are float32 sums only, and references move to the class means before much has been added.
    dtype : torch.dtype, default float32
        Dtype of the features.
    device : torch.device, default "cpu"
        Device of the features and of the state.
    covariance : bool, default False
        Keep the pooled within-class scatter matrix (features × features) as well.
    skip_non_finite : bool, default False
        Leave out samples with NaN or infinite features and count them in `dropped`.
    folder : Path, optional
        Keep the matrices (classes × features) there, in memory-mapped files, instead of in memory.
    """

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        *,
        precision: Precision = "single",
        state_bytes: StateBytes = WIDEST,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        covariance: bool = False,
        skip_non_finite: bool = False,
        folder: Path | None = None,
    ) -> None:
        working = working_dtype(num_features, precision=precision, dtype=dtype)
        double = torch.float64
        self.num_classes, self.num_features = num_classes, num_features
        self.place = Place(torch.device(device), folder)
        self._beside = Place(self.place.device)  # for columns behind the totals, if they have a matrix of their own
        self.is_compact = state_bytes == 8 and working != double
        self.kernel = kernel_on(device)
        self.ledger = Ledger.empty(
            num_classes,
            flush_count=None if num_classes <= self.kernel.most_in_total else FLUSH_COUNT,
            most_between_looks=COMPACT_COUNT if self.is_compact else None,
        )
        self._adoption = Adoption(never_waits=self.kernel.never_waits)
        apart = num_classes > self.kernel.most_in_total and working != double and state_bytes == WIDEST
        with torch.inference_mode(False):  # state made in inference mode could not be updated outside it
            reference = self.place.zeros(num_classes, num_features, working)
            partial = self.place.zeros(num_classes, num_features, working) if apart else None
            width, *others = self.kernel.widths(num_features, 1 + skip_non_finite, in_double=not self.is_compact)
            total = self.place.zeros(num_classes, width, working if self.is_compact else double)
            behind = (self._beside.zeros(num_classes, width, double) for width in others)
            self.sums = Sums.over(reference, (total, *behind), partial)
            self.products = ProductSums(num_features, working, device) if covariance else None
        self._rows_per_part = self._rows_at_once()

    @property
    def dropped(self) -> Tensor:
        """Samples of each class that have been left out, shape (classes,), int64, on the CPU."""
        return self.ledger.count - self._num_kept()

    @property
    def num_batches(self) -> int:
        """Number of batches seen."""
        return self.ledger.num_batches

    def update(self, features: Tensor, batch: ClassBatch) -> int | Tensor:
        """Add the features of one batch.

        Parameters
        ----------
        features : Tensor of shape (samples, features)
            One row per label.
        batch : ClassBatch
            The labels.

        Returns
        -------
        int or Tensor of shape (classes,), float64
            The first sample that is not finite (or whose squares overflow), unless such are left out; ALL_FINITE where
            there is none. On a device whose numbers come late, `square`: not finite if any features so far are not.

        Raises
        ------
        ValueError
            If the features are not a matrix with one row per label and the number of features of earlier batches, or
            are on another device than the state.
        """
        num_samples = batch.labels.shape[0]
        if features.shape != (num_samples, self.num_features):
            raise ValueError(
                f"`features` must have shape {(num_samples, self.num_features)} (samples, features) like the "
                f"batches before, got {tuple(features.shape)}; pool or crop to one size"
            )
        if features.device != self.sums.reference.device:
            raise ValueError(
                f"`features` must be on {self.sums.reference.device} like the running sums, got {features.device}; "
                "move them there"
            )
        if self.is_compact and batch.largest > COMPACT_COUNT:
            return self._update_in_parts(features, batch)
        features = features.detach() if features.requires_grad else features
        step = self.ledger.step(batch)
        sums = self.sums
        if step.new is not None or sums.kept is not None:
            self._adoption.adopt(features, batch, step, sums)
        if sums.are_apart and (step.flush or sums.partial.numel() <= self.kernel.small):
            move_sums(sums.partial, sums.total, some_of(self.ledger.pending.nonzero().flatten(), sums.partial))
        settle = batch.largest > FLUSH_COUNT
        if num_samples <= self._rows_per_part:
            spoilt = self._add(features, batch, settle)
        else:
            parts = batch.parts(self._rows_per_part)
            spoilt = _joined([(rows, self._add(features[rows], part, settle)) for rows, part in parts])
        self.ledger = step.ledger
        if step.due is not None:
            rows, count = (batch.sent(part, self.place.device) for part in (step.due, self.ledger.count))
            self._rebase(rows, count)
        return spoilt

    def grow(self, num_classes: int) -> None:
        """Make room for more classes; those already there keep their state.

        Parameters
        ----------
        num_classes : int
            The new number of classes.
        """
        self.num_classes, self.ledger = num_classes, self.ledger.grown(num_classes)
        self._adoption.forget()
        sums, apart = self.sums, self.sums.are_apart
        with torch.inference_mode(False):
            # One matrix after the other: there need not be room for all of them twice.
            sums = self.sums = replace(sums, reference=self.place.moved(sums.reference, num_classes))
            for index in range(len(sums.matrices)):
                matrices = list(sums.matrices)
                place = self._beside if index else self.place
                matrices[index] = place.moved(matrices[index], num_classes)
                sums = self.sums = Sums.over(sums.reference, tuple(matrices), sums.partial if apart else None)
            if apart:
                self.sums = replace(sums, partial=self.place.moved(sums.partial, num_classes))

    def narrow(self, state_bytes: StateBytes) -> None:
        """Continue with fewer bytes for each class and feature; a state in float64 stays as it is.

        Parameters
        ----------
        state_bytes : {16, 12, 8}
            Bytes for each class and feature.
        """
        working = self.sums.reference.dtype
        if working == torch.float64 or state_bytes == WIDEST:
            return
        self._join_sums()
        if state_bytes == 8 and not self.is_compact:
            self.is_compact = True
            count = self.ledger.count
            self._rebase(count.nonzero().flatten().to(self.place.device), count.to(self.place.device))
            self.ledger = replace(self.ledger, most_between_looks=COMPACT_COUNT, calm=0)
            with torch.inference_mode(False):
                total = self.place.moved(self.sums.total, self.num_classes, working)
                behind = self.sums.matrices[1:] or (self.sums.matrices[0][:, self.num_features :].clone(),)
                self.sums = Sums.over(self.sums.reference, (total, *behind))

    def moments(self) -> ClassMoments:
        """The moments of everything seen so far, on the CPU; the state is left as it is."""
        sums = self.sums
        total = sums.total + sums.partial if sums.are_apart else sums.total.clone()
        return self._moments(sums.reference.clone(), total)

    def released(self) -> ClassMoments:
        """The same moments in the memory of the state itself, which must not be used again."""
        self._join_sums()
        return self._moments(self.sums.reference, self.sums.total)

    def _moments(self, reference: Tensor, total: Tensor) -> ClassMoments:
        """The moments about some references, with these sums."""
        offset_sum = total.cpu()
        count = self._num_kept()
        within = None if self.products is None else self.products.scatter(offset_sum.double(), count)
        return ClassMoments(
            count=count,
            reference=reference.cpu(),
            offset_sum=offset_sum,
            offset_square=self.sums.square.cpu().clone(),
            within_scatter=within,
        )

    def state(self) -> dict[str, Tensor]:
        """The raw state as tensors, from which a run continues as if it had not been interrupted, to the last bit."""
        tensors: dict[str, Tensor] = {name: getattr(self.ledger, name).clone() for name in _LEDGER}  # layers share them
        tensors |= self._own_sums() | {"dropped": self._dropped_there()}
        pending_rows = 0
        if self.products is not None:
            tensors |= self.products.state()
            pending_rows = self.products.pending_rows
        return tensors | {"progress": torch.tensor([self.num_batches, pending_rows], device="cpu")}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over a state.

        Parameters
        ----------
        tensors : dict of str to Tensor
            As `state` returned them.
        """
        expected, tensors = self.state(), self._with_own_sums(tensors)
        if expected.keys() != tensors.keys():
            raise ValueError(f"saved state has {sorted(tensors)}, this run needs {sorted(expected)}")
        for name, own in expected.items():
            saved = tensors[name]
            if (own.shape, own.dtype) != (saved.shape, saved.dtype):
                raise ValueError(
                    f"saved {name!r} has shape {tuple(saved.shape)} and {saved.dtype}, "
                    f"this run needs {tuple(own.shape)} and {own.dtype}"
                )
        for name, own in self._own_sums().items():
            own.copy_(tensors[name])
        if self.sums.kept is not None:
            self.sums.kept.copy_(tensors["count"] - tensors["dropped"].cpu())
        num_batches, pending_rows = (int(value) for value in tensors["progress"])
        if self.products is not None:
            for name, own in self.products.state().items():
                own.copy_(tensors[name])
            self.products.pending_rows = pending_rows
        counts: dict[str, Any] = {name: tensors[name].clone() for name in _LEDGER}
        self.ledger = replace(self.ledger, num_batches=num_batches, **counts, calm=0)
        self._adoption.forget()

    def _num_kept(self) -> Tensor:
        """Samples of each class that count, shape (classes,), int64, on the CPU."""
        # A copy: the ledger's own may have been made in inference mode.
        return self.ledger.count.clone() if self.sums.kept is None else self.sums.kept.cpu().long()

    def _dropped_there(self) -> Tensor:
        """What `dropped` says, on the device of the sums, for which it would have to be waited for."""
        kept = self.sums.kept
        return self.dropped if kept is None else sent(self.ledger.count, kept.device) - kept.long()

    def _own_sums(self) -> dict[str, Tensor]:
        """The sums by name, as they are saved and taken over."""
        sums = self.sums
        partial = {"partial": sums.partial} if sums.are_apart else {}
        return {"reference": sums.reference, "total": sums.total, "square": sums.square} | partial

    def _with_own_sums(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A saved state as this kernel keeps it: float32 sums apart, or in the totals."""
        if {"partial", "total"} <= tensors.keys() and not self.sums.are_apart:
            tensors = tensors | {"total": tensors["total"] + tensors["partial"]}
            tensors.pop("partial")
        elif "partial" not in tensors and self.sums.are_apart:
            tensors = tensors | {"partial": torch.zeros_like(self.sums.partial)}
        return tensors

    def _rows_at_once(self) -> int:
        """Rows to add together: what the scratch holds, and no more than float32 products may gather."""
        rows = max(1, at_once(self.place.device).rows // max(1, self.num_features))
        if self.products is not None:
            return min(rows, COVARIANCE_FLUSH_ROWS)
        return rows if self.kernel.shifts_in_scratch else sys.maxsize

    def _add(self, features: Tensor, batch: ClassBatch, settle: bool) -> int | Tensor:
        """Add some rows to the sums and return what tells whether they are finite."""
        spoilt, shifted = self.kernel.add_rows(
            features, batch, self.sums, settle=settle, keep_shifted=self.products is not None
        )
        if self.products is not None and shifted is not None:
            self.products.add(shifted)
        return spoilt

    def _update_in_parts(self, features: Tensor, batch: ClassBatch) -> int | Tensor:
        """Add the features of a batch so large that references have to move within it."""
        before = self.num_batches
        spoilt = [(rows, self.update(features[rows], part)) for rows, part in batch.parts(COMPACT_COUNT)]
        self.ledger = replace(self.ledger, num_batches=before + 1)
        return _joined(spoilt)

    def _join_sums(self) -> None:
        """Do without partial sums from now on."""
        if self.sums.are_apart:
            move_sums(self.sums.partial, self.sums.total)
            self.sums = replace(self.sums, partial=self.sums.total)

    def _rebase(self, classes: Tensor, count: Tensor) -> None:
        """Move the references of those of `classes` whose mean lies far from it, by exact algebra on the totals.

        `count` has the samples of all classes, those left out among them; both are on the device of the state.
        """
        sums = self.sums
        if sums.are_apart:
            move_sums(sums.partial, sums.total, classes)
        count = count if sums.kept is None else sums.kept
        height = at_once(self.place.device).classes // max(1, self.num_features)
        for chosen in classes.split(max(1, height)):
            ratio = 0.0 if self.is_compact else REBASE_RATIO
            counts = count.index_select(0, chosen).double()
            moved = move_references(sums, chosen, counts, ratio=ratio)
            if self.products is not None and moved is not None:
                self.products.shift(*moved)


def _joined(spoilt: list[tuple[slice, int | Tensor]]) -> int | Tensor:
    """What `update` returns for a batch in parts: the sums behind the last, or the first row that is not finite."""
    last = spoilt[-1][1]
    if isinstance(last, Tensor):
        return last
    return next((rows.start + int(row) for rows, row in spoilt if row != ALL_FINITE), ALL_FINITE)


_LEDGER = ("count", "pending", "looked")

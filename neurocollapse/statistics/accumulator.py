"""Streaming class moments: the shifted update, its float64 totals and its rebasing."""

import torch
from torch import Tensor

from neurocollapse.statistics.kernels import (
    add_rows,
    add_upper_products,
    medians,
    mirrored,
    move_sums,
    move_upper_products,
    some_of,
)
from neurocollapse.statistics.labels import ClassBatch
from neurocollapse.statistics.ledger import FLUSH_COUNT, Ledger, Step
from neurocollapse.statistics.memory import Precision, working_dtype
from neurocollapse.statistics.moments import ClassMoments

ROW_CHUNK = 2**19
"""Elements of one chunk of rows: 2 MiB in float32, so that the scratch stays in the cache."""
COVARIANCE_FLUSH_ROWS = 2048
"""Rows whose products float32 may gather before they go to the float64 scatter matrix."""
REBASE_RATIO = 3.0
"""A class moves its reference when ‖mean − reference‖² exceeds this many times its variance.

A usual sample lies at about 1; a far outlier that came first at n − 1, after n samples. Rounding counts that often.
"""
SMALL = 2**16
"""Elements of float32 sums that are moved before every batch: it costs little, and they round less."""
REBASE_ELEMENTS = 2**20
"""Elements of the classes looked at together when references move: float64 temporaries of 8 MiB."""


class MomentAccumulator:
    """Class moments of one layer, updated batch by batch in memory that does not grow with the samples.

    Each sample is first shifted by its class's reference, an actual sample of that class (the median of three, so that
    no single outlier is chosen), which is exact in floating point when the two are close (Sterbenz). Sums of a few
    dozen shifted samples stay in the working dtype; they and the squared norms are then added to float64 totals. At 8
    samples of a class, or 4, and whenever they have quadrupled, or doubled, its reference moves if it has turned out
    far from their mean. Nothing is read back from the device, but for `skip_non_finite`.

    Parameters
    ----------
    num_classes, num_features : int
    precision : {"single", "double"}
        "double" keeps the whole state in float64. Features in float64 and layers of at most 128 features always do.
    dtype : torch.dtype
        Dtype of the features.
    device : torch.device
        Device of the features and of the state.
    covariance : bool
        Keep the pooled within-class scatter matrix (features × features) as well.
    skip_non_finite : bool
        Leave out samples with NaN or infinite features and count them in `dropped`.
    """

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        *,
        precision: Precision = "single",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        covariance: bool = False,
        skip_non_finite: bool = False,
    ) -> None:
        working = working_dtype(num_features, precision=precision, dtype=dtype)
        double = torch.float64
        self.skip_non_finite = skip_non_finite
        self.ledger = Ledger.empty(num_classes)
        self.pending_rows = 0
        self._complete = False  # whether every class is known to have a reference, of a finite sample
        with torch.inference_mode(False):  # state made in inference mode could not be updated outside it
            self.dropped = torch.zeros(num_classes, dtype=torch.int64, device=device)
            self.reference = torch.zeros(num_classes, num_features, dtype=working, device=device)
            self.total = torch.zeros(num_classes, num_features, dtype=double, device=device)
            self.partial = self.total if working == double else torch.zeros_like(self.reference)
            self.square = torch.zeros(num_classes, dtype=double, device=device)
            self.products: Tensor | None = None
            self.product_total: Tensor | None = None
            if covariance:
                self.products = torch.zeros(num_features, num_features, dtype=working, device=device)
                self.product_total = self.products if working == double else self.products.double()

    @property
    def num_classes(self) -> int:
        """Number of classes that the state has room for."""
        return self.reference.shape[0]

    @property
    def num_features(self) -> int:
        """Number of features."""
        return self.reference.shape[1]

    @property
    def num_batches(self) -> int:
        """Number of batches seen."""
        return self.ledger.num_batches

    def update(self, features: Tensor, batch: ClassBatch) -> Tensor:
        """Add the features of one batch, shape (samples, features).

        Returns
        -------
        Tensor of shape (samples,), float64
            Squared distance of each sample to its reference: not finite exactly where the features are not (or where
            float32 squares overflow), so that one look at all layers finds a bad sample.

        Raises
        ------
        ValueError
            If the features are not a matrix with one row per label and the number of features of earlier batches.
        """
        num_samples = batch.labels.shape[0]
        if features.shape != (num_samples, self.num_features):
            raise ValueError(
                f"`features` must have shape {(num_samples, self.num_features)} (samples, features) like the "
                f"batches before, got {tuple(features.shape)}; pool or crop to one size"
            )
        features = features.detach() if features.requires_grad else features
        step = self.ledger.step(batch)
        self._adopt_references(features, batch, step)
        if self.partial is not self.total and (step.flush or self.partial.numel() <= SMALL):
            move_sums(self.partial, self.total, some_of(self.ledger.pending.nonzero().flatten(), self.partial))
        settle = batch.largest > FLUSH_COUNT
        parts = batch.parts(self._rows_per_part)
        norms = [self._add(features if part is batch else features[rows], part, settle) for rows, part in parts]
        self.ledger = step.ledger
        if step.due.numel():
            self._rebase(step.due)
        return norms[0] if len(norms) == 1 else torch.cat(norms)

    def grow(self, num_classes: int) -> None:
        """Make room for more classes; those already there keep their state."""
        extra = num_classes - self.num_classes
        self.ledger = self.ledger.grown(num_classes)
        self._complete = False
        shares_total = self.partial is self.total
        with torch.inference_mode(False):
            for name in ("dropped", "reference", "total", "square"):
                state: Tensor = getattr(self, name)
                setattr(self, name, torch.cat([state, state.new_zeros(extra, *state.shape[1:])]))
            rows = self.partial.new_zeros(0 if shares_total else extra, self.num_features)
            self.partial = self.total if shares_total else torch.cat([self.partial, rows])

    def moments(self) -> ClassMoments:
        """The moments of everything seen so far, on the CPU; the state is left as it is."""
        offset_sum = (self.total.clone() if self.partial is self.total else self.total + self.partial).cpu()
        count = self.ledger.count - self.dropped.cpu()
        within = None
        if self.products is not None and self.product_total is not None:
            products = self.product_total if self.products is self.product_total else self.product_total + self.products
            within = mirrored(products.cpu() - offset_sum.T @ (offset_sum / count.clamp(min=1).unsqueeze(1)))
        return ClassMoments(
            count=count,
            reference=self.reference.cpu().clone(),
            offset_sum=offset_sum,
            offset_square=self.square.cpu().clone(),
            within_scatter=within,
        )

    def state(self) -> dict[str, Tensor]:
        """The raw state as tensors: what a file needs for the run to go on to the last bit."""
        tensors = {name: getattr(self.ledger, name).clone() for name in _LEDGER}  # which other layers share
        tensors |= {name: getattr(self, name) for name in _STATE if getattr(self, name) is not None}
        if self.partial is self.total:
            tensors.pop("partial")
        if self.products is self.product_total:
            tensors.pop("product_total", None)
        tensors["progress"] = torch.tensor([self.num_batches, self.pending_rows], device="cpu")
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take up a state that `state` returned."""
        expected = self.state()
        if expected.keys() != tensors.keys():
            raise ValueError(f"saved state has {sorted(tensors)}, this run needs {sorted(expected)}")
        for name, own in expected.items():
            saved = tensors[name]
            if (own.shape, own.dtype) != (saved.shape, saved.dtype):
                raise ValueError(
                    f"saved {name!r} has shape {tuple(saved.shape)} and {saved.dtype}, "
                    f"this run needs {tuple(own.shape)} and {own.dtype}"
                )
        for name in _STATE:
            if name in expected:
                expected[name].copy_(tensors[name])
        num_batches, self.pending_rows = (int(value) for value in tensors["progress"])
        self.ledger = Ledger(num_batches, *(tensors[name].clone() for name in _LEDGER))
        self._complete = False

    @property
    def _rows_per_part(self) -> int:
        """Rows to shift at once: what the scratch holds, and no more than float32 products may gather."""
        rows = max(1, ROW_CHUNK // max(1, self.num_features))
        return rows if self.products is None else min(rows, COVARIANCE_FLUSH_ROWS)

    def _adopt_references(self, features: Tensor, batch: ClassBatch, step: Step) -> None:
        """Take a sample of every class not met before as that class's reference: the median of the first three."""
        found = self._first_finite(features, batch) if self.skip_non_finite else (batch, step.new, None)
        if found is None or not found[1].numel():
            return
        usable, new, finite = found
        classes, rows = usable.present[new], usable.first_rows[new]
        rows = rows if finite is None else finite[rows]
        for some in torch.arange(len(classes), device="cpu").split(max(1, ROW_CHUNK // max(1, self.num_features))):
            samples = features[rows[some].to(features.device)].to(self.reference.dtype)
            self.reference.index_copy_(0, classes[some].to(features.device), medians(samples))

    def _first_finite(self, features: Tensor, batch: ClassBatch) -> tuple[ClassBatch, Tensor, Tensor] | None:
        """The finite rows, as a batch, its new classes and the rows; None where no class can be new."""
        if self._complete or not batch.present.numel():
            return None
        seen = self.ledger.count - self.dropped.cpu()
        self._complete = bool((seen > 0).all())
        if int(seen[batch.present].min()) > 0:
            return None
        finite = features.isfinite().all(dim=1).nonzero().flatten().cpu()
        usable = ClassBatch(batch.labels[finite], batch.num_classes)
        return usable, (seen[usable.present] == 0).nonzero().flatten(), finite

    def _add(self, features: Tensor, batch: ClassBatch, settle: bool) -> Tensor:
        """Add some rows to the sums and return their squared distances to the references."""
        norms, shifted = add_rows(
            features,
            batch,
            reference=self.reference,
            partial=self.partial,
            total=self.total,
            square=self.square,
            dropped=self.dropped if self.skip_non_finite else None,
            settle=settle,
        )
        if self.products is not None:
            self._add_products(self.products, shifted)
        return norms

    def _add_products(self, products: Tensor, shifted: Tensor) -> None:
        """Add the products of the features of some rows."""
        if self.pending_rows + shifted.shape[0] > COVARIANCE_FLUSH_ROWS:
            self._flush_products()
        self.pending_rows += shifted.shape[0]
        add_upper_products(products, shifted)

    def _flush_products(self) -> None:
        """Add the float32 products to the float64 scatter matrix and clear them."""
        if self.products is None or self.product_total is None or self.products is self.product_total:
            return
        move_upper_products(self.products, self.product_total)
        self.pending_rows = 0

    def _rebase(self, classes: Tensor) -> None:
        """Move the references of those of `classes` whose mean lies far from it, by exact algebra on the totals."""
        rows = classes.to(self.total.device)
        if self.partial is not self.total:
            move_sums(self.partial, self.total, rows)
        for chosen in rows.split(max(1, REBASE_ELEMENTS // max(1, self.num_features))):
            self._rebase_together(chosen)

    def _rebase_together(self, classes: Tensor) -> None:
        """Move the references of those classes that are far off; temporaries in float64 stay small."""
        total = self.total.index_select(0, classes)
        count = (self.ledger.count.to(total.device) - self.dropped).index_select(0, classes).double()
        sum_square = torch.linalg.vector_norm(total, dim=1).square_()
        far = sum_square > REBASE_RATIO * (count * self.square.index_select(0, classes) - sum_square)
        if far.device.type == "cpu":  # other devices would have to be waited for, to know which classes these are
            chosen = far.nonzero().flatten()
            if not chosen.numel():
                return
            classes, total, count, far = classes[chosen], total[chosen], count[chosen], far[chosen]
        reference = self.reference.index_select(0, classes)
        moved = (reference + total / count.clamp(min=1).unsqueeze(1)).to(reference.dtype)
        moved = torch.where(far.unsqueeze(1), moved, reference)
        shift = moved.double() - reference
        self._shift_products(total, shift, count)
        change = count * shift.square().sum(dim=1) - 2 * (total * shift).sum(dim=1)
        self.square.index_add_(0, classes, change)
        self.total.index_add_(0, classes, count.unsqueeze(1) * shift, alpha=-1)
        self.reference.index_copy_(0, classes, moved)

    def _shift_products(self, total: Tensor, shift: Tensor, count: Tensor) -> None:
        """Σ(δ−h)(δ−h)ᵀ from Σδδᵀ for per-class shifts h, class sums S and counts n (upper triangle matters only)."""
        if self.product_total is None:
            return
        self._flush_products()
        cross = total.T @ shift
        self.product_total += shift.T @ (count.unsqueeze(1) * shift) - cross - cross.T


_LEDGER = ("count", "pending", "looked")
_STATE = ("dropped", "reference", "total", "partial", "square", "products", "product_total")

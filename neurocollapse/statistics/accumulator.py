"""Streaming class moments: the shifted update, its float64 totals and its rebasing."""

from typing import Any

import torch
from torch import Tensor

from neurocollapse.statistics.labels import ClassBatch, check_labels
from neurocollapse.statistics.moments import ClassMoments

ROW_CHUNK = 2**20
"""Elements of one chunk of rows: 4 MiB in float32, so that the scratch stays in the cache."""
NORM_BLOCK = 128
"""Features summed in float32 before a squared norm continues in float64: relative error ≤ 3e-8 per row, no bias."""
NARROW = 128
"""Layers up to this wide keep their whole state in float64: it costs little, and few features average little out."""
FLUSH_COUNT = 32
"""Samples of one class that float32 sums may gather before they go to the float64 total."""
COVARIANCE_FLUSH_ROWS = 2048
"""Rows whose products float32 may gather before they go to the float64 scatter matrix."""
COVARIANCE_BLOCKS = 8
"""Column blocks of δᵀδ: eight upper blocks cost 0.55–0.6 of the full product."""
REBASE_RATIO = 16.0
"""A class moves its reference when ‖mean − reference‖² exceeds this many times its variance."""

_scratch: dict[tuple[torch.device, torch.dtype], Tensor] = {}


class MomentAccumulator:
    """Class moments of one layer, updated batch by batch in memory that does not grow with the samples.

    Each sample is first shifted by its class's reference, an actual sample of that class, which is exact in floating
    point when the two are close (Sterbenz). Sums of a few dozen shifted samples stay in the working dtype; they and
    the squared norms are then added to float64 totals. The reference moves after batches 1, 2, 4, 8, … where it has
    turned out far from the mean. Nothing is read back from the device.

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
        precision: str = "single",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        covariance: bool = False,
        skip_non_finite: bool = False,
    ) -> None:
        working = working_dtype(num_features, precision=precision, dtype=dtype)
        double = torch.float64
        self.skip_non_finite = skip_non_finite
        self.num_batches = 0
        self.pending_rows = 0
        with torch.inference_mode(False):  # state made in inference mode could not be updated outside it
            self.count = torch.zeros(num_classes, dtype=torch.int64)
            self.pending = torch.zeros(num_classes, dtype=torch.int64)
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
        return self.count.shape[0]

    @property
    def num_features(self) -> int:
        """Number of features."""
        return self.reference.shape[1]

    def update(self, features: Tensor, batch: ClassBatch) -> Tensor:
        """Add the features of one batch, shape (samples, features).

        Returns
        -------
        Tensor of shape (samples,), float64
            Squared distance of each sample to its reference: not finite exactly where the features are not (or where
            float32 squares overflow), so that one look at all layers finds a bad sample.
        """
        labels = batch.on(features.device)
        self._adopt_references(features, batch)
        norms = torch.empty(labels.shape[0], dtype=torch.float64, device=features.device)
        for rows, counts in batch.pieces(max(1, ROW_CHUNK // max(1, self.num_features)), FLUSH_COUNT):
            self._make_room(counts)
            norms[rows] = self._add_rows(features[rows], labels[rows])
        self.square.index_add_(0, labels, norms)
        self.count += batch.counts
        self.num_batches += 1
        if self.num_batches & (self.num_batches - 1) == 0:
            self._rebase()
        return norms

    def grow(self, num_classes: int) -> None:
        """Make room for more classes; those already there keep their state."""
        extra = num_classes - self.num_classes
        shares_total = self.partial is self.total
        with torch.inference_mode(False):
            for name in ("count", "pending", "dropped", "reference", "total", "square"):
                state: Tensor = getattr(self, name)
                setattr(self, name, torch.cat([state, state.new_zeros(extra, *state.shape[1:])]))
            rows = self.partial.new_zeros(0 if shares_total else extra, self.num_features)
            self.partial = self.total if shares_total else torch.cat([self.partial, rows])

    def moments(self) -> ClassMoments:
        """The moments of everything seen so far, on the CPU; the state is left as it is."""
        offset_sum = self.total.cpu() if self.partial is self.total else (self.total + self.partial).cpu()
        count = self.count - self.dropped.cpu()
        within = None
        if self.products is not None and self.product_total is not None:
            products = self.product_total if self.products is self.product_total else self.product_total + self.products
            within = _mirrored(products.cpu()) - offset_sum.T @ (offset_sum / count.clamp(min=1).unsqueeze(1))
        return ClassMoments(
            count=count,
            reference=self.reference.cpu().clone(),
            offset_sum=offset_sum.clone(),
            offset_square=self.square.cpu().clone(),
            within_scatter=within,
        )

    def state(self) -> dict[str, Tensor]:
        """The raw state as tensors: what a file needs for the run to go on to the last bit."""
        tensors = {name: getattr(self, name) for name in _STATE if getattr(self, name) is not None}
        if self.partial is self.total:
            tensors.pop("partial")
        if self.products is self.product_total:
            tensors.pop("product_total", None)
        tensors["progress"] = torch.tensor([self.num_batches, self.pending_rows])
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take up a state that `state` returned."""
        expected = self.state()
        if expected.keys() != tensors.keys():
            raise ValueError(f"saved state has {sorted(tensors)}, this run needs {sorted(expected)}")
        self.num_batches, self.pending_rows = (int(value) for value in tensors["progress"])
        for name, destination in expected.items():
            if destination.shape != tensors[name].shape or destination.dtype != tensors[name].dtype:
                found, needed = tuple(tensors[name].shape), tuple(destination.shape)
                raise ValueError(f"saved {name!r} has shape {found}, this run needs {needed}")
            destination.copy_(tensors[name])

    def _adopt_references(self, features: Tensor, batch: ClassBatch) -> None:
        """Take the first sample of every class not met before as that class's reference."""
        new = self.count[batch.present] == 0
        if not bool(new.any()):
            return
        classes = batch.present[new].to(features.device)
        samples = features.index_select(0, batch.first_rows[new].to(features.device)).to(self.reference.dtype)
        if self.skip_non_finite:
            samples = torch.where(samples.isfinite().all(dim=1, keepdim=True), samples, 0.0)
        self.reference.index_copy_(0, classes, samples)

    def _make_room(self, counts: Tensor) -> None:
        """Move float32 sums to the float64 totals before any of them gathers too many samples."""
        if self.products is not None:
            rows = int(counts.sum())
            if self.pending_rows + rows > COVARIANCE_FLUSH_ROWS:
                self._flush_products()
            self.pending_rows += rows
        if self.partial is self.total:
            return
        pending = self.pending + counts
        if int(pending.max()) > FLUSH_COUNT:
            self._flush_sums(self.pending.nonzero().flatten())
            pending = counts.clone()
        self.pending = pending

    def _add_rows(self, features: Tensor, labels: Tensor) -> Tensor:
        """Add some rows to the sums and return their squared distances to the references."""
        shape = features.shape
        shifted = _scratch_like(self.reference, shape)
        torch.index_select(self.reference, 0, labels, out=shifted)
        torch.sub(features, shifted, out=shifted)
        if self.skip_non_finite:
            finite = shifted.isfinite().all(dim=1)
            shifted.masked_fill_(~finite.unsqueeze(1), 0.0)
            self.dropped.index_add_(0, labels, (~finite).long())
        self.partial.index_add_(0, labels, shifted)
        if self.products is not None:
            _add_upper_products(self.products, shifted)
        return _squared_norms(shifted)

    def _flush_sums(self, classes: Tensor) -> None:
        """Add the float32 sums of `classes` to the float64 totals and clear them."""
        if classes.numel() == self.num_classes:
            self.total += self.partial
            self.partial.zero_()
            return
        classes = classes.to(self.total.device)
        self.total.index_add_(0, classes, self.partial.index_select(0, classes).double())
        self.partial.index_fill_(0, classes, 0.0)

    def _flush_products(self) -> None:
        """Add the float32 products to the float64 scatter matrix and clear them."""
        if self.products is None or self.product_total is None or self.products is self.product_total:
            return
        self.product_total += self.products
        self.products.zero_()
        self.pending_rows = 0

    def _rebase(self) -> None:
        """Move the reference of every class whose mean lies far from it, by exact algebra on the totals."""
        if self.partial is not self.total:
            self._flush_sums(torch.arange(self.num_classes))
            self.pending.zero_()
        count = (self.count.to(self.total.device) - self.dropped).double()
        sum_square = self.total.square().sum(dim=1)
        far = sum_square > REBASE_RATIO * (count * self.square - sum_square)
        mean = self.total / count.clamp(min=1).unsqueeze(1)
        moved = (self.reference + mean).to(self.reference.dtype)
        shift = torch.where(far.unsqueeze(1), moved.double() - self.reference, 0.0)
        self._shift_products(shift, count)
        self.square += count * shift.square().sum(dim=1) - 2 * (self.total * shift).sum(dim=1)
        self.total -= count.unsqueeze(1) * shift
        self.reference = torch.where(far.unsqueeze(1), moved, self.reference)

    def _shift_products(self, shift: Tensor, count: Tensor) -> None:
        """Σ(δ−h)(δ−h)ᵀ from Σδδᵀ for per-class shifts h, class sums S and counts n (upper triangle matters only)."""
        if self.product_total is None:
            return
        self._flush_products()
        cross = self.total.T @ shift
        self.product_total += shift.T @ (count.unsqueeze(1) * shift) - cross - cross.T


_STATE = ("count", "pending", "dropped", "reference", "total", "partial", "square", "products", "product_total")


def working_dtype(num_features: int, *, precision: str, dtype: torch.dtype) -> torch.dtype:
    """Dtype of references and shifted samples: float64 for double precision, float64 features and narrow layers."""
    if precision not in ("single", "double"):
        raise ValueError(f'`precision` must be "single" or "double", got {precision!r}')
    needs_double = precision == "double" or dtype == torch.float64 or num_features <= NARROW
    return torch.float64 if needs_double else torch.float32


def state_bytes(num_classes: int, num_features: int, *, working: torch.dtype, covariance: bool) -> int:
    """Bytes that an accumulator of this size holds, however many samples it sees."""
    per_element = 16  # float64 reference and total, or float32 reference and partial sum with a float64 total
    square = num_features**2 * (8 if working == torch.float64 else 12) if covariance else 0
    return num_classes * (per_element * num_features + 32) + square


def moments_of(features: Any, labels: Any, num_classes: int | None, *, covariance: bool) -> ClassMoments:
    """Moments of features in memory, in float64: what `ClassMoments.from_features` does."""
    values = torch.as_tensor(features).detach().double()
    if values.ndim != 2:
        raise ValueError(f"`features` must have shape (samples, features), got {tuple(values.shape)}; flatten the rest")
    checked = check_labels(labels, num_samples=values.shape[0], num_classes=num_classes)
    classes = num_classes if num_classes is not None else int(checked.max()) + 1 if checked.numel() else 0
    accumulator = MomentAccumulator(
        classes, values.shape[1], precision="double", device=values.device, covariance=covariance
    )
    if checked.numel():
        accumulator.update(values, ClassBatch(checked, classes))
    return accumulator.moments()


def _scratch_like(state: Tensor, shape: torch.Size) -> Tensor:
    """A buffer of `shape`, cut from one that all layers of a device share and that only ever grows."""
    key = (state.device, state.dtype)
    needed = shape.numel()
    buffer = _scratch.get(key)
    if buffer is None or buffer.numel() < needed:
        with torch.inference_mode(False):
            buffer = _scratch[key] = torch.empty(needed, dtype=state.dtype, device=state.device)
    return buffer[:needed].view(shape)


def _squared_norms(rows: Tensor) -> Tensor:
    """‖row‖² in float64, by blocks of NORM_BLOCK features where the rows are float32."""
    if rows.dtype == torch.float64:
        return torch.linalg.vector_norm(rows, dim=1).square_()
    whole = rows.shape[1] // NORM_BLOCK * NORM_BLOCK
    blocks = torch.linalg.vector_norm(rows[:, :whole].unflatten(1, (-1, NORM_BLOCK)), dim=2)
    norms = blocks.double().square_().sum(dim=1)
    if whole < rows.shape[1]:
        norms += torch.linalg.vector_norm(rows[:, whole:], dim=1).double().square_()
    return norms


def _add_upper_products(products: Tensor, rows: Tensor) -> None:
    """Add the upper blocks of rowsᵀ rows to `products`; what lies below the block diagonal is never read."""
    width = -(-products.shape[0] // COVARIANCE_BLOCKS)
    for start in range(0, products.shape[0], width):
        stop = start + width
        products[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])


def _mirrored(upper: Tensor) -> Tensor:
    """The symmetric matrix with this upper triangle."""
    return upper.triu() + upper.triu(1).T

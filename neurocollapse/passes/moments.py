"""Features of many layers into class moments, one batch at a time."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurocollapse.hooks import SiteKey
from neurocollapse.statistics import (
    ClassBatch,
    ClassMoments,
    LayerRecord,
    MemoryPlan,
    MomentAccumulator,
    state_bytes,
    working_dtype,
)

NON_FINITE = ("raise", "skip")

_NON_FINITE = (
    'NaN, infinite, or too large to square; pass non_finite="skip" to leave such samples out, or precision="double" if '
    "they are finite but beyond 1e19"
)
_TOO_LARGE = 'finite, but too large to square; pass precision="double"'


class NonFiniteError(ValueError):
    """Features that are NaN or infinite, with the layer, batch and sample where they first appear."""


class StreamOptions(NamedTuple):
    """How features are accumulated; see `neurocollapse.collect`."""

    precision: str
    covariance: bool
    non_finite: str
    limit: int


class MomentStream:
    """One accumulator a layer, fed from inside the hooks.

    The first batch settles how much memory the layers need: state is allocated only as long as it fits, and once the
    forward pass has shown all layers the run is refused with the whole sum if it does not.

    Attributes
    ----------
    num_batches : int
        Batches of which every layer has been counted.
    torn : bool
        Whether some layers may have counted a batch, or made room for a class, that others have not.
    """

    def __init__(self, num_classes: int | None, options: StreamOptions) -> None:
        self.fixed_classes = num_classes is not None
        self.num_classes = num_classes or 0
        self.options = options
        self.num_batches = 0
        self.num_samples = 0
        self.accumulators: dict[SiteKey, MomentAccumulator] = {}
        self.torn = False
        self._planned: dict[SiteKey, int] = {}
        self._batch: ClassBatch | None = None
        self._norms: dict[SiteKey, tuple[Tensor, int]] = {}

    def begin(self, labels: Tensor, records: dict[SiteKey, LayerRecord], *, num_classes: int = 0) -> None:
        """Start a batch with these labels (checked, on the CPU); refuse new classes that do not fit in memory.

        `num_classes` is what the batch says of their number beside the labels that occur.
        """
        needed = max(num_classes, int(labels.max()) + 1 if labels.numel() else 0)
        if not self.fixed_classes and needed > self.num_classes:
            self._grow(needed, records)
        self._batch = ClassBatch(labels, self.num_classes)
        self._norms = {}

    def add(self, key: SiteKey, features: Tensor, positions: int) -> None:
        """Count one layer's features: called inside the hook, before the model's next operation."""
        if self._batch is None or not self._batch.labels.numel():
            return
        batch = self._batch.repeated(positions)
        if len(features) > len(batch.labels):  # what a padding sampler repeats comes last and has no label here
            features = features[: len(batch.labels)]
        accumulator = self.accumulators.get(key) or self._allocate(key, features)
        if accumulator is None:
            return  # does not fit
        self.torn = True
        self._norms[key] = (accumulator.update(features, batch), positions)

    def end(self, records: dict[SiteKey, LayerRecord]) -> None:
        """Finish the batch: refuse what does not fit in memory, and features that are not finite."""
        if self.num_batches == 0:
            self.plan(records).check()
        self._check_finite(records)
        self.torn = False
        self.num_batches += 1
        self.num_samples += 0 if self._batch is None else self._batch.labels.numel()
        self._batch = None

    def plan(self, records: dict[SiteKey, LayerRecord]) -> MemoryPlan:
        """How much memory each layer's state takes."""
        entries = tuple((_name(records, key), size) for key, size in self._planned.items())
        return MemoryPlan(entries, self.num_classes, self.options.limit)

    def finished(self, records: dict[SiteKey, LayerRecord]) -> tuple[dict[str, ClassMoments], dict[str, LayerRecord]]:
        """Moments and records by layer name, in the order of `records`; the running state is given up on the way."""
        moments, layers = {}, {}
        for key, record in records.items():
            accumulator = self.accumulators.pop(key)
            moments[record.name] = accumulator.moments()
            layers[record.name] = replace(record, num_skipped=int(accumulator.dropped.sum()))
        return moments, layers

    def state(self) -> dict[str, Tensor]:
        """The raw state of all layers, for a file."""
        return {
            f"{key.tap}.{key.call}/{name}": tensor
            for key, accumulator in self.accumulators.items()
            for name, tensor in accumulator.state().items()
        }

    def load_state(
        self,
        header: dict[str, Any],
        tensors: dict[str, Tensor],
        device: torch.device,
        records: dict[SiteKey, LayerRecord],
    ) -> None:
        """Take up a state that `state` returned, with the sizes in the file's header, if the memory allows."""
        self.num_classes = int(header["num_classes"])
        self.num_batches, self.num_samples = int(header["num_batches"]), int(header["num_samples"])
        sizes = {
            SiteKey(*site["key"]): (int(site["num_features"]), getattr(torch, site["dtype"]))
            for site in header["sites"]
        }
        self._planned = {key: self._bytes(self.num_classes, *size) for key, size in sizes.items()}
        self.plan(records).check()
        for key, size in sizes.items():
            accumulator = self._accumulator(*size, device)
            prefix = f"{key.tap}.{key.call}/"
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            accumulator.load_state(own)
            self.accumulators[key] = accumulator

    def _allocate(self, key: SiteKey, features: Tensor) -> MomentAccumulator | None:
        """A new layer's state, or None where all that has been asked for no longer fits."""
        self._planned[key] = self._bytes(self.num_classes, features.shape[1], features.dtype)
        if sum(self._planned.values()) > self.options.limit:
            return None
        accumulator = self._accumulator(features.shape[1], features.dtype, features.device)
        self.accumulators[key] = accumulator
        return accumulator

    def _accumulator(self, num_features: int, dtype: torch.dtype, device: torch.device) -> MomentAccumulator:
        """An empty accumulator with this run's options."""
        return MomentAccumulator(
            self.num_classes,
            num_features,
            precision=self.options.precision,
            dtype=dtype,
            device=device,
            covariance=self.options.covariance,
            skip_non_finite=self.options.non_finite == "skip",
        )

    def _bytes(self, num_classes: int, num_features: int, dtype: torch.dtype) -> int:
        """Bytes of one layer's state."""
        working = working_dtype(num_features, precision=self.options.precision, dtype=dtype)
        return state_bytes(num_classes, num_features, working=working, covariance=self.options.covariance)

    def _grow(self, num_classes: int, records: dict[SiteKey, LayerRecord]) -> None:
        """Make room for classes that no batch has shown before; what does not fit is refused with nothing changed."""
        planned = {
            key: self._bytes(num_classes, accumulator.num_features, accumulator.reference.dtype)
            for key, accumulator in self.accumulators.items()
        }
        entries = tuple((_name(records, key), size) for key, size in planned.items())
        MemoryPlan(entries, num_classes, self.options.limit).check()
        self.torn = True
        for accumulator in self.accumulators.values():
            accumulator.grow(num_classes)
        self.torn = False
        self.num_classes, self._planned = num_classes, planned

    def _check_finite(self, records: dict[SiteKey, LayerRecord]) -> None:
        """Raise for the first layer whose features were not finite: one look at the device for all layers."""
        if not self._norms:
            return
        first = next(iter(self._norms.values()))[0].device
        together = torch.cat([norms.to(first, non_blocking=True) for norms, _ in self._norms.values()])
        if bool(together.sum().isfinite()):
            return
        key, (norms, positions) = next(item for item in self._norms.items() if not item[1][0].isfinite().all())
        problem = _TOO_LARGE if self.options.non_finite == "skip" else _NON_FINITE
        sample = int((~norms.isfinite()).nonzero()[0]) // positions
        raise NonFiniteError(
            f"layer {_name(records, key)!r}: the features of sample {sample} in batch {self.num_batches} (counted "
            f"from 0) are {problem}"
        )


def _name(records: dict[SiteKey, LayerRecord], key: SiteKey) -> str:
    """A layer's name for a message."""
    return records[key].name if key in records else f"#{key.tap}"

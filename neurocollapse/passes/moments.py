"""Features of many layers into class moments, one batch at a time."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from neurocollapse.passes.finite import FiniteWatch, NotFinite, are_finite
from neurocollapse.passes.sink import Sink
from neurocollapse.statistics import (
    ClassBatch,
    LayerRecord,
    MemoryPlan,
    MomentAccumulator,
    MomentCollection,
    Precision,
    StateBytes,
    free_disk,
    kernel_on,
    memory_limit,
    state_bytes,
    working_dtype,
)
from neurocollapse.statistics.kernels import ALL_FINITE
from neurocollapse.statistics.memory import HEADROOM, WITHOUT_PARTIAL
from neurocollapse.support.checks import file_path, flag, shown
from neurocollapse.support.choices import NonFinite, check_choice
from neurocollapse.support.transfer import sent_back

WIDTHS: tuple[StateBytes, ...] = get_args(StateBytes)
"""Bytes for each class and feature, from the fastest to the smallest."""

_NON_FINITE = (
    'NaN, infinite, or too large to square; pass non_finite="skip" to leave such samples out, or precision="double" if '
    "they are finite but beyond 1e19"
)
TOO_LARGE = 'finite, but too large to square; pass precision="double"'


class NonFiniteError(ValueError):
    """Features that are NaN or infinite, with layer and batch where they first appear, and the sample on a CPU."""


class MomentSink(Sink):
    """Class moments of every layer, one accumulator per layer.

    The first batch settles how much memory the layers need: state is allocated only as long as it fits, and once the
    forward pass has shown all layers the run is refused with the whole sum if it does not. A batch with new classes is
    refused if the room that they need does not fit. Before anything is refused, all layers go on with fewer bytes for
    each class and feature.

    Parameters
    ----------
    precision : {"single", "double"}, default "single"
        "double" keeps the whole state in float64.
    covariance : bool, default False
        Keep the pooled within-class scatter matrix (features × features) of every layer.
    non_finite : {"raise", "skip"}, default "raise"
        Features that are NaN or infinite end the run, or are left out of that layer and counted.
    max_memory : float, optional
        Bytes that the running state may take. Default: 90 % of the free memory.
    state_bytes : {"auto", 16, 12, 8}, default "auto"
        Bytes for each class and feature, where the state is not in float64; "auto" takes the most that fit, and on disk
        12 at most.
    state_dir : path-like, optional
        Keep the state in memory-mapped files in this folder; `max_memory` then limits these.

    Attributes
    ----------
    width : {16, 12, 8}
        The bytes for each class and feature at present.
    devices : dict of site to torch.device
        Where the features of each layer were: a model may lie on several devices.
    """

    def __init__(
        self,
        *,
        precision: Precision = "single",
        covariance: bool = False,
        non_finite: NonFinite = "raise",
        max_memory: float | None = None,
        state_bytes: StateBytes | Literal["auto"] = "auto",
        state_dir: str | PathLike[str] | None = None,
    ) -> None:
        check_choice("precision", precision, Precision)
        check_choice("non_finite", non_finite, NonFinite)
        kernel_on("cpu")  # to fail now, not when the first batch comes
        if max_memory is not None:
            memory_limit(torch.device("cpu"), max_memory)
        self.settings = {
            "precision": precision,
            "covariance": covariance,
            "non_finite": non_finite,
            "state_bytes": state_bytes,
        }
        self.precision: Precision = precision
        self.covariance = flag("covariance", covariance)
        self.skips = non_finite == "skip"
        self.max_memory = max_memory
        self.accumulators: dict[str, MomentAccumulator] = {}
        self.devices: dict[str, torch.device] = {}
        self.num_classes = 0
        self.folder = None if state_dir is None else Path(file_path("state_dir", state_dir))
        self._widths = _widths_of(state_bytes, precision, on_disk=state_dir is not None)
        self.width = self._widths[0]
        self._planned: dict[str, _Size] = {}
        self._from_file: set[str] = set()  # layers whose state a file had, until their first features come
        self._spoilt: dict[str, tuple[int, ClassBatch]] = {}  # a row that is not finite, among its layer's rows
        self._squares: dict[str, Tensor] = {}
        self._watch = FiniteWatch()
        self._number = 0  # of the last batch

    def start(self, layers: Mapping[str, LayerRecord], device: torch.device) -> None:
        """Learn where the model runs, and how much memory is free there."""
        super().start(layers, device)
        if self.folder is None:
            self.limit = memory_limit(device, self.max_memory)
            return
        if device.type != "cpu":
            raise ValueError(f"`state_dir` is for models on the CPU, and this one is on {device}; leave it out")
        free = int(HEADROOM * free_disk(self.folder))
        self.limit = free if self.max_memory is None else min(free, memory_limit(device, self.max_memory))

    def begin(self, batch: ClassBatch) -> None:
        """Refuse new classes that do not fit in memory."""
        if batch.num_classes > self.num_classes:
            if not self.num_classes:
                self._choose_widths(batch.num_classes)
            width = self._fitting(self._planned, batch.num_classes)
            self._plan(self._planned, batch.num_classes, width).check()
            self.num_classes = batch.num_classes
            self._narrow(width)
        self._batch, self._number, self._spoilt, self._squares = batch, batch.number, {}, {}

    def add(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        """Count one layer's features."""
        accumulator = self.accumulators.get(site) or self._allocated(site, features)
        if accumulator is None:
            return  # does not fit
        if site in self._from_file:
            accumulator = self._placed(site, features.device)
        if accumulator.num_classes < rows.num_classes:
            accumulator.grow(rows.num_classes)
        spoilt = accumulator.update(features, rows)
        if isinstance(spoilt, Tensor):
            self._squares[site] = spoilt
        elif spoilt != ALL_FINITE:
            self._spoilt[site] = spoilt, rows

    def end(self, logits: Tensor | None) -> None:
        """Refuse what does not fit in memory, and features that are not finite."""
        if len(self._planned) > len(self.accumulators):
            self._plan(self._planned, self.num_classes, self._fitting(self._planned, self.num_classes)).check()
        self._check_finite()

    def drop(self, site: str) -> None:
        """Give up one layer's state."""
        for parts in (self.accumulators, self._planned, self._spoilt, self._squares):
            parts.pop(site, None)
        self._from_file.discard(site)
        self._watch.drop(site)

    @property
    def plan(self) -> MemoryPlan:
        """How much memory each layer's state takes."""
        return self._plan(self._planned, self.num_classes, self.width)

    def state(self) -> dict[str, Tensor]:
        """The raw state of all layers, once the last batch is known to have been finite."""
        self._refuse(self._watch.last())
        return self._raw_state()

    def snapshot(self) -> Callable[[], Mapping[str, Tensor]]:
        """The same, without waiting: whether all was finite is looked at when it has arrived."""
        arriving, batch = sent_back(self._raw_state()), self._number

        def state() -> Mapping[str, Tensor]:
            tensors = arriving()
            for name, tensor in tensors.items():
                site, _, part = name.partition("/")
                if part == "square" and site in self.accumulators and not tensor.isfinite().all():
                    self._refuse(NotFinite(site, batch))
            return tensors

        return state

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state, if the memory allows."""
        parts: dict[str, list[str]] = {}
        for name in tensors:
            site, _, part = name.partition("/")
            parts.setdefault(site, []).append(part)
        counts, widths = {}, []
        for site, names in parts.items():
            reference = tensors[f"{site}/reference"]
            counts[site], self._planned[site] = len(reference), _Size(reference.shape[1], reference.dtype)
            if reference.dtype != torch.float64:
                total = tensors[f"{site}/total"].dtype
                widths.append(WIDTHS[0] if "partial" in names else WIDTHS[1] if total == torch.float64 else WIDTHS[2])
        self.num_classes = max(counts.values(), default=0)
        self._choose_widths(self.num_classes)
        self.width = min([self.width, *widths])
        self.plan.check()
        for site, size in self._planned.items():
            self.accumulators[site] = self._accumulator(counts[site], size, self.device)
            self.accumulators[site].load_state({part: tensors[f"{site}/{part}"] for part in parts[site]})
        self._from_file = set(self.accumulators)

    def result(self) -> MomentCollection:
        """The moments of all layers in order of depth; the running state is given up on the way."""
        self._refuse(self._watch.last())
        moments, layers = {}, {}
        for site, record in self.layers.items():
            if site in self.accumulators:
                accumulator = self.accumulators.pop(site)
                moments[record.name] = accumulator.released().padded(self.num_classes)
                if not are_finite(moments[record.name], late=accumulator.kernel.never_waits):
                    raise NonFiniteError(f"layer {record.name!r}: features are {TOO_LARGE}")
                layers[record.name] = replace(record, num_skipped=int(accumulator.dropped.sum()))
        return MomentCollection(moments, layers, {"state_bytes": self.width})

    def _raw_state(self) -> dict[str, Tensor]:
        """The tensors of all layers."""
        return {
            f"{site}/{name}": tensor
            for site, accumulator in self.accumulators.items()
            for name, tensor in accumulator.state().items()
        }

    def _allocated(self, site: str, features: Tensor) -> MomentAccumulator | None:
        """A new layer's state, or None where all that has been asked for no longer fits."""
        size = _Size(features.shape[1], features.dtype)
        self._planned[site] = size
        width = self._fitting(self._planned, self.num_classes)
        if self._plan(self._planned, self.num_classes, width).total > self.limit:
            return None
        self._narrow(width)
        self.accumulators[site] = self._accumulator(self.num_classes, size, features.device)
        self.devices[site] = features.device
        return self.accumulators[site]

    def _placed(self, site: str, device: torch.device) -> MomentAccumulator:
        """The state that a file had of a layer, where its features are: a model may lie on several devices."""
        self._from_file.remove(site)
        self.devices[site] = device
        before = self.accumulators[site]
        if before.place.device != device:
            self.accumulators[site] = self._accumulator(before.num_classes, self._planned[site], device)
            self.accumulators[site].load_state(before.state())
        return self.accumulators[site]

    def _accumulator(self, num_classes: int, size: "_Size", device: torch.device) -> MomentAccumulator:
        """An empty accumulator with this run's options."""
        return MomentAccumulator(
            num_classes,
            size.num_features,
            precision=self.precision,
            state_bytes=self.width,
            dtype=size.dtype,
            device=device,
            covariance=self.covariance,
            skip_non_finite=self.skips,
            folder=self.folder,
        )

    def _fitting(self, planned: "Mapping[str, _Size]", num_classes: int) -> StateBytes:
        """The most bytes for each class and feature, of those allowed, with which some layers fit; else the fewest."""
        allowed = [width for width in self._widths if width <= self.width] or [self.width]
        totals = {width: self._plan(planned, num_classes, width).total for width in allowed}
        fitting = (width for width, total in totals.items() if total <= self.limit)
        return next(fitting, min(totals, key=totals.__getitem__))

    def _choose_widths(self, num_classes: int) -> None:
        """Do without float32 sums beside the totals where the kernel keeps none for so many classes."""
        if self.precision == "single" and num_classes <= kernel_on(self.device).most_in_total:
            self._widths = tuple(dict.fromkeys(min(width, WITHOUT_PARTIAL) for width in self._widths))
            self.width = min(self.width, WITHOUT_PARTIAL)

    def _narrow(self, width: StateBytes) -> None:
        """Let all layers go on with so many bytes."""
        if width < self.width:
            self.width = width
            for accumulator in self.accumulators.values():
                accumulator.narrow(width)

    def _plan(self, planned: "Mapping[str, _Size]", num_classes: int, width: StateBytes) -> MemoryPlan:
        """The memory of some layers, by name."""
        entries = []
        for site, (num_features, dtype) in planned.items():
            working = working_dtype(num_features, precision=self.precision, dtype=dtype)
            size = state_bytes(
                num_classes,
                num_features,
                working=working,
                covariance=self.covariance,
                per_element=width,
                device=self.device,
            )
            entries.append((self._name(site), size))
        folder = None if self.folder is None else str(self.folder)
        return MemoryPlan(tuple(entries), num_classes, self.limit, width, folder)

    def _check_finite(self) -> None:
        """Raise for the first layer whose features were not finite; where numbers come late, one batch later."""
        for site, (row, rows) in self._spoilt.items():
            sample = self._batch.sample(int(rows.samples[row]))
            self._refuse(NotFinite(site, self._batch.number), f"sample {sample} in ")
        if self._squares:
            self._refuse(self._watch.next(self._squares, self._batch.number))

    def _refuse(self, found: NotFinite | None, sample: str = "") -> None:
        """Raise for features that were not finite."""
        if found is not None:
            raise NonFiniteError(
                f"layer {self._name(found.site)!r}: the features of {sample}batch {found.batch} (counted from 0) are "
                f"{TOO_LARGE if self.skips else _NON_FINITE}"
            )

    def _name(self, site: str) -> str:
        """A layer's name for a message."""
        return self.layers[site].name if site in self.layers else site


class _Size(NamedTuple):
    """What a layer's memory depends on beside the number of classes."""

    num_features: int
    dtype: torch.dtype


def _widths_of(state_bytes: Any, precision: Precision, *, on_disk: bool) -> tuple[StateBytes, ...]:
    """Which bytes for each class and feature are allowed: partial sums would only move more of a file to and fro."""
    if state_bytes == "auto":
        return WIDTHS[int(on_disk) :] if precision == "single" else WIDTHS[:1]
    if isinstance(state_bytes, bool) or state_bytes not in WIDTHS:
        raise ValueError(f'`state_bytes` must be "auto", 16, 12 or 8, got {shown(state_bytes)}')
    if precision == "double" and state_bytes != WIDTHS[0]:
        raise ValueError('precision="double" takes 16 bytes; leave out `state_bytes`')
    return (state_bytes,)

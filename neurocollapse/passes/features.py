"""The features of a few thousand samples, kept in memory: what probes and spectra need."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neurocollapse.data.batches import moved, split_batch
from neurocollapse.hooks import CaptureWarning, Recorder, SiteKey
from neurocollapse.passes.loop import INPUT, callee_of, checked_labels, device_of, flat_input, progress_bar, undisturbed
from neurocollapse.statistics import MemoryPlanError, MomentCollection, memory_limit
from neurocollapse.statistics.memory import GIB

GATHER_OPTIONS = frozenset(
    ("layers", "pool", "calls", "output", "device", "mode", "label_fn", "include_input", "progress")
)
"""The options that a second pass shares with `neurocollapse.collect`."""
WORKING_COPIES = 4
"""Float64 copies of the largest layer that a probe makes: of both parts, standardised, and decomposed."""


@dataclass(frozen=True)
class Gathered:
    """Features of many layers for the same samples.

    Attributes
    ----------
    features : dict of str to Tensor of shape (rows, features), on the CPU
        In float64 where the layer computes in it, else in float32.
    samples : dict of str to Tensor of shape (rows,), int64
        The sample that each row belongs to: its own, unless every position counts as a row.
    labels : Tensor of shape (samples,), int64
    """

    features: dict[str, Tensor]
    samples: dict[str, Tensor]
    labels: Tensor

    def rows(self, name: str, chosen: NDArray[np.bool_] | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Finite features of one layer and their labels, of all samples or of those in a mask."""
        features, samples = self.features[name], self.samples[name]
        keep = features.isfinite().all(dim=1)
        if chosen is not None:
            keep &= torch.from_numpy(chosen)[samples]
        return features[keep].numpy(), self.labels[samples[keep]].numpy()

    def num_left_out(self, name: str) -> int:
        """How many rows of one layer `rows` leaves out, because their features are not finite."""
        return int((~self.features[name].isfinite().all(dim=1)).sum())


def gather(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    num_samples: int,
    num_classes: int | None = None,
    layers: Any = "leaves",
    pool: Any = "auto",
    calls: str = "all",
    output: Any = None,
    device: torch.device | str | None = None,
    mode: str = "eval",
    label_fn: Callable[[Any], Any] | None = None,
    include_input: bool = False,
    progress: bool = True,
) -> Gathered:
    """Features of every chosen layer for the first samples of a loader, in float32 or float64.

    The model is left as `neurocollapse.collect` leaves it, and the options mean the same.

    Parameters
    ----------
    model : torch.nn.Module
    loader : iterable of batches
    num_samples : int
        Samples to keep at most; the pass ends when there are that many.
    num_classes : int, optional
        Labels must lie in [0, num_classes).

    Returns
    -------
    Gathered

    Raises
    ------
    ValueError
        As `neurocollapse.collect`; also if the loader gives no samples.

    Examples
    --------
    >>> batches = [(torch.eye(4), torch.tensor([0, 0, 1, 1]))] * 3
    >>> gather(nn.Linear(4, 3), batches, num_samples=6, layers="leaves").labels.tolist()
    [0, 0, 1, 1, 0, 0]
    """
    kept = _Kept(num_samples)
    recorder = Recorder(model, layers, pool=pool, output=output, calls=calls, sink=kept.add)
    callee, place = callee_of(model, recorder.model), device_of(model, device)
    with undisturbed(recorder.model, mode, place), recorder, progress_bar(loader, progress, "probe") as bar:
        for batch in bar:
            parts = split_batch(batch, recorder.model, label_fn=label_fn)
            labels = checked_labels(parts, num_classes)
            if not len(labels):
                continue
            kept.begin(labels)
            if include_input:
                kept.add(INPUT, flat_input(parts, len(labels)), 1)
            recorder.expect(len(labels))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CaptureWarning)  # the pass that collected moments has said it
                callee(*moved(parts.args, place), **moved(parts.kwargs, place))
            if kept.num_samples >= num_samples:
                break
    if not kept.num_samples:
        raise ValueError("the loader gave no samples to probe; check that it is not empty or already used up")
    return kept.finished({INPUT: "input"} | {key: site.name for key, site in recorder.sites.items()})


def check_features_fit(moments: MomentCollection, num_samples: int, *, limit: float | None) -> None:
    """Raise MemoryPlanError unless the features that `gather` would keep, and work on one layer, fit in memory.

    Parameters
    ----------
    moments : MomentCollection
        Of the same layers: says how wide they are, and of which dtype.
    num_samples : int
        Samples to keep, all passes together.
    limit : float or None
        Bytes that may be used. Default: 90 % of the free memory.
    """
    records = {name: moments.record(name) for name in moments}
    counts = {name: num_samples * records[name].positions * value.num_features for name, value in moments.items()}
    sizes = {name: count * (8 if records[name].feature_dtype == "float64" else 4) for name, count in counts.items()}
    allowed = memory_limit(torch.device("cpu"), limit)
    largest = max(counts, key=counts.__getitem__)
    needed = sum(sizes.values()) + WORKING_COPIES * 8 * counts[largest]
    if needed > allowed:
        raise MemoryPlanError(
            f"probing {len(sizes)} layers on {num_samples} samples needs {needed / GIB:.2f} GiB, but only "
            f"{allowed / GIB:.2f} GiB may be used (largest layer: {largest}, {sizes[largest] / GIB:.2f} GiB); pass a "
            'smaller probe_samples, select fewer layers, pool="mean", or raise max_memory'
        )


class _Kept:
    """Copies of the features of the first samples, layer by layer."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.num_samples = 0
        self._labels: list[Tensor] = []
        self._features: dict[SiteKey, list[Tensor]] = {}
        self._samples: dict[SiteKey, list[Tensor]] = {}

    def begin(self, labels: Tensor) -> None:
        """Start a batch, of which only as many samples count as there is room for."""
        self._labels.append(labels[: self.limit - self.num_samples])
        self.num_samples += len(self._labels[-1])

    def add(self, key: SiteKey, features: Tensor, positions: int) -> None:
        """Keep one layer's features: called inside the hook."""
        count = len(self._labels[-1])
        rows = torch.arange(self.num_samples - count, self.num_samples).repeat_interleave(positions)
        with torch.inference_mode(False):  # a copy, never a view of the model's memory or a tensor of inference mode
            copy = features[: len(rows)].to("cpu", copy=True)
        self._features.setdefault(key, []).append(copy)
        self._samples.setdefault(key, []).append(rows)

    def finished(self, names: dict[SiteKey, str]) -> Gathered:
        """Everything by layer name; the parts of each layer are given up on the way."""
        kept = [key for key in names if key in self._features]
        with torch.inference_mode(False):
            return Gathered(
                {names[key]: torch.cat(self._features.pop(key)) for key in kept},
                {names[key]: torch.cat(self._samples[key]) for key in kept},
                torch.cat(self._labels),
            )

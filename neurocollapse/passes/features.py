"""The features of the first samples, kept in memory: what probes and spectra need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.passes.sink import Sink
from neurocollapse.statistics import ClassBatch, MemoryPlanError, MomentCollection, memory_limit
from neurocollapse.statistics.memory import GIB
from neurocollapse.support.transfer import Arrivals, sent

_SAMPLES = "samples of "
WORKING_COPIES = 4
"""Float64 copies of the largest layer that a probe makes: of both parts, standardised, and decomposed."""


class FeatureSink(Sink):
    """Copies of the features of the first samples, layer by layer.

    Parameters
    ----------
    num_samples : int
        Samples to keep at most; then the sink is full.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.settings = {"num_samples": num_samples}
        self._parts: dict[str, list[Tensor]] = {}
        self._arrivals = Arrivals()
        self._samples: dict[str, list[Tensor]] = {}
        self._labels: list[Tensor] = []
        self._left = num_samples

    def begin(self, batch: ClassBatch) -> None:
        """Start a batch, of which only as many samples count as there is room for."""
        self._batch = batch

    def add(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        """Keep one layer's features."""
        if not self._left:
            return
        samples = rows.samples
        if len(self._batch.labels) > self._left:
            wanted = (samples < self._left).nonzero().flatten()
            features, samples = features.index_select(0, sent(wanted, features.device)), samples[wanted]
        with torch.inference_mode(False):  # a copy, never a view of the model's memory or a tensor of inference mode
            self._arrivals.append(self._parts.setdefault(site, []), features)
            self._samples.setdefault(site, []).append(samples + (self.num_samples - self._left))

    def end(self, logits: Tensor | None) -> None:
        """Keep the labels, and the features of the batch before."""
        self._arrivals.end_batch()
        self._labels.append(self._batch.labels[: self._left])
        self._left -= len(self._labels[-1])
        self.full = self._left == 0

    def idle(self, *, finished: bool) -> bool:
        """Keep the features of the batch before."""
        self._arrivals.end_batch()
        return False

    def drop(self, site: str) -> None:
        """Give up one layer's features."""
        self._parts.pop(site, None)
        self._samples.pop(site, None)

    def state(self) -> dict[str, Tensor]:
        """Features and labels, batch by batch."""
        return dict(self.snapshot()())

    def snapshot(self) -> Callable[[], Mapping[str, Tensor]]:
        """The same, without waiting: what has arrived, and what will."""
        lists = {"labels": self._labels} | self._parts
        arriving = self._arrivals.later(lists | {f"{_SAMPLES}{site}": part for site, part in self._samples.items()})
        return lambda: {
            f"{name}/{index}": part for name, parts in arriving().items() for index, part in enumerate(parts)
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the features and labels of some batches."""
        parts: dict[str, list[Tensor]] = {}
        for name in sorted(tensors, key=lambda name: int(name.rpartition("/")[2])):
            parts.setdefault(name.rpartition("/")[0], []).append(tensors[name])
        self._labels = parts.pop("labels")
        self._samples = {name[len(_SAMPLES) :]: parts.pop(name) for name in list(parts) if name.startswith(_SAMPLES)}
        self._parts = parts
        self._left -= sum(map(len, self._labels))
        self.full = self._left == 0

    def result(self) -> "KeptFeatures":
        """The features by layer name; the sink gives up its parts on the way."""
        self._arrivals.settle()
        labels = torch.cat(self._labels) if self._labels else torch.empty(0, dtype=torch.int64, device="cpu")
        features = {
            record.name: torch.cat(self._parts.pop(site)) for site, record in self.layers.items() if site in self._parts
        }
        names = {site: record.name for site, record in self.layers.items()}
        samples = {
            names[site]: torch.cat(parts) for site, parts in self._samples.items() if names.get(site) in features
        }
        return KeptFeatures(features, samples, labels)


@dataclass(frozen=True)
class KeptFeatures:
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
        """Finite features of one layer and their labels.

        Parameters
        ----------
        name : str
            Name of the layer.
        chosen : bool array of shape (samples,), optional
            Which samples. Default: all.
        """
        features, samples = self.features[name], self.samples[name]
        keep = features.isfinite().all(dim=1)
        if chosen is not None:
            keep &= torch.from_numpy(chosen)[samples]
        return features[keep].numpy(), self.labels[samples[keep]].numpy()

    def num_left_out(self, name: str) -> int:
        """Number of rows of one layer that `rows` leaves out, because their features are not finite.

        Parameters
        ----------
        name : str
            Name of the layer.
        """
        return int((~self.features[name].isfinite().all(dim=1)).sum())


def check_features_fit(moments: MomentCollection, num_samples: int, *, limit: float | None) -> None:
    """Raise MemoryPlanError unless the features that would be kept, and work on one layer, fit in memory.

    Parameters
    ----------
    moments : MomentCollection
        Class moments of the same layers: says how wide they are, and of which dtype.
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

"""Class moments whose features are divided among processes: each keeps some columns of every layer, for all samples."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch import distributed as dist

from neurocollapse.passes.moments import TOO_LARGE, MomentSink, NonFiniteError
from neurocollapse.statistics import ClassBatch, JointRun, LayerRecord, MomentCollection
from neurocollapse.support.transfer import Readback

_LEFT_OUT = "left out/"
_DIFFERENT = "the processes have other layers; give every rank the same model and options"


class ShardedSink(MomentSink):
    """Class moments of every layer, of which each of R processes keeps 1/R: some of the features, of all samples.

    After a batch the processes exchange its labels and features; one that has no batches left takes part until all are
    through. What they exchange is copied to the CPU, where the state is, too.

    Parameters
    ----------
    joint : JointRun
    **options
        See `MomentSink`; no `covariance`, which needs all features of a sample.
    """

    def __init__(self, joint: JointRun, **options: Any) -> None:
        super().__init__(**options)
        if self.covariance:
            raise ValueError(
                'covariance=True needs all features in one process, which distributed="shard" divides; pass '
                "distributed=True, or leave it out"
            )
        self.joint = joint
        self.settings = dict(self.settings) | {"shard": [joint.rank, joint.world]}
        self._layout: list[_Layer] = []
        self._sent: dict[str, tuple[Readback, ClassBatch]] = {}
        self._waiting: dict[str, _Part] = {}
        self._left_out: dict[str, int] = {}
        self._not_finite: dict[str, int] = {}
        self._num_classes = 0

    def start(self, layers: Mapping[str, LayerRecord], device: torch.device) -> None:
        """Learn which layers there are."""
        super().start(layers, torch.device("cpu"))

    def begin(self, batch: ClassBatch) -> None:
        """Start a batch."""
        self._batch, self._num_classes = batch, batch.num_classes
        self._sent, self._waiting, self._not_finite = {}, {}, {}

    def add(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        """Send one layer's features to the CPU, where they are looked at when the batch ends."""
        self._sent[site] = Readback(features.detach()), rows

    def _take_in(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        """Keep one layer's features, without samples that are not finite."""
        labels = rows.labels
        finite = features.isfinite().all(dim=1)
        if not bool(finite.all()):
            if not self.skips:
                label = int(rows.samples[int((~finite).nonzero()[0])])
                self._not_finite.setdefault(site, self._batch.sample(label))
            self._left_out[site] = self._left_out.get(site, 0) + int((~finite).sum())
            features, labels = features[finite], labels[finite]
        self._waiting[site] = _Part(features, labels)

    def end(self, logits: Tensor | None) -> None:
        """Exchange the batch with the other processes, or refuse it: by now the layers have names."""
        for site, (readback, rows) in self._sent.items():
            self._take_in(site, readback.numbers(), rows)
        self._sent = {}
        if self._not_finite:
            site, sample = next(iter(self._not_finite.items()))
            raise NonFiniteError(
                f"layer {self._name(site)!r}: the features of sample {sample} of a batch are NaN or infinite; pass "
                'non_finite="skip" to leave such samples out'
            )
        self._step(finished=False)

    def idle(self, *, finished: bool) -> bool:
        """Take part in an exchange without a batch of one's own; whether any process has a batch left."""
        self._num_classes, self._waiting = 0, {}
        return self._step(finished=finished)

    def drop(self, site: str) -> None:
        """Give up one layer's state."""
        super().drop(site)
        self._sent.pop(site, None)
        self._waiting.pop(site, None)
        self._not_finite.pop(site, None)
        self._left_out.pop(site, None)

    def _raw_state(self) -> dict[str, Tensor]:
        """The raw state of this process's features, and how many samples it has left out."""
        left_out = {f"{_LEFT_OUT}{site}": torch.tensor(number, device="cpu") for site, number in self._left_out.items()}
        return super()._raw_state() | left_out

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a state, if the memory allows."""
        left_out = {name: tensors[name] for name in tensors if name.startswith(_LEFT_OUT)}
        self._left_out = {name.removeprefix(_LEFT_OUT): int(number) for name, number in left_out.items()}
        super().load_state({name: tensors[name] for name in tensors if name not in left_out})

    def result(self) -> MomentCollection:
        """The moments of this process's features of all layers; how many samples all processes have left out."""
        own = {site: asdict(replace(record, num_skipped=0)) for site, record in self.layers.items()}
        agreed = self.joint.agreed(own, _DIFFERENT)
        if agreed is None:
            raise ValueError("no process has collected a single sample; check the loader")
        records = {site: LayerRecord(**record) for site, record in agreed.items()}
        cast(dict[str, LayerRecord], self.layers).update(records)  # where this process had no batch
        collection = super().result()
        skipped = {
            record.name: self.joint.reduced_number(self._left_out.get(site, 0), dist.ReduceOp.SUM)
            for site, record in records.items()
        }
        layers = {name: replace(record, num_skipped=skipped[name]) for name, record in collection.layers.items()}
        widths = {records[layer.site].name: layer.num_features for layer in self._layout if layer.site in records}
        attributes = {"shard": f"{self.joint.rank} of {self.joint.world}", "num_features": json.dumps(widths)}
        return replace(collection, layers=layers, attributes=collection.attributes | attributes)

    def _step(self, *, finished: bool) -> bool:
        """Exchange labels, then features; count those of all samples. False, and nothing done, if all have finished."""
        if not self._layout:
            own = {"layers": [[site, part.features.shape[1], str(part.features.dtype)] for site, part in self._parts()]}
            agreed = self.joint.agreed(own if self._waiting else {}, _DIFFERENT)
            self._layout = [] if agreed is None else [_Layer(*layer) for layer in agreed["layers"]]
        said = [_Batch.from_vector(vector, len(self._layout)) for vector in self.joint.gathered(self._own(finished))]
        if all(one.finished for one in said):
            return False
        num_classes = max(self.num_classes, *(one.num_classes for one in said))
        labels = torch.cat([one.labels for one in said])
        super().begin(ClassBatch(labels, num_classes))
        if not self._layout or not labels.numel():
            return True
        received = self._exchanged(said)
        merged: dict[tuple[int, ...], ClassBatch] = {}
        for index, layer in enumerate(self._layout):
            groups = tuple(one.groups[index] if one.groups else -1 for one in said)
            if groups not in merged:
                rows = [one.labels_of(group) for one, group in zip(said, groups, strict=True)]
                merged[groups] = ClassBatch(torch.cat(rows), num_classes)
            if merged[groups].labels.numel():
                super().add(layer.site, received.pop(layer.site), merged[groups])
        super().end(None)
        return True

    def _parts(self) -> "list[tuple[str, _Part]]":
        """What waits, in the order of the layers that are known."""
        return [(site, self._waiting[site]) for site in self.layers if site in self._waiting]

    def _own(self, finished: bool) -> Tensor:
        """What this process says of its batch: labels once for all layers that have the same rows."""
        labels: dict[int, Tensor] = {}
        groups: list[int] = []
        if self._waiting:
            found = [_Layer(site, part.features.shape[1], str(part.features.dtype)) for site, part in self._parts()]
            if found != self._layout:
                raise ValueError(_DIFFERENT)
            for _, part in self._parts():
                labels.setdefault(id(part.labels), part.labels)
                groups.append(list(labels).index(id(part.labels)))
        sizes = [len(one) for one in labels.values()]
        head = torch.tensor([int(finished), self._num_classes, len(sizes), *sizes, *groups], device="cpu")
        return torch.cat([head, *labels.values()])

    def _exchanged(self, said: "list[_Batch]") -> dict[str, Tensor]:
        """This process's features of all layers, of the samples of all processes."""
        rank, world = self.joint.rank, self.joint.world
        received: dict[str, list[Tensor]] = {layer.site: [] for layer in self._layout}
        for dtype in dict.fromkeys(layer.dtype for layer in self._layout):
            layers = [(index, layer) for index, layer in enumerate(self._layout) if layer.dtype == dtype]
            nothing = torch.empty(0, dtype=_DTYPES[dtype], device="cpu")
            sent = []
            for other in range(world):
                parts = [
                    self._waiting[layer.site].features[:, layer.columns(other, world)].flatten()
                    for _, layer in (layers if self._waiting else ())
                ]
                sent.append(torch.cat([nothing, *parts]))
            widths = [layer.width(rank, world) for _, layer in layers]
            rows = [[one.rows(index) for index, _ in layers] for one in said]
            lengths = [sum(n * w for n, w in zip(each, widths, strict=True)) for each in rows]
            for vector, each in zip(self.joint.exchanged(sent, lengths), rows, strict=True):
                sizes = [n * w for n, w in zip(each, widths, strict=True)]
                for part, (_, layer), n, w in zip(vector.split(sizes), layers, each, widths, strict=True):
                    received[layer.site].append(part.view(n, w))
        self._waiting = {}
        return {site: torch.cat(parts) for site, parts in received.items()}

    def _check_finite(self) -> None:
        """Raise for features that are too large to square; those that are not finite have been seen before."""
        for site in self._spoilt:
            raise NonFiniteError(f"layer {self._name(site)!r}: the features of a batch are {TOO_LARGE}")


_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64)}


class _Part(NamedTuple):
    """One layer's rows of a batch."""

    features: Tensor
    labels: Tensor


class _Layer(NamedTuple):
    """What all processes know of a layer."""

    site: str
    num_features: int
    dtype: str

    def columns(self, rank: int, world: int) -> slice:
        """The features that a process keeps."""
        return slice(self.num_features * rank // world, self.num_features * (rank + 1) // world)

    def width(self, rank: int, world: int) -> int:
        """How many these are."""
        columns = self.columns(rank, world)
        return columns.stop - columns.start


class _Batch(NamedTuple):
    """What a process says of its batch.

    Attributes
    ----------
    finished : bool
        Whether its loader has no batches left.
    num_classes : int
    sizes : list of int
        Rows of each group of layers with the same labels.
    groups : list of int
        The group of each layer; empty where there is no batch.
    labels : Tensor of shape (sum of sizes,), int64
    """

    finished: bool
    num_classes: int
    sizes: list[int]
    groups: list[int]
    labels: Tensor

    @classmethod
    def from_vector(cls, vector: Tensor, num_layers: int) -> "_Batch":
        """Read what `_own` has written."""
        finished, num_classes, number = vector[:3].tolist()
        middle = 3 + number
        end = middle + (num_layers if number else 0)
        sizes, groups = vector[3:middle].tolist(), vector[middle:end].tolist()
        return cls(bool(finished), num_classes, sizes, groups, vector[end:])

    def rows(self, layer: int) -> int:
        """Rows of a layer."""
        return self.sizes[self.groups[layer]] if self.groups else 0

    def labels_of(self, group: int) -> Tensor:
        """The labels of the rows of a group; none for −1."""
        start = sum(self.sizes[: max(group, 0)])
        return self.labels[start : start + self.sizes[group]] if group >= 0 else self.labels[:0]

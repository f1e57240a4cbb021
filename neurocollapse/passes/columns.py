"""Moments whose columns lie on several processes, measured on the first: one layer at a time is put together there."""

import json
from dataclasses import dataclass, replace

import torch
import xarray as xr
from torch import distributed as dist

from neurocollapse.metrics import Weighting
from neurocollapse.metrics.catalogue import Chosen
from neurocollapse.metrics.measure import Extra, measured
from neurocollapse.statistics import ClassMoments, JointRun, MomentCollection

_DONE = -1


def measured_together(
    collection: MomentCollection, chosen: Chosen, weighting: Weighting | None, joint: JointRun
) -> xr.Dataset:
    """The dataset of quantities of class moments, on every process, given the columns that each of them has."""
    gathering = _Gathering(collection, joint)
    if joint.rank:
        gathering.serve()
        text = joint.gathered(torch.empty(0, dtype=torch.uint8, device="cpu"))[0]
        return xr.Dataset.from_dict(json.loads(text.numpy().tobytes()))
    attributes = {name: value for name, value in collection.attributes.items() if name != "shard"}
    whole = replace(collection, moments=gathering.outlines(), attributes=attributes | {"shards": joint.world})
    dataset = measured(whole, chosen, weighting, Extra(fetch=gathering.fetch))
    gathering.end()
    written = bytearray(json.dumps(dataset.to_dict()).encode())
    joint.gathered(torch.frombuffer(written, dtype=torch.uint8))
    return dataset


@dataclass(frozen=True)
class _Gathering:
    """The first process asks all for the columns of a layer, which they give it."""

    collection: MomentCollection
    joint: JointRun

    def outlines(self) -> dict[str, ClassMoments]:
        """Moments as large as those of all features, with nothing but the class counts in them."""
        widths = json.loads(self.collection.attributes["num_features"])
        outlines = {}
        for name, moments in self.collection.items():
            nothing = torch.full_like(moments.offset_square, torch.nan)
            matrix = nothing[:1].expand(moments.num_classes, widths[name])
            outlines[name] = ClassMoments(moments.count, matrix, matrix, nothing)
        return outlines

    def fetch(self, name: str) -> ClassMoments:
        """The moments of all features of a layer."""
        index = list(self.collection).index(name)
        self.joint.reduced_number(index, dist.ReduceOp.MAX)
        return self._columns(index)

    def serve(self) -> None:
        """Give columns until the first process has done."""
        while (index := self.joint.reduced_number(_DONE, dist.ReduceOp.MAX)) != _DONE:
            self._columns(index)

    def end(self) -> None:
        """Let the other processes go on."""
        self.joint.reduced_number(_DONE, dist.ReduceOp.MAX)

    def _columns(self, index: int) -> ClassMoments:
        """The moments of all features on the first process, to which every other one gives its columns: it has none."""
        own = list(self.collection.values())[index]
        shapes = [torch.Size((own.num_classes, width)) for width in self.joint.numbers_of_all(own.num_features)]
        square = self.joint.reduced(own.offset_square, dist.ReduceOp.SUM)
        matrices = []
        width = 0 if self.joint.rank else sum(shape[1] for shape in shapes)
        for columns in (own.reference, own.offset_sum):
            double = self.joint.reduced_number(int(columns.dtype == torch.float64), dist.ReduceOp.MAX)
            matrix = columns.double() if double else columns  # some processes may have narrow columns, or fewer bytes
            start, whole = 0, matrix.new_empty(own.num_classes, width)
            for part in self.joint.given_to_first(matrix, shapes):
                whole[:, start : (start := start + part.shape[1])] = part
            matrices.append(whole)
        reference, offset_sum = matrices
        return ClassMoments(own.count, reference, offset_sum, square)

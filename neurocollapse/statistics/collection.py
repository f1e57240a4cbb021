"""The class moments of many layers, with what is known about each layer."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from neurocollapse.statistics.moments import ClassMoments
from neurocollapse.statistics.reader import Reader
from neurocollapse.support.state import StateFileError, read_state, write_state
from neurocollapse.support.table import html_table
from neurocollapse.support.text import listed

FILE_KIND = "moments"


@dataclass(frozen=True)
class LayerRecord:
    """The description of a layer in a row of results, beside the numbers.

    Attributes
    ----------
    name : str
        Canonical name, with "@in" for a module's input and "#i" for the i-th call in a forward pass.
    depth : int
        Position in the order of execution, 1 for the first layer; 0 is the network's input.
    module_type, layout, pooling, feature_dtype : str
    positions : int
        Rows per sample: more than 1 where every map position or token counts as a sample of its own.
    num_skipped : int
        Rows left out because their features were not finite.
    """

    name: str
    depth: int
    module_type: str = ""
    layout: str = "features"
    pooling: str = "none"
    feature_dtype: str = "float64"
    positions: int = 1
    num_skipped: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class MomentCollection(Mapping[str, ClassMoments]):
    """Class moments by layer name, in order of depth.

    Attributes
    ----------
    moments : dict of str to ClassMoments
    layers : dict of str to LayerRecord
    attributes : dict
        Where the numbers come from: plain strings and numbers.
    readers : dict of str to Reader
        The linear layers behind taps at their inputs; other layers have none.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[0.0], [1.0]], [0, 1])
    >>> MomentCollection({"fc": moments})
    MomentCollection(1 layer, 2 samples, 2 classes)
    """

    moments: dict[str, ClassMoments]
    layers: dict[str, LayerRecord] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    readers: dict[str, Reader] = field(default_factory=dict)

    def __getitem__(self, name: str) -> ClassMoments:
        return self.moments[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.moments)

    def __len__(self) -> int:
        return len(self.moments)

    @property
    def num_samples(self) -> int:
        """Samples that were measured, as `collect` has counted them; else what the first layer's rows come from."""
        first = next(iter(self.moments), None)
        if "num_samples" in self.attributes or first is None:
            return int(self.attributes.get("num_samples", 0))
        record = self.record(first)
        return (self.moments[first].num_samples + record.num_skipped) // record.positions

    def record(self, name: str) -> LayerRecord:
        """The record of a layer; only its position where nothing else is known.

        Parameters
        ----------
        name : str
            A layer of the collection.
        """
        return self.layers.get(name) or LayerRecord(name, depth=list(self.moments).index(name) + 1)

    def merge(self, other: "MomentCollection") -> "MomentCollection":
        """The moments of both sets of samples together, layer by layer; readers stay where both have the same.

        Parameters
        ----------
        other : MomentCollection
            The moments of other samples; the same layers.

        Raises
        ------
        ValueError
            If the two do not hold the same layers.
        """
        if list(self) != list(other):
            difference = sorted(set(self) ^ set(other)) or list(self)
            raise ValueError(f"cannot merge: the layers differ ({listed(difference)}); collect the same layers")
        layers = {
            name: replace(record, num_skipped=record.num_skipped + other.record(name).num_skipped)
            for name, record in self.layers.items()
        }
        attributes = self.attributes | {"num_samples": self.num_samples + other.num_samples}
        readers = {name: reader for name, reader in self.readers.items() if reader.equals(other.readers.get(name))}
        return MomentCollection({name: self[name].merge(other[name]) for name in self}, layers, attributes, readers)

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to one safetensors file with a JSON header; an existing file is replaced in one step.

        Parameters
        ----------
        path : path-like
            The file to write.
        """
        tensors: dict[str, Tensor] = {}
        for name, moments in self.moments.items():
            fields = {key: getattr(moments, key) for key in _FIELDS}
            tensors |= {f"{key}/{name}": value for key, value in fields.items() if value is not None}
        for name, reader in self.readers.items():
            tensors[f"reader_weight/{name}"] = reader.weight
            if reader.bias is not None:
                tensors[f"reader_bias/{name}"] = reader.bias
        header = {"layers": [asdict(self.record(name)) for name in self], "attributes": self.attributes}
        write_state(path, FILE_KIND, header, tensors)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "MomentCollection":
        """Read a file that `save` wrote.

        Parameters
        ----------
        path : path-like
            The file to read.

        Raises
        ------
        StateFileError
            If the file is missing, damaged, or holds something else.
        """
        header, tensors = read_state(path, FILE_KIND)
        try:
            records = [LayerRecord(**record) for record in header["layers"]]
            moments = {record.name: _moments_from(tensors, record.name) for record in records}
            attributes = dict(header["attributes"])
            readers = {
                name: Reader(tensors[f"reader_weight/{name}"], tensors.get(f"reader_bias/{name}"))
                for name in moments
                if f"reader_weight/{name}" in tensors
            }
        except (KeyError, TypeError, ValueError) as error:
            raise StateFileError(f"{path} is not a complete file of moments ({error}); write it again") from error
        return cls(moments, {record.name: record for record in records}, attributes, readers)

    def __repr__(self) -> str:
        classes = next((value.num_classes for value in self.moments.values()), 0)
        plural = "" if len(self) == 1 else "s"
        return f"MomentCollection({len(self)} layer{plural}, {self.num_samples} samples, {classes} classes)"

    def _repr_html_(self) -> str:
        headings = ["layer", "type", "features", "rows", "pooling", "dtype", "read by a linear layer of"]
        rows = []
        for name, moments in self.items():
            record, reader = self.record(name), self.readers.get(name)
            numbers = (f"{moments.num_features:,}", f"{moments.num_samples:,}")
            outputs = "" if reader is None else f"{reader.num_outputs:,} outputs"
            rows.append([name, record.module_type, *numbers, record.pooling, record.feature_dtype, outputs])
        return f"<p>{self!r}</p>{html_table(headings, rows, numbers={2, 3})}"


_FIELDS = ("count", "reference", "offset_sum", "offset_square", "within_scatter")


def _moments_from(tensors: dict[str, Tensor], name: str) -> ClassMoments:
    """The moments of one layer from the tensors of a file, once their shapes are seen to agree."""
    moments = ClassMoments(
        count=tensors[f"count/{name}"],
        reference=tensors[f"reference/{name}"],
        offset_sum=tensors[f"offset_sum/{name}"],
        offset_square=tensors[f"offset_square/{name}"],
        within_scatter=tensors.get(f"within_scatter/{name}"),
    )
    if moments.reference.ndim != 2 or not moments.reference.is_floating_point():
        raise ValueError(f"`reference` of layer {name!r} is not a matrix of floats")
    expected = ClassMoments.empty(*moments.reference.shape, covariance=moments.within_scatter is not None)
    own = moments.reference.dtype
    dtypes = {"reference": {own}, "offset_sum": {torch.float64, own}}
    for key in _FIELDS:
        found, wanted = getattr(moments, key), getattr(expected, key)
        if found is not None and (found.shape != wanted.shape or found.dtype not in dtypes.get(key, {wanted.dtype})):
            raise ValueError(f"{key!r} of layer {name!r} has the wrong shape or dtype")
    return moments

"""What a quantity is given: one layer, or all layers of a network, with what both passes have gathered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.metrics.weighting import Weighting
from neurocollapse.probes import LayerSplit, Probe, Probed, probe_layer
from neurocollapse.statistics import ClassMoments, LayerRecord, Reader

Finish = Callable[[Tensor], Tensor]
"""What waits for the logits of the batch, shape (rows, outputs), and then gives the tensor to be added up."""
Gather = Callable[["Layer", "Rows"], "Tensor | Finish"]
"""What a second pass adds up over all rows of a layer, see `Quantity.gather`."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer as a quantity sees it.

    Attributes
    ----------
    moments : ClassMoments
    weighting : {"equal", "frequency"}
        Convention of the between-class covariance.
    reader : Reader or None
        Weight and bias of the linear layer whose input was tapped.
    record : LayerRecord
        Name, depth, layout, pooling, dtype.
    totals : mapping from gather functions to Tensors
        What a second pass has added up; empty where none was made.
    split : callable
        Gives the kept features that probes are trained and tested on; None where none were kept.
    probe : {"logistic", "mse"}
        Which linear probe is meant.
    """

    moments: ClassMoments
    weighting: Weighting = "equal"
    reader: Reader | None = None
    record: LayerRecord = field(default_factory=lambda: LayerRecord("layer", 1))
    totals: Mapping[Gather, Tensor] = field(default_factory=dict)
    split: Callable[[], LayerSplit] | None = None
    probe: Probe = "logistic"

    def total(self, gather: Gather) -> Tensor | None:
        """What a gather function has added up over the second pass, float64; None without one."""
        return self.totals.get(gather)

    @cached_property
    def probed(self) -> Probed:
        """Accuracy of simple classifiers on the kept features, and their rank; NaN where none were kept."""
        return Probed(*[float("nan")] * 6) if self.split is None else probe_layer(self.split(), probe=self.probe)


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a layer in a second pass: one a sample, or one a position.

    Attributes
    ----------
    features : Tensor of shape (rows, features)
        Float32 or float64, on the model's device; may share memory with the model, so it must not be changed.
    labels : Tensor of shape (rows,), int64, on the same device
    """

    features: Tensor
    labels: Tensor


class Network(NamedTuple):
    """All layers in order of depth: what quantities over the layers see.

    Attributes
    ----------
    layers : tuple of Layer
    values : callable
        Name of a quantity → its values along `layer`.
    """

    layers: tuple[Layer, ...]
    values: Callable[[str], NDArray[Any]]

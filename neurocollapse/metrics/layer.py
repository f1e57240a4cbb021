"""What a quantity is given: one layer, or all layers of a network, with what both passes have gathered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.metrics.axes import BetweenAxes, between_axes
from neurocollapse.metrics.means import ClassMeans
from neurocollapse.metrics.pairs import PairStatistics, pair_statistics
from neurocollapse.metrics.scores import Outside
from neurocollapse.metrics.unbiased_pairs import UnbiasedPairs, unbiased_pairs
from neurocollapse.metrics.weighting import Weighting
from neurocollapse.probes import LayerSplit, Probe, Probed, probe_layer
from neurocollapse.statistics import ClassMoments, LayerRecord, Reader
from neurocollapse.statistics.nearest import NearestMean

Finish = Callable[[Tensor], Tensor]
"""What waits for the logits of the batch, shape (rows, outputs), and then gives the tensor to be added up."""
Gather = Callable[["Layer", "Rows"], "Tensor | Finish | Later | Callable[[Tensor], Later]"]
"""What a second pass adds up over all rows of a layer, see `Quantity.gather`."""
Made = TypeVar("Made")


class Later(NamedTuple):
    """A tensor to be added up that a device has been asked for.

    Attributes
    ----------
    tensor : callable
        Gives it, and waits for the device unless it is called a batch later.
    """

    tensor: Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer as a quantity sees it, with what several quantities derive from it and share.

    Attributes
    ----------
    moments : ClassMoments
    weighting : {"equal", "frequency", "papers"}
        How classes of different size count.
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
    outside : Outside or None
        Where samples of the loader and of other data lie; None where there were no other data.
    device : torch.device or None
        Where a second pass has the layer's features; None for where the model runs.
    """

    moments: ClassMoments
    weighting: Weighting = "equal"
    reader: Reader | None = None
    record: LayerRecord = field(default_factory=lambda: LayerRecord("layer", 1))
    totals: Mapping[Gather, Tensor] = field(default_factory=dict)
    split: Callable[[], LayerSplit] | None = None
    probe: Probe = "logistic"
    outside: Outside | None = None
    device: torch.device | None = None

    def total(self, gather: Gather) -> Tensor | None:
        """What a quantity's gather function has added up over the second pass, float64; None without such a pass.

        Parameters
        ----------
        gather : callable
            The quantity's own function, by which its sum is found.
        """
        return self.totals.get(gather)

    @property
    def has_classifier(self) -> bool:
        """Whether the reader has one output a class."""
        return self.reader is not None and self.reader.num_outputs == self.moments.num_classes

    @cached_property
    def means(self) -> ClassMeans:
        """The means of the classes that are present, about their own mean."""
        return ClassMeans(self.moments)

    @cached_property
    def pairs(self) -> PairStatistics:
        """What all pairs of class means say together."""
        return pair_statistics(self.means)

    @cached_property
    def unbiased_pairs(self) -> UnbiasedPairs:
        """The same without the noise of the class means; NaN where rows are no independent draws."""
        return unbiased_pairs(self.means) if self.record.positions == 1 else UnbiasedPairs()

    @cached_property
    def axes(self) -> BetweenAxes:
        """The directions in which class means differ, with the standard deviation in each."""
        return between_axes(self.moments, self.weighting)

    @cached_property
    def probed(self) -> Probed:
        """Accuracy of simple classifiers on the kept features, and their rank; NaN where none were kept."""
        return Probed() if self.split is None else probe_layer(self.split(), probe=self.probe)

    def once(self, make: Callable[["Layer"], Made]) -> Made:
        """What a function makes of the layer, computed once for all quantities that share it.

        Parameters
        ----------
        make : callable
            Takes the layer; several quantities that pass the same function share what it returns.
        """
        if make not in self._placed:
            self._placed[make] = make(self)
        return self._placed[make]

    def placed(self, make: Callable[["Layer", Tensor], Made], like: Tensor) -> Made:
        """What a function makes of the layer on the device and in the dtype of some rows, computed once.

        Parameters
        ----------
        make : callable
            Takes the layer and `like`.
        like : Tensor
            Rows whose device and dtype the result is to have.
        """
        place = (make, like.device, like.dtype)
        if place not in self._placed:
            self._placed[place] = make(self, like)
        return self._placed[place]

    @cached_property
    def _placed(self) -> dict[Any, Any]:
        return {}


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a layer in a second pass: one per sample, or one per position.

    Attributes
    ----------
    features : Tensor of shape (rows, features)
        Float32 or float64, on the model's device; may share memory with the model, so it must not be changed.
    labels : Tensor of shape (rows,), int64, on the same device
    """

    features: Tensor
    labels: Tensor

    def centred(self, layer: Layer) -> Tensor:
        """Features minus the mean of their class, shape (rows, features).

        Parameters
        ----------
        layer : Layer
            Holds the class means.
        """
        if "_centred" not in vars(self):
            reference, shift = layer.placed(_class_means, self.features)
            # The reference is a sample of the class: subtracting it first leaves nothing but the spread to round.
            offsets = self.features.to(reference.dtype) - reference.index_select(0, self.labels)
            vars(self)["_centred"] = offsets.sub_(shift.index_select(0, self.labels))
        return vars(self)["_centred"]

    def nearest(self, layer: Layer) -> Tensor:
        """The class whose mean is nearest to each row, shape (rows,), int64; the lowest of equally near ones.

        Parameters
        ----------
        layer : Layer
            Holds the class means.
        """
        if "_nearest" not in vars(self):
            nearest, present = layer.placed(_nearest_mean, self.features)
            vars(self)["_nearest"] = present[nearest(self.features)]
        return vars(self)["_nearest"]

    def nearest_later(self, layer: Layer) -> Callable[[], Tensor]:
        """What gives `nearest` when it is called; a device that is asked now has it ready a batch later.

        Parameters
        ----------
        layer : Layer
            Holds the class means.
        """
        if "_nearest_later" not in vars(self):
            vars(self)["_nearest_later"] = self._asked_for_nearest(layer)
        return vars(self)["_nearest_later"]

    def _asked_for_nearest(self, layer: Layer) -> Callable[[], Tensor]:
        """The CPU, which keeps nobody waiting, answers at once, and copies no rows."""
        if self.features.device.type == "cpu":
            classes = self.nearest(layer)
            return lambda: classes
        nearest, present = layer.placed(_nearest_mean, self.features)
        answer = nearest.later(self.features)
        return cache(lambda: present[answer()])


class InfluenceSums(NamedTuple):
    """What the influences of all samples add up to.

    Attributes
    ----------
    covariance : ndarray of shape (layers, layers)
        Covariance of log D at the layers, over draws of the samples; NaN where the second pass did not follow the
        samples.
    fourth : ndarray of shape (layers,)
        Sum of the fourth powers of the influences on log D.
    together : ndarray of shape (layers,)
        Covariance of the traces of Σ_W and Σ_B, by their product, for the correction of D.
    between : ndarray of shape (layers,)
        Variance of the trace of Σ_B, by its square, for the correction of D.
    """

    covariance: NDArray[Any]
    fourth: NDArray[Any]
    together: NDArray[Any]
    between: NDArray[Any]

    @classmethod
    def unknown(cls, num_layers: int) -> "InfluenceSums":
        """NaN for all layers.

        Parameters
        ----------
        num_layers : int
        """
        return cls.of(*(torch.full((num_layers, size), torch.nan, device="cpu") for size in (num_layers, 3)))

    @classmethod
    def of(cls, products: Tensor, sums: Tensor) -> "InfluenceSums":
        """The sums of all samples.

        Parameters
        ----------
        products : Tensor of shape (layers, layers)
            Sum of the products of influences on log D.
        sums : Tensor of shape (layers, 3)
            Sum of `Influences.sums`.
        """
        return cls(products.double().numpy(), *sums.double().T.numpy())


class Network(NamedTuple):
    """All layers in order of depth, as quantities of the whole network see them.

    Attributes
    ----------
    layers : tuple of Layer
    values : callable
        Name of a quantity → its values along `layer`.
    influence : InfluenceSums
        What the influences of all samples on log D add up to; NaN where no second pass followed the samples.
    """

    layers: tuple[Layer, ...]
    values: Callable[[str], NDArray[Any]]
    influence: InfluenceSums

    @property
    def covariance(self) -> NDArray[Any]:
        """Covariance of log D at the layers, over draws of the samples, shape (layers, layers)."""
        return self.influence.covariance


def _class_means(layer: Layer, like: Tensor) -> tuple[Tensor, Tensor]:
    """Reference points of all classes, and how far their means are from them."""
    moments = layer.moments
    dtype = torch.promote_types(like.dtype, moments.reference.dtype)
    shift = moments.offset_sum.double() / moments.count.clamp(min=1).unsqueeze(1)
    return moments.reference.to(like.device, dtype), shift.to(like.device, dtype)


def _nearest_mean(layer: Layer, like: Tensor) -> tuple[NearestMean, Tensor]:
    """What finds the nearest mean, and the classes that are present."""
    present = layer.moments.present
    return NearestMean(layer.moments.mean[present], like=like), present.to(like.device)

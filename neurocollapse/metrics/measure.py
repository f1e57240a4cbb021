"""Class moments of many layers → one labelled dataset."""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from neurocollapse.metrics.catalogue import QUANTITIES, Choice, Chosen, chosen_quantities
from neurocollapse.metrics.layer import Gather, InfluenceSums, Layer, Network
from neurocollapse.metrics.quantity import REMEDIES, Need, PrecisionWarning, Quantity, QuantityError
from neurocollapse.metrics.samples import SampleWarning, sample_notes, spectrum_note
from neurocollapse.metrics.scores import Outside
from neurocollapse.metrics.variability import PRECISION_FLOOR
from neurocollapse.metrics.weighting import BETWEEN, WITHIN, Weighting, check_weighting
from neurocollapse.probes import PROBE_WORDS, LayerSplit, Probe
from neurocollapse.statistics import ClassMoments, LayerRecord, MemoryPlanError, MomentCollection, memory_limit
from neurocollapse.statistics.memory import GIB
from neurocollapse.support.dataset import ENDS
from neurocollapse.support.numbers import short
from neurocollapse.support.text import listed

UNDERFLOW = 4 * float(np.finfo(np.float32).tiny)
"""Variance of one feature within its class (5e-38) below which squares of single deviations leave float32."""
HIDDEN = UNDERFLOW / float(np.finfo(np.float32).eps) ** 2
"""Square of one feature (3e-24) below which even a class of differing float32 features may seem collapsed."""
UNDERFLOW_DOUBLE = 1e-3 * float(np.finfo(np.float64).tiny)
"""Variance of one feature within its class (2e-311) below which squares in float64 have fewer than 12 digits."""


@dataclass(frozen=True)
class Extra:
    """What was gathered beyond class moments, by layer name.

    Attributes
    ----------
    totals : mapping of layer name to what each gather function has added up, or None without a second pass
    splits : mapping of layer name to a function that gives the kept features, or None where none were kept
    probe : {"logistic", "mse"}
        Which linear probe is meant.
    influence : InfluenceSums or None
        What the influences of all samples on log D add up to.
    outside : mapping of layer name to Outside, or None
        How samples of the loader and of other data lie to the class means.
    fetch : callable, optional
        Gives the moments of a layer, by its name, when they are wanted: those at hand then only say how large they are.
    """

    totals: Mapping[str, Mapping[Gather, Any]] | None = None
    splits: Mapping[str, Callable[[], LayerSplit]] | None = None
    probe: Probe = "logistic"
    influence: InfluenceSums | None = None
    outside: Mapping[str, Outside] | None = None
    fetch: Callable[[str], ClassMoments] | None = None


def measure(
    moments: Mapping[str, ClassMoments],
    *,
    quantities: Choice = None,
    weighting: Weighting | None = None,
    pairs: bool = False,
) -> xr.Dataset:
    """Measure compression, separation, decay and neural collapse of every layer from its class moments.

    Parameters
    ----------
    moments : mapping of layer name to ClassMoments
        What `collect` returned, in order of depth.
    quantities : str, Quantity or a list of them, optional
        Names, families, quantities of your own, or "all". Default: all that need only class moments and the readers
        that come with them. What needs more is left out of a family or "all"; it is an error if chosen by its name, or
        if a family has nothing else.
    weighting : {"equal", "frequency", "papers"}, optional
        How classes of different size count in Σ_W and Σ_B: each with 1/K; each with its share of the samples; or, as in
        papers on balanced classes, by samples in Σ_W and by classes in Σ_B; see `metrics.compression`.
        Default: "equal", and a warning where that is far from the papers' convention.
    pairs : bool, default False
        Add `class_cosine`, `class_cosine_unbiased`, `class_distance` and `class_cdnv` along `layer, class, class_`.

    Returns
    -------
    xarray.Dataset
        One variable per quantity, along `layer`, along `layer, class`, or a single number. The attributes of each give
        its name, the convention and source of its formula, its range, and its value at collapse.

    Raises
    ------
    QuantityError
        If there is no such quantity, or one lacks what it needs.
    MemoryPlanError
        If matrices over pairs of classes would not fit in memory.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1])
    >>> measure({"fc": moments})["between_trace"].item()
    9.0
    """
    if weighting is not None:
        check_weighting(weighting)
    return measured(checked_collection(moments), chosen_quantities(quantities, pairs=pairs), weighting, Extra())


def measured(collection: MomentCollection, chosen: Chosen, asked: Weighting | None, extra: Extra) -> xr.Dataset:
    """The dataset of the chosen quantities, from all that both passes gathered; warns of what may mislead."""
    _check_fit(collection, chosen)
    weighting: Weighting = asked or "equal"
    table = _Table(collection, chosen, weighting, extra)
    words = {"within": WITHIN[weighting], "between": BETWEEN[weighting], **PROBE_WORDS[extra.probe]}
    variables = {
        quantity.name: (quantity.dims, table.values(quantity.name), quantity.attributes(**words))
        for quantity in chosen.quantities
        if table.can(quantity)
    }
    records = [collection.record(name) for name in collection]
    notes = _precision_notes(records, table.values("compression"))
    precision = str(collection.attributes.get("precision", "double"))
    notes += _underflow_notes(collection, table.values("within_trace"), table.values("between_trace"), precision)
    for note in notes:
        warnings.warn(note, PrecisionWarning, stacklevel=3)
    both = (table.values(name).tolist() for name in ("compression", "between_trace"))
    few = sample_notes(collection, asked, *both)
    if any(variables[one.name][2]["family"] == "spectrum" for one in chosen.quantities if one.name in variables):
        few += spectrum_note(collection)
    for note in few:
        warnings.warn(note, SampleWarning, stacklevel=3)
    dataset = xr.Dataset(variables, coords=_coordinates(collection, records))
    if "class_" in dataset.dims:
        dataset.coords["class_"] = dataset["class"].values
    if "bound" in dataset.dims:
        dataset.coords["bound"] = list(ENDS)
    dataset.attrs = provenance_of(collection, weighting, notes + few + table.notes)
    return dataset


def _check_fit(collection: MomentCollection, chosen: Chosen) -> None:
    """Raise MemoryPlanError unless matrices over pairs of classes fit in memory twice: layer by layer, and stacked."""
    names = [quantity.name for quantity in chosen.quantities if "class_" in quantity.dims]
    if not names:
        return
    classes = next(iter(collection.values())).num_classes
    needed, allowed = 2 * 8 * classes**2 * len(names) * len(collection), memory_limit(torch.device("cpu"))
    if needed > allowed:
        raise MemoryPlanError(
            f"{', '.join(names)} of {classes} classes at {len(collection)} layers need {needed / GIB:.1f} GiB, but "
            f"only {allowed / GIB:.1f} GiB may be used; measure fewer layers, name one of them, or leave out pairs=True"
        )


class _Table:
    """The values of quantities, layer by layer: what one of them derives for a layer, all of them share."""

    def __init__(self, collection: MomentCollection, chosen: Chosen, weighting: Weighting, extra: Extra) -> None:
        self.layers = tuple(
            Layer(
                moments,
                weighting,
                collection.readers.get(name),
                collection.record(name),
                (extra.totals or {}).get(name, {}),
                (extra.splits or {}).get(name),
                extra.probe,
                (extra.outside or {}).get(name),
            )
            for name, moments in collection.items()
        )
        self.quantities = {quantity.name: quantity for quantity in (*QUANTITIES, *chosen.quantities)}
        self.notes: list[str] = []
        self._extra = extra
        self._influence = extra.influence or InfluenceSums.unknown(len(self.layers))
        self._columns: dict[str, NDArray[Any]] = {}
        lacking = [(one, need) for one in chosen.quantities if one.name in chosen.named for need in self._lacks(one)]
        if lacking:
            raise QuantityError(f"quantity {lacking[0][0].name!r} {REMEDIES[lacking[0][1]]}")
        wanted = [one for one in chosen.quantities if self.can(one) and not one.over_layers]
        watched = [self.quantities[name] for name in ("compression", "within_trace", "between_trace")]
        self._fill(list(dict.fromkeys((*wanted, *watched))))

    def can(self, quantity: Quantity) -> bool:
        """Whether any layer has what the quantity needs."""
        return not self._lacks(quantity)

    def values(self, name: str) -> NDArray[Any]:
        """The values of a quantity, along its dimensions."""
        if name not in self._columns:
            quantity = self.quantities.get(name)
            if quantity is None:
                raise QuantityError(f"there is no quantity {name!r} among those that are measured")
            if quantity.over_layers:
                network = Network(self.layers, self.values, self._influence)
                self._columns[name] = _array(quantity, "the network", network)
            else:
                self._fill([quantity])
        return self._columns[name]

    def _fill(self, quantities: list[Quantity]) -> None:
        """Measure quantities of single layers; what a layer keeps for them is given up with it."""
        rows: dict[str, list[NDArray[Any]]] = {quantity.name: [] for quantity in quantities}
        unfinished = []
        for layer in map(self._fresh, self.layers):
            for quantity in quantities:
                rows[quantity.name].append(self._value(quantity, layer))
            if "probed" in vars(layer) and not layer.probed.converged:
                unfinished.append(layer.record.name)
        self._columns |= {name: np.stack(values) for name, values in rows.items()}
        if unfinished:
            self.notes.append(f"the linear probe did not converge at {listed(unfinished)}: its accuracy may be too low")

    def _fresh(self, layer: Layer) -> Layer:
        """The layer with nothing derived from it yet."""
        fetch = self._extra.fetch
        return replace(layer) if fetch is None else replace(layer, moments=fetch(layer.record.name))

    def _value(self, quantity: Quantity, layer: Layer) -> NDArray[Any]:
        """The value at one layer; NaN where the layer lacks what others have."""
        if not quantity.lacks(lambda need: _HAS[need](layer, quantity)):
            return _array(quantity, f"layer {layer.record.name!r}", layer)
        return np.full((layer.moments.num_classes,) * (len(quantity.dims) - 1), np.nan)

    def _lacks(self, quantity: Quantity) -> list[Need]:
        """What the quantity needs and no layer has."""
        summed = self._extra.totals is not None
        made = {"features": self._extra.splits is not None, "second_pass": summed, "logits": summed}
        made |= {"influence": self._extra.influence is not None, "ood": self._extra.outside is not None}
        return quantity.lacks(lambda need: made.get(need, any(_HAS[need](layer, quantity) for layer in self.layers)))


_HAS: dict[Need, Callable[[Layer, Quantity], bool]] = {
    "covariance": lambda layer, quantity: layer.moments.within_scatter is not None,
    "reader": lambda layer, quantity: layer.reader is not None,
    "classifier": lambda layer, quantity: layer.has_classifier,
    "second_pass": lambda layer, quantity: quantity.gather in layer.totals,
    "logits": lambda layer, quantity: quantity.gather in layer.totals,
    "features": lambda layer, quantity: layer.split is not None,
    "ood": lambda layer, quantity: layer.outside is not None,
    "influence": lambda layer, quantity: False,  # all layers together have it
}
"""Whether a layer has what a quantity needs."""


def _array(quantity: Quantity, where: str, source: Layer | Network) -> NDArray[Any]:
    """The value of a quantity as an array; an error in it says which quantity and where."""
    try:
        value = quantity.of(source)
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        return array if array.dtype.kind in "iub" else array.astype(np.float64)
    except Exception as error:
        raise QuantityError(f"quantity {quantity.name!r} at {where}: {type(error).__name__}: {error}") from error


def checked_collection(moments: Any) -> MomentCollection:
    """`moments` as a collection of at least one layer, all with the same classes."""
    values = list(moments.values()) if isinstance(moments, Mapping) else [moments]
    wrong = next((value for value in values if not isinstance(value, ClassMoments)), None)
    if wrong is not None or not isinstance(moments, Mapping):
        found = type(moments if wrong is None else wrong).__name__
        raise TypeError(f"`moments` must map layer names to ClassMoments, got {found}; pass what nc.collect returns")
    if not moments:
        raise ValueError("`moments` holds no layer; collect at least one")
    if "shard" in getattr(moments, "attributes", {}):
        raise ValueError(
            "`moments` holds some of the features only, as one of several processes; measure them together with "
            'analyze(…, distributed="shard")'
        )
    sizes = sorted({value.num_classes for value in values})
    if len(sizes) > 1:
        raise ValueError(f"`moments` must have the same classes at every layer, got {sizes}; pad the smaller ones")
    return moments if isinstance(moments, MomentCollection) else MomentCollection(dict(moments))


def _coordinates(collection: MomentCollection, records: list[LayerRecord]) -> dict[str, Any]:
    """Labels of the layers and classes."""
    first = next(iter(collection.values()))
    columns: dict[str, list[Any]] = {
        "depth": [record.depth for record in records],
        "feature_dimension": [value.num_features for value in collection.values()],
        "module_type": [record.module_type for record in records],
        "layout": [record.layout for record in records],
        "pooling": [record.pooling for record in records],
        "positions": [record.positions for record in records],
        "feature_dtype": [record.feature_dtype for record in records],
        "num_skipped": [record.num_skipped for record in records],
    }
    coordinates: dict[str, Any] = {"layer": list(collection), "class": np.arange(first.num_classes)}
    coordinates |= {name: ("layer", values) for name, values in columns.items()}
    names = json.loads(collection.attributes.get("class_names", "[]"))
    if len(names) == first.num_classes:
        coordinates["class_name"] = ("class", names)
    return coordinates


def _precision_notes(records: list[LayerRecord], values: np.ndarray) -> list[str]:
    """One line for each feature dtype whose rounding may have set the smallest D."""
    notes = []
    for dtype, floor in PRECISION_FLOOR.items():
        low = [
            record.name
            for record, value in zip(records, values, strict=True)
            if record.feature_dtype == dtype and 0 < value < floor
        ]
        if low:
            notes.append(
                f"compression below {short(floor)} at {listed(low)}: the rounding of {dtype} features may show"
            )
    return notes


def _underflow_notes(
    collection: MomentCollection, within: np.ndarray, between: np.ndarray, precision: str
) -> list[str]:
    """A line for layers whose features are so small that their squares leave float32, and one for float64."""
    low: list[str] = []
    lowest: list[str] = []
    for (name, moments), inside, outside in zip(collection.items(), within, between, strict=True):
        if precision == "double" or collection.record(name).feature_dtype == "float64":
            if 0 < inside < UNDERFLOW_DOUBLE * moments.num_features:
                lowest.append(name)
        elif 0 < inside < UNDERFLOW * moments.num_features or (inside == 0 < outside < HIDDEN * moments.num_features):
            low.append(name)
    single = f'features are tiny at {listed(low)}: float32 squares underflow; pass precision="double"'
    double = f"features are tiny at {listed(lowest)}: float64 squares underflow; multiply the features by a constant"
    return [note for note, layers in ((single, low), (double, lowest)) if layers]


def provenance_of(collection: MomentCollection, weighting: str, notes: list[str]) -> dict[str, Any]:
    """Attributes of the dataset: plain strings and numbers, so that NetCDF can hold them."""
    notes = json.loads(collection.attributes.get("warnings", "[]")) + notes
    skipped = {name: count for name in collection if (count := collection.record(name).num_skipped)}
    if skipped:
        notes = [*notes, f"features that were not finite were left out: {json.dumps(skipped)}"]
    own = {
        "title": f"Layers of {collection.attributes.get('model', 'a network')}",
        "num_samples": collection.num_samples,
        "num_classes": next(iter(collection.values())).num_classes,
        "weighting": weighting,
        "warnings": json.dumps(notes),
    }
    return {key: value for key, value in collection.attributes.items() if key != "class_names"} | own

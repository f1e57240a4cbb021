"""Class moments of many layers → one labelled dataset."""

import json
import warnings
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import xarray as xr

from neurocollapse.metrics import (
    GeometricDecay,
    Weighting,
    between_class_covariance,
    between_trace,
    compression,
    decay_ratio,
    discrimination,
    geometric_decay,
    separation,
    within_class_covariance,
    within_trace,
)
from neurocollapse.statistics import ClassMoments, LayerRecord, MomentCollection

PRECISION_FLOOR = {"bfloat16": 1e-4, "float16": 1e-6, "float32": 1e-12}
"""D below which the rounding of the features themselves shows."""
UNDERFLOW = 1e-28
"""tr Σ_B below which squares of single deviations, a millionth of it and less, may leave float32 (1e-38)."""

_PAPYAN = "Papyan, Han, Donoho, PNAS 117(40), 2020"
_WANG = "Wang et al., JMLR 26(220), 2025"
_QU = "Qu, slides of 7 September 2023"
_HE = "He and Su, PNAS 120(36), 2023"

_SPREAD = "mean squared distance to the class mean, 1/n_k; NaN for absent classes"
_COUNT = "samples that were counted, or rows where each position has one; skipped ones are not"
_BETWEEN = {
    "equal": "each class with weight 1/K, centred at the mean of the class means",
    "frequency": "each class with weight n_k/N, centred at the mean of the samples",
}


class PrecisionWarning(UserWarning):
    """A result that stands, but may show the rounding of the features rather than the network."""


def measure(moments: Mapping[str, ClassMoments], *, weighting: Weighting = "equal") -> xr.Dataset:
    """Compression, separation, discrimination and decay of every layer, as a labelled dataset.

    Parameters
    ----------
    moments : mapping of layer name to ClassMoments
        What `collect` returned, in order of depth.
    weighting : {"equal", "frequency"}
        Convention of the between-class covariance.

    Returns
    -------
    xarray.Dataset
        Along `layer`: `within_trace`, `between_trace`, `compression`, `separation`, `separation_etf`,
        `discrimination`, `decay_ratio`; along `layer, class`: `class_count`, `class_scatter`; scalars: `decay_slope`
        and its interval, `decay_intercept`, `decay_r_squared`. Every variable says its convention and source.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1])
    >>> measure({"fc": moments})["between_trace"].item()
    9.0
    """
    check_weighting(weighting)
    collection = _checked_collection(moments)
    per_layer = [_layer_values(value, weighting) for value in collection.values()]
    columns = {name: np.array([values[name] for values in per_layer]) for name in per_layer[0]}
    columns["decay_ratio"] = decay_ratio(columns["compression"])
    variables = {name: (("layer",), values, _attributes(name, weighting)) for name, values in columns.items()}
    variables |= _class_variables(collection)
    variables |= _fit_variables(geometric_decay(columns["compression"]))
    records = [collection.record(name) for name in collection]
    notes = _precision_notes(records, columns["compression"])
    precision = str(collection.attributes.get("precision", "double"))
    notes += _underflow_notes(records, columns["between_trace"], precision)
    for note in notes:
        warnings.warn(note, PrecisionWarning, stacklevel=2)
    dataset = xr.Dataset(variables, coords=_coordinates(collection, records))
    dataset.attrs = _provenance(collection, weighting, notes)
    return dataset


def layer_tree(moments: Mapping[str, ClassMoments], *, weighting: Weighting = "equal") -> xr.DataTree:
    """Arrays whose size differs from layer to layer, one node a layer.

    Returns
    -------
    xarray.DataTree
        Each node holds `class_mean (class, feature)` and, where the moments were collected with covariance=True,
        `within_class_covariance` and `between_class_covariance (feature, feature_)`. A "/" in a layer's name is
        written as "|". The root carries the provenance.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1])
    >>> layer_tree({"fc": moments})["fc"]["class_mean"].values.tolist()
    [[1.0], [7.0]]
    """
    check_weighting(weighting)
    collection = _checked_collection(moments)
    nodes = {"/": xr.Dataset(attrs=_provenance(collection, weighting, []))}
    for name, value in collection.items():
        arrays = {"class_mean": (("class", "feature"), value.mean)}
        if value.within_scatter is not None:
            square = ("feature", "feature_")
            arrays["within_class_covariance"] = (square, within_class_covariance(value))
            arrays["between_class_covariance"] = (square, between_class_covariance(value, weighting=weighting))
        variables = {key: (dims, array.numpy(), _attributes(key, weighting)) for key, (dims, array) in arrays.items()}
        nodes[name.replace("/", "|")] = xr.Dataset(variables, coords={"class": np.arange(value.num_classes)})
    return xr.DataTree.from_dict(nodes)


def check_weighting(weighting: str) -> None:
    """Raise unless `weighting` is one of the two conventions; called before a long run, too."""
    if weighting not in get_args(Weighting):
        raise ValueError(f'`weighting` must be "equal" or "frequency", got {weighting!r}')


def _checked_collection(moments: Any) -> MomentCollection:
    """`moments` as a collection of at least one layer, all with the same classes."""
    values = list(moments.values()) if isinstance(moments, Mapping) else [moments]
    wrong = next((value for value in values if not isinstance(value, ClassMoments)), None)
    if wrong is not None or not isinstance(moments, Mapping):
        found = type(moments if wrong is None else wrong).__name__
        raise TypeError(f"`moments` must map layer names to ClassMoments, got {found}; pass what nc.collect returns")
    if not moments:
        raise ValueError("`moments` holds no layer; collect at least one")
    sizes = sorted({value.num_classes for value in values})
    if len(sizes) > 1:
        raise ValueError(f"`moments` must have the same classes at every layer, got {sizes}; pad the smaller ones")
    return moments if isinstance(moments, MomentCollection) else MomentCollection(dict(moments))


def _layer_values(moments: ClassMoments, weighting: Weighting) -> dict[str, float]:
    """The scalars of one layer."""
    return {
        "within_trace": within_trace(moments),
        "between_trace": between_trace(moments, weighting=weighting),
        "compression": compression(moments, weighting=weighting),
        "separation": separation(moments),
        "separation_etf": separation(moments, absolute=False),
        "discrimination": discrimination(moments),
    }


def _attributes(name: str, weighting: str) -> dict[str, str]:
    """What a variable is called, how it is normalised and where it comes from."""
    between = _BETWEEN[weighting]
    long_name, symbol, convention, reference = {
        "within_trace": ("within-class variability", r"\mathrm{tr}\,\Sigma_W", "1/N over samples", _PAPYAN),
        "between_trace": ("between-class variability", r"\mathrm{tr}\,\Sigma_B", between, _PAPYAN),
        "compression": ("compression", r"D_\ell", f"tr Σ_W / tr Σ_B; Σ_B: {between}", _WANG),
        "separation": ("separation", r"S_\ell", "class means centred, absolute cosine", _QU),
        "separation_etf": ("separation, signed", r"S_\ell^{\pm}", "class means centred, signed cosine", _PAPYAN),
        "discrimination": ("discrimination", r"S_\ell^{\mathrm{unc}}", "class means uncentred, signed cosine", _WANG),
        "decay_ratio": ("decay ratio", r"D_\ell / D_{\ell-1}", "NaN at the first layer", _WANG),
        "class_count": ("samples", "n_k", _COUNT, _PAPYAN),
        "class_scatter": ("per-class spread", r"\mathrm{tr}\,\Sigma_{W,k}", _SPREAD, _PAPYAN),
        "class_mean": ("class mean", r"\mu_k", "1/n_k, not centred; NaN for absent classes", _PAPYAN),
        "within_class_covariance": ("within-class covariance", r"\Sigma_W", "1/N over samples", _PAPYAN),
        "between_class_covariance": ("between-class covariance", r"\Sigma_B", between, _PAPYAN),
    }[name]
    units = {"class_mean": "feature units"}.get(name, "1")
    if name.endswith(("_trace", "_scatter", "_covariance")):
        units = "feature units squared"
    attributes = {"long_name": long_name, "units": units, "symbol": symbol}
    return attributes | {"convention": convention, "reference": reference}


def _class_variables(collection: MomentCollection) -> dict[str, Any]:
    """Counts and spread of each class at each layer."""
    counts = np.stack([value.count.numpy() for value in collection.values()])
    scatter = np.stack([value.scatter.numpy() for value in collection.values()])
    spread = np.divide(scatter, counts, out=np.full(scatter.shape, np.nan), where=counts > 0)
    return {
        name: (("layer", "class"), values, _attributes(name, "equal"))
        for name, values in {"class_count": counts, "class_scatter": spread}.items()
    }


def _fit_variables(fit: GeometricDecay) -> dict[str, Any]:
    """The straight line through log D_l."""
    convention = "natural logarithm of D_l against the position among the layers, least squares"
    values = {
        "decay_slope": (fit.slope, "slope of log D per layer", r"\beta"),
        "decay_slope_lower": (fit.lower, "slope, lower end of the 95 % interval", r"\beta_{-}"),
        "decay_slope_upper": (fit.upper, "slope, upper end of the 95 % interval", r"\beta_{+}"),
        "decay_intercept": (fit.intercept, "log D of the line at the first layer", r"\alpha"),
        "decay_r_squared": (fit.r_squared, "share of the variance of log D explained", "R^2"),
    }
    fixed = {"units": "1", "convention": convention, "reference": _HE}
    return {
        name: ((), value, {"long_name": text, "symbol": sign, **fixed}) for name, (value, text, sign) in values.items()
    }


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
            notes.append(f"compression below {floor:g} at {_listed(low)}: the rounding of {dtype} features may show")
    return notes


def _underflow_notes(records: list[LayerRecord], between: np.ndarray, precision: str) -> list[str]:
    """A line for layers whose features are so small that their squares leave float32."""
    if precision == "double":
        return []
    low = [
        record.name
        for record, value in zip(records, between, strict=True)
        if record.feature_dtype != "float64" and 0 < value < UNDERFLOW
    ]
    if not low:
        return []
    return [f'features are tiny at {_listed(low)}: float32 squares underflow; pass precision="double"']


def _listed(names: list[str]) -> str:
    """The first three names, the rest counted."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _provenance(collection: MomentCollection, weighting: str, notes: list[str]) -> dict[str, Any]:
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

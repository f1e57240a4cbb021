"""Class moments of many layers → one labelled dataset."""

import json
import warnings
from collections.abc import Mapping
from typing import Any

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

_PAPYAN = "Papyan, Han, Donoho, PNAS 117(40), 2020"
_WANG = "Wang et al., JMLR 26(220), 2025"
_QU = "Qu, slides of 7 September 2023"
_HE = "He and Su, PNAS 120(36), 2023"

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
    collection = moments if isinstance(moments, MomentCollection) else MomentCollection(dict(moments))
    if not len(collection):
        raise ValueError("`moments` holds no layer; collect at least one")
    per_layer = [_layer_values(value, weighting) for value in collection.values()]
    columns = {name: np.array([values[name] for values in per_layer]) for name in per_layer[0]}
    columns["decay_ratio"] = decay_ratio(columns["compression"])
    variables = {name: (("layer",), values, _attributes(name, weighting)) for name, values in columns.items()}
    variables |= _class_variables(collection)
    variables |= _fit_variables(geometric_decay(columns["compression"]))
    records = [collection.record(name) for name in collection]
    notes = _precision_notes(records, columns["compression"])
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
        written as "|".
    """
    nodes = {}
    for name, value in moments.items():
        variables: dict[str, Any] = {
            "class_mean": (("class", "feature"), value.mean.numpy(), {"long_name": "class mean"})
        }
        if value.within_scatter is not None:
            square = ("feature", "feature_")
            within, between = within_class_covariance(value), between_class_covariance(value, weighting=weighting)
            variables["within_class_covariance"] = (square, within.numpy(), {"symbol": r"\Sigma_W"})
            variables["between_class_covariance"] = (square, between.numpy(), {"symbol": r"\Sigma_B"})
        nodes[name.replace("/", "|")] = xr.Dataset(variables)
    return xr.DataTree.from_dict(nodes)


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
    long_name, symbol, convention, reference = {
        "within_trace": ("within-class variability", r"\mathrm{tr}\,\Sigma_W", "1/N over samples", _PAPYAN),
        "between_trace": ("between-class variability", r"\mathrm{tr}\,\Sigma_B", _BETWEEN[weighting], _PAPYAN),
        "compression": ("compression", r"D_\ell", f"tr Σ_W / tr Σ_B; Σ_B: {_BETWEEN[weighting]}", _WANG),
        "separation": ("separation", r"S_\ell", "class means centred, absolute cosine", _QU),
        "separation_etf": ("separation, signed", r"S_\ell^{\pm}", "class means centred, signed cosine", _PAPYAN),
        "discrimination": ("discrimination", r"S_\ell^{\mathrm{unc}}", "class means uncentred, signed cosine", _WANG),
        "decay_ratio": ("decay ratio", r"D_\ell / D_{\ell-1}", "NaN at the first layer", _WANG),
    }[name]
    units = "feature units squared" if name.endswith("_trace") else "1"
    attributes = {"long_name": long_name, "units": units, "symbol": symbol}
    return attributes | {"convention": convention, "reference": reference}


def _class_variables(collection: MomentCollection) -> dict[str, Any]:
    """Counts and spread of each class at each layer."""
    counts = np.stack([value.count.numpy() for value in collection.values()])
    scatter = np.stack([value.scatter.numpy() for value in collection.values()])
    spread = np.divide(scatter, counts, out=np.full(scatter.shape, np.nan), where=counts > 0)
    axes = ("layer", "class")
    return {
        "class_count": (axes, counts, {"long_name": "samples", "units": "1", "symbol": "n_k"}),
        "class_scatter": (
            axes,
            spread,
            {
                "long_name": "per-class spread",
                "units": "feature units squared",
                "symbol": r"\mathrm{tr}\,\Sigma_{W,k}",
                "convention": "mean squared distance to the class mean, 1/n_k; NaN for absent classes",
                "reference": _PAPYAN,
            },
        ),
    }


def _fit_variables(fit: GeometricDecay) -> dict[str, Any]:
    """The straight line through log D_l."""
    convention = "natural logarithm of D_l against the position among the layers, least squares"
    values = {
        "decay_slope": (fit.slope, "slope of log D per layer"),
        "decay_slope_lower": (fit.lower, "slope, lower end of the 95 % interval"),
        "decay_slope_upper": (fit.upper, "slope, upper end of the 95 % interval"),
        "decay_intercept": (fit.intercept, "log D of the line at the first layer"),
        "decay_r_squared": (fit.r_squared, "share of the variance of log D explained"),
    }
    return {
        name: ((), value, {"long_name": text, "units": "1", "convention": convention, "reference": _HE})
        for name, (value, text) in values.items()
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
            more = f" and {len(low) - 3} more" if len(low) > 3 else ""
            notes.append(
                f"compression below {floor:g} at {', '.join(low[:3])}{more}: the rounding of {dtype} features may show"
            )
    return notes


def _provenance(collection: MomentCollection, weighting: str, notes: list[str]) -> dict[str, Any]:
    """Attributes of the dataset: plain strings and numbers, so that NetCDF can hold them."""
    first = next(iter(collection.values()))
    skipped = {name: count for name in collection if (count := collection.record(name).num_skipped)}
    if skipped:
        notes = [*notes, f"features that were not finite were left out: {json.dumps(skipped)}"]
    own = {
        "title": f"Layers of {collection.attributes.get('model', 'a network')}",
        "num_samples": first.num_samples,
        "num_classes": first.num_classes,
        "weighting": weighting,
        "warnings": json.dumps(notes),
    }
    return {key: value for key, value in collection.attributes.items() if key != "class_names"} | own

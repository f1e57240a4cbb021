"""Tables and lists of the page: layers, provenance, warnings, what was skipped."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from neurocollapse.report.numbers import number

_NUMBERS = ("compression", "decay_ratio", "separation", "discrimination", "within_trace", "between_trace")
PROBED = {
    "probe_accuracy_train": "probe, train",
    "probe_accuracy_test": "probe, held out",
    "ncm_accuracy_train": "nearest, train",
    "ncm_accuracy_test": "nearest, held out",
    "numerical_rank": "rank",
    "effective_rank": "effective rank",
}
"""Variables of the probes and their headings."""
_PROVENANCE = {
    "created": "measured at",
    "model": "model",
    "num_parameters": "parameters",
    "num_samples": "samples",
    "num_classes": "classes",
    "mode": "mode",
    "precision": "precision",
    "weighting": "weighting of classes in Σ_B",
    "device": "device",
    "seed": "seed",
    "probe": "linear probe",
    "probe_train_samples": "samples that the probes are fitted on",
    "probe_test_samples": "samples that the probes are tested on",
    "probe_seed": "seed of the split of these samples",
    "command": "command",
    "elapsed_seconds": "seconds taken",
    "neurocollapse_version": "neurocollapse",
    "torch_version": "PyTorch",
    "python_version": "Python",
}
_ELSEWHERE = {"title", "warnings", "skipped_layers"}


def layer_rows(dataset: xr.Dataset) -> list[dict[str, str]]:
    """One row a layer: what it is and what was measured."""
    rows = []
    for index, name in enumerate(dataset["layer"].values):
        row = {"name": str(name)}
        for key in ("depth", "module_type", "feature_dimension", "pooling"):
            row[key] = _coordinate(dataset, key, index)
        for key in _NUMBERS:
            row[key] = number(dataset[key].values[index])
        rows.append(row)
    return rows


def probe_rows(dataset: xr.Dataset) -> list[tuple[str, list[str]]]:
    """Layer and its probes' numbers, in the order of `PROBED`; nothing where the analysis had no probes."""
    if not all(name in dataset.data_vars for name in PROBED):
        return []
    columns = [[number(value, 4 if "accuracy" in name else 3) for value in dataset[name].values] for name in PROBED]
    names = [str(name) for name in dataset["layer"].values]
    return [(name, list(values)) for name, values in zip(names, zip(*columns, strict=True), strict=True)]


def _coordinate(dataset: xr.Dataset, key: str, index: int) -> str:
    """One layer's entry of a coordinate, or a dash where the dataset lacks it."""
    if key not in dataset.coords or dataset[key].dims != ("layer",):
        return "–"
    value = dataset[key].values[index]
    return number(value) if np.issubdtype(type(value), np.number) else str(value)


def provenance_rows(analyses: Mapping[str, xr.Dataset]) -> list[tuple[str, list[str]]]:
    """Label and one value for each analysis; known entries first, then whatever else the datasets carry."""
    others = [key for dataset in analyses.values() for key in dataset.attrs if key not in _PROVENANCE]
    keys = [*_PROVENANCE, *dict.fromkeys(key for key in map(str, others) if key not in _ELSEWHERE)]
    rows = []
    for key in keys:
        values = [dataset.attrs.get(key) for dataset in analyses.values()]
        if any(value is not None for value in values):
            rows.append((_PROVENANCE.get(key, key), [_plain(value) for value in values]))
    return rows


def _plain(value: Any) -> str:
    """An attribute as text: numbers by their digits, everything else as it is."""
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return number(value, 4)
    return "–" if value is None else str(value)


def warning_rows(analyses: Mapping[str, xr.Dataset]) -> list[tuple[str, str]]:
    """Network and warning: those the measurement left, and what the numbers themselves give away."""
    rows = [(name, text) for name, dataset in analyses.items() for text in _decoded(dataset, "warnings", list)]
    for name, dataset in analyses.items():
        undefined = dataset["layer"].values[np.isnan(dataset["compression"].values)]
        if undefined.size:
            rows.append((name, f"compression is undefined (0/0) at {_listed(undefined)}"))
        if "class_count" in dataset.data_vars and "class" in dataset["class_count"].dims:
            absent = dataset["class_count"].max([d for d in dataset["class_count"].dims if d != "class"]) == 0
            if bool(absent.any()):
                rows.append((name, f"no samples of class {_listed(_class_names(dataset)[absent.values])}"))
    return rows


def _class_names(dataset: xr.Dataset) -> np.ndarray:
    """Names of the classes, or their numbers."""
    key = "class_name" if "class_name" in dataset.coords else "class"
    return np.asarray(dataset[key].values)


def _listed(names: Any, limit: int = 6) -> str:
    """Names in a row, the rest counted."""
    shown = ", ".join(str(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def skipped_rows(analyses: Mapping[str, xr.Dataset]) -> list[tuple[str, str, str]]:
    """Network, layer and reason for each layer that was matched and not measured."""
    return [
        (name, layer, reason)
        for name, dataset in analyses.items()
        for layer, reason in _decoded(dataset, "skipped_layers", dict).items()
    ]


def _decoded(dataset: xr.Dataset, key: str, kind: type) -> Any:
    """A JSON attribute, which netCDF can hold only as text; text that is not of that form counts as one entry."""
    value = dataset.attrs.get(key)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = [value] if kind is list else {"": value}
    return value if isinstance(value, kind) else kind()

"""Where the numbers come from, what they warn of, and which layers they leave out."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from neurocollapse.report.grids import Cell
from neurocollapse.support.dataset import class_names, layer_names
from neurocollapse.support.numbers import number
from neurocollapse.support.text import listed

_PROVENANCE = {
    "created": "measured at",
    "model": "model",
    "num_parameters": "parameters",
    "num_samples": "samples",
    "num_classes": "classes",
    "mode": "mode",
    "precision": "precision",
    "statistics_kernel": "kernel of the statistics",
    "weighting": "weighting of classes",
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


def provenance_rows(analyses: Mapping[str, xr.Dataset]) -> list[list[Any]]:
    """Label and one value for each analysis; known entries first, then whatever else the datasets carry."""
    others = [key for dataset in analyses.values() for key in dataset.attrs if key not in _PROVENANCE]
    keys = [*_PROVENANCE, *dict.fromkeys(key for key in map(str, others) if key not in _ELSEWHERE)]
    rows: list[list[Any]] = []
    for key in keys:
        values = [dataset.attrs.get(key) for dataset in analyses.values()]
        if any(value is not None for value in values):
            rows.append([_PROVENANCE.get(key, key), *map(_cell, values)])
    return rows


def _cell(value: Any) -> Cell:
    """An attribute: numbers by their digits, everything else as it is."""
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return Cell(number(value, 4), value)
    return Cell("–", None) if value is None else Cell(str(value), str(value))


def warning_rows(analyses: Mapping[str, xr.Dataset]) -> list[tuple[str, str]]:
    """Network and warning: those of the measurement, and those that follow from the numbers themselves."""
    rows = [(name, text) for name, dataset in analyses.items() for text in _decoded(dataset, "warnings", list)]
    for name, dataset in analyses.items():
        values = dataset.get("compression")
        if values is not None and bool(values.isnull().any()):
            undefined = np.asarray(layer_names(dataset))[values.isnull().values]
            rows.append((name, f"compression is undefined (0/0) at {listed(undefined, most=6)}"))
        if "class_count" in dataset.data_vars and "class" in dataset["class_count"].dims:
            absent = dataset["class_count"].max([d for d in dataset["class_count"].dims if d != "class"]) == 0
            absent_names = np.asarray(class_names(dataset))[absent.values]
            if absent_names.size:
                rows.append((name, f"no samples of class {listed(absent_names, most=6)}"))
    return rows


def skipped_rows(analyses: Mapping[str, xr.Dataset]) -> list[tuple[str, str, str]]:
    """Layer, network and reason for each layer that was matched and not measured."""
    return [
        (layer, name, reason)
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

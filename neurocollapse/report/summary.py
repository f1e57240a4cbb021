"""The result in plain words, before any figure."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from neurocollapse.report.numbers import exponential, interval, number

WITHIN = 0.01
"""Accuracies that differ by less count as alike."""


def sentences(dataset: xr.Dataset) -> list[str]:
    """What was measured on what, how D falls, how S rises, and what probes read."""
    return [_scope(dataset), _compression(dataset), *_separation(dataset), *_probes(dataset)]


def comparison(analyses: Mapping[str, xr.Dataset]) -> str:
    """Which network ends most compressed and by how much, where the question has an answer."""
    last = {name: float(dataset["compression"].values[-1]) for name, dataset in analyses.items()}
    if len(last) < 2 or not all(math.isfinite(value) and value > 0 for value in last.values()):
        return ""
    best, worst = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
    if last[worst] < 1.05 * last[best]:
        return "At their last layers the networks are compressed alike."
    factor = number(last[worst] / last[best], 2)
    ends = f"D = {number(last[best])} against {number(last[worst])}"
    return f"At its last layer {best} is {factor} times more compressed than {worst} ({ends})."


def _scope(dataset: xr.Dataset) -> str:
    """Layers, model, samples, classes."""
    layers = dataset.sizes["layer"]
    text = f"{layers} layer{'s' * (layers != 1)}"
    if model := dataset.attrs.get("model"):
        text += f" of {model}"
    if (parameters := dataset.attrs.get("num_parameters")) is not None:
        text += f" ({number(parameters)} parameters)"
    if (samples := dataset.attrs.get("num_samples")) is not None:
        text += f", measured on {number(samples)} samples"
    classes = dataset.attrs.get("num_classes", dataset.sizes.get("class"))
    return text + (f" in {number(classes)} classes." if classes is not None else ".")


def _compression(dataset: xr.Dataset) -> str:
    """First and last D, and the geometric fit with how well it describes them."""
    values = dataset["compression"].values.astype(np.float64)
    names = [str(name) for name in dataset["layer"].values]
    known = np.flatnonzero(~np.isnan(values))
    if known.size == 0:
        return "Compression D is undefined at every layer."
    first, last = known[0], known[-1]
    if first == last:
        return f"Compression D is {number(values[first])} at {names[first]}."
    verb = "falls" if values[last] < values[first] else "rises" if values[last] > values[first] else "stays"
    text = (
        f"Compression D {verb} from {number(values[first])} ({names[first]}) to {number(values[last])} ({names[last]})"
    )
    if values[last] == 0:
        text += ", exact collapse"
    return text + _fit(dataset)


def _fit(dataset: xr.Dataset) -> str:
    """The factor per layer, its interval, R², and a caution where one factor does not describe the curve."""
    slope, low, high, r_squared = (
        scalar(dataset, f"decay_{name}") for name in ("slope", "slope_lower", "slope_upper", "r_squared")
    )
    if math.isnan(slope):
        return "."
    text = f", on average a factor {number(exponential(slope))} per layer"
    if not (math.isnan(low) or math.isnan(high)):
        text += f" (95 % interval {interval(exponential(low), exponential(high))})"
    if not math.isnan(r_squared):
        text += f", R² = {r_squared:.2f}"
        if r_squared < 0.8:
            text += "; a single factor describes this curve poorly"
    if low < 0 < high:
        text += "; the interval includes 1, so no steady decay is shown"
    return text + "."


def _separation(dataset: xr.Dataset) -> list[str]:
    """First and last S and discrimination beside the value at a simplex frame."""
    texts = []
    for name, words in (
        ("separation", "Separation S (centred means, absolute cosine)"),
        ("discrimination", "Discrimination (uncentred means, signed cosine)"),
    ):
        values = dataset[name].values.astype(np.float64)
        known = values[~np.isnan(values)]
        if known.size:
            texts.append(f"{words} goes from {number(known[0])} to {number(known[-1])}")
    classes = dataset.attrs.get("num_classes", dataset.sizes.get("class"))
    if texts and classes is not None and int(classes) > 2:
        texts[0] += f"; a simplex frame of {number(classes)} classes has {number(1 - 1 / (int(classes) - 1))}"
    return [f"{text}." for text in texts]


def _probes(dataset: xr.Dataset) -> list[str]:
    """From which layer on a linear probe reads the classes as well as from any, and where the rank goes."""
    texts, names = [], [str(name) for name in dataset["layer"].values]
    if "probe_accuracy_test" in dataset.data_vars:
        accuracy = dataset["probe_accuracy_test"].values.astype(np.float64)
        if not np.isnan(accuracy).all():
            enough = accuracy >= np.nanmax(accuracy) - WITHIN
            since = len(enough) - int(np.argmin([*enough[::-1], False]))  # the layers from here on all are enough
            where = f"; it stays within {WITHIN} of that from {names[since]} on" if since < len(names) else ""
            best = f"{names[int(np.nanargmax(accuracy))]}, with accuracy {number(np.nanmax(accuracy))}"
            texts.append(f"A linear probe reads held-out samples best at {best}{where}")
    if "numerical_rank" in dataset.data_vars:
        rank = dataset["numerical_rank"].values.astype(np.float64)
        if not np.isnan(rank[[0, -1]]).any():
            texts.append(f"The numerical rank of the features goes from {number(rank[0])} to {number(rank[-1])}")
    return [f"{text}." for text in texts]


def glance(analyses: Mapping[str, xr.Dataset]) -> list[dict[str, Any]]:
    """One row of key numbers for each network."""
    rows = []
    for name, dataset in analyses.items():
        compression = dataset["compression"].values
        slope, low, high = (scalar(dataset, f"decay_{part}") for part in ("slope", "slope_lower", "slope_upper"))
        rows.append(
            {
                "name": name,
                "layers": dataset.sizes["layer"],
                "first": number(compression[0]),
                "last": number(compression[-1]),
                "factor": number(exponential(slope)),
                "interval": "–" if math.isnan(low) else interval(exponential(low), exponential(high)),
                "r_squared": number(scalar(dataset, "decay_r_squared")),
                "separation": number(dataset["separation"].values[-1]),
                "discrimination": number(dataset["discrimination"].values[-1]),
            }
        )
    return rows


def scalar(dataset: xr.Dataset, name: str) -> float:
    """A number of the dataset, NaN where it has none."""
    return float(dataset[name]) if name in dataset.data_vars and dataset[name].ndim == 0 else float("nan")

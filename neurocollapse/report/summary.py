"""The result in plain words, before any figure."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from neurocollapse.report.curves import of_collapse, of_margin
from neurocollapse.report.grids import Cell, at_last_layer, named
from neurocollapse.support.dataset import ends_of, last_defined, layer_names, num_classes, scalar, tabulated
from neurocollapse.support.numbers import exponential, interval, number, together

WITHIN = 0.01
"""Accuracies that differ by less count as alike."""
_FACTORS = {
    "margin_spread": "spread within classes leaves",
    "margin_duality": "its direction",
    "margin_samples": "unequal samples",
    "margin_classes": "unequal wrong classes",
}


def sentences(dataset: xr.Dataset, step: str = "") -> list[str]:
    """What was measured on what, how D falls and S rises, what probes read, the head's margin; `step` says when."""
    return [
        _scope(dataset, step),
        *_compression(dataset),
        *_uncertainty(dataset),
        *_separation(dataset),
        *_probes(dataset),
        *margin_sentences(dataset),
    ]


def comparison(analyses: Mapping[str, xr.Dataset]) -> str:
    """Which network ends most compressed and by how much, where the question has an answer."""
    if not all("compression" in dataset.data_vars for dataset in analyses.values()):
        return ""
    last = {name: float(dataset["compression"].values[-1]) for name, dataset in analyses.items()}
    if len(last) < 2 or not all(math.isfinite(value) and value > 0 for value in last.values()):
        return ""
    best, worst = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
    if last[worst] < 1.05 * last[best]:
        return "At their last layers the networks are compressed alike."
    factor = number(last[worst] / last[best], 2)
    ends = f"D = {number(last[best])} against {number(last[worst])}"
    return f"At its last layer {best} is {factor} times more compressed than {worst} ({ends})."


def _scope(dataset: xr.Dataset, step: str) -> str:
    """Layers, model, samples, classes, step."""
    layers = dataset.sizes["layer"]
    text = f"{layers} layer{'s' * (layers != 1)}"
    if model := dataset.attrs.get("model"):
        text += f" of {model}"
    if (parameters := dataset.attrs.get("num_parameters")) is not None:
        text += f" ({number(parameters)} parameters)"
    if (samples := dataset.attrs.get("num_samples")) is not None:
        text += f", measured on {number(samples)} samples"
    if (classes := num_classes(dataset)) is not None:
        text += f" in {number(classes)} classes"
    return f"{text}, at {step}." if step else f"{text}."


def _compression(dataset: xr.Dataset) -> list[str]:
    """First and last D, and the geometric fit with how well it describes them."""
    if "compression" not in dataset.data_vars:
        return []
    values = dataset["compression"].values.astype(np.float64)
    names = layer_names(dataset)
    known = np.flatnonzero(~np.isnan(values))
    if known.size == 0:
        return ["Compression D is undefined at every layer."]
    first, last = known[0], known[-1]
    if first == last:
        return [f"Compression D is {number(values[first])} at {names[first]}."]
    verb = "falls" if values[last] < values[first] else "rises" if values[last] > values[first] else "stays"
    text = (
        f"Compression D {verb} from {number(values[first])} ({names[first]}) to {number(values[last])} ({names[last]})"
    )
    if values[last] == 0:
        text += ", exact collapse"
    return [text + _fit(dataset)]


def _fit(dataset: xr.Dataset) -> str:
    """The factor per layer, its interval, R², and a caution where one factor does not describe the curve."""
    slope, low, high, r_squared = (
        scalar(dataset, f"decay_{name}")
        for name in ("slope", "slope_lower_of_line", "slope_upper_of_line", "r_squared")
    )
    if math.isnan(slope):
        return "."
    text = f", on average a factor {number(exponential(slope))} per layer"
    if not (math.isnan(low) or math.isnan(high)):
        text += f" (95 % interval of the line {interval(exponential(low), exponential(high))})"
    if not math.isnan(r_squared):
        text += f", R² = {r_squared:.2f}"
        if r_squared < 0.8:
            text += "; a single factor describes this curve poorly"
    if low < 0 < high:
        text += "; the interval includes 1, so no steady decay is shown"
    return text + "."


def _uncertainty(dataset: xr.Dataset) -> list[str]:
    """What the intervals over samples are, and what they are not, in two sentences; nothing where there are none."""
    if "compression_interval" not in dataset.data_vars or "decay_slope_interval" not in dataset.data_vars:
        return []
    ends = dataset["compression_interval"].transpose("layer", "bound").values
    known = np.flatnonzero(np.isfinite(ends).all(axis=1))
    if known.size == 0:
        return [
            "D has no interval over samples at any layer, as too few samples of a class tell nothing of its spread."
        ]
    where, slope = known[-1], ends_of(dataset, "decay_slope_interval")
    text = f"Without the bias of few samples D is {interval(*ends[where])} at {layer_names(dataset)[where]}"
    if np.isfinite(slope).all():
        text += f", and its factor per layer {interval(exponential(slope[0]), exponential(slope[1]))}"
    return [
        f"{text} (95 % intervals over draws of the samples from their classes).",
        "These intervals speak of samples, not of other networks or of how well a line fits the layers.",
    ]


def _separation(dataset: xr.Dataset) -> list[str]:
    """First and last S and discrimination beside the value at a simplex frame."""
    texts = []
    for name, words in (
        ("separation", "Separation S (centred means, absolute cosine)"),
        ("discrimination", "Discrimination (uncentred means, signed cosine)"),
    ):
        values = dataset[name].values.astype(np.float64) if name in dataset.data_vars else np.empty(0)
        known = values[~np.isnan(values)]
        if known.size:
            texts.append(f"{words} goes from {number(known[0])} to {number(known[-1])}")
    classes = num_classes(dataset) or 0
    if texts and "separation" in dataset.data_vars and classes > 2:
        texts[0] += f"; a simplex frame of {number(classes)} classes has {number(1 - 1 / (classes - 1))}"
    if texts and "separation" in dataset.data_vars and classes == 2:
        texts[0] += "; of two classes it is always 0"
    return [f"{text}." for text in texts]


def _probes(dataset: xr.Dataset) -> list[str]:
    """From which layer on a linear probe reads the classes as well as from any, and where the rank goes."""
    texts, names = [], layer_names(dataset)
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


def margin_sentences(dataset: xr.Dataset) -> list[str]:
    """The share of its best margin that the head realises, and what each factor leaves."""
    head = last_defined(dataset, "margin_spread")
    if head is None or any(name not in head for name in ("margin_efficiency", *_FACTORS)):
        return []
    where, share = layer_names(head)[0], head["margin_efficiency"].item()
    if math.isnan(share):
        return [f"The margin efficiency at {where} is undefined, as the mean margin is not positive."]
    factors = ", ".join(f"{words} {number(head[name].item())}" for name, words in _FACTORS.items())
    return [f"The head at {where} realises {number(share)} of the margin that its norms allow; {factors}."]


def place(layer: str) -> str:
    """A layer's name within a sentence; one that is a mere number is said to be a layer."""
    return f"layer {layer}" if layer[:1].isdigit() else layer


def fit_rows(analyses: Mapping[str, xr.Dataset]) -> list[list[Any]]:
    """Layers of each network, and the line fitted to its compression where there is one."""
    given = analyses.values()
    rows: list[list[Any]] = [["layers", *(one.sizes["layer"] for one in given)]]
    slopes = [[scalar(one, f"decay_slope{end}") for end in ("", "_lower_of_line", "_upper_of_line")] for one in given]
    if not all(math.isnan(slope) for slope, _, _ in slopes):
        factors = [[exponential(slope) for slope in one] for one in slopes]
        squares = [scalar(one, "decay_r_squared") for one in given]
        rows.append(["factor per layer", *_together([factor for factor, _, _ in factors])])
        ends = [("–" if math.isnan(low) else interval(low, high), (low, high)) for _, low, high in factors]
        rows.append(["95 % interval of the line", *(Cell(*pair) for pair in ends)])
        rows.append(["R²", *_together(squares)])
    return rows


def _together(values: list[float]) -> list[Cell]:
    """Numbers beside each other."""
    return [Cell(*pair) for pair in zip(together(values), values, strict=True)]


def glance_rows(analyses: Mapping[str, xr.Dataset]) -> list[list[Any]]:
    """Heading of every number and its value at the last layer of each network, without those in tables of their own."""
    first = {
        name: one
        for one in list(analyses.values())[::-1]
        for name in tabulated(one)
        if name not in (*of_collapse(one), *of_margin(one))
    }
    names = dict.fromkeys(name for one in analyses.values() for name in tabulated(one) if name in first)
    return [[named(first[name], name), *at_last_layer(analyses.values(), name)] for name in names]

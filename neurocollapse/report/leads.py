"""The sentence that each section of the page begins with."""

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr

from neurocollapse.report.curves import of_collapse, with_steps
from neurocollapse.report.summary import place, sentences
from neurocollapse.support.dataset import heading, labels, layer_names, limit, scalar
from neurocollapse.support.numbers import exponential, number

NEAR = 0.1
"""Measures that are nearer to their limit count as there."""
_MOST = 4
"""Networks that a sentence names."""


def headline(dataset: xr.Dataset, step: str = "") -> str:
    """What became of the classes from the first layer to the last, in one sentence."""
    values = dataset["compression"].values.astype(np.float64) if "compression" in dataset.data_vars else np.empty(0)
    known = np.flatnonzero(np.isfinite(values) & (values > 0))
    if known.size < 2 or not np.isfinite(values[[0, -1]]).all():
        return " ".join(sentences(dataset, step)[: 1 + bool(values.size)])
    names, (first, end) = layer_names(dataset), values[[0, -1]]
    ends = f"compression D goes from {number(first)} at {place(names[0])} to {number(end)} at {place(names[-1])}"
    if end == 0:
        text = f"The classes collapse exactly: {ends}"
    elif max(first, end) < 1.05 * min(first, end):
        text = f"The classes end as spread as they began: {ends}"
    else:
        verb = "pulled together" if end < first else "spread"
        text = f"The classes are {verb} {number(max(first, end) / min(first, end), 2)}-fold: {ends}"
    slope, low, high = (scalar(dataset, f"decay_slope{which}") for which in ("", "_lower_of_line", "_upper_of_line"))
    if low > 0 or high < 0:
        text += f", a factor {number(exponential(slope))} per layer"
    return f"{text}{f', at {step}' if step else ''}."


def layers_lead(latest: Mapping[str, xr.Dataset]) -> str:
    """Where each network compresses most."""
    parts = []
    for name, one in latest.items():
        values = one["decay_ratio"].values.astype(np.float64) if "decay_ratio" in one.data_vars else np.empty(0)
        if np.isfinite(values).any():
            at = int(np.nanargmin(values))
            where = f"{place(layer_names(one)[at])}, which multiplies D by {number(values[at])}"
            parts.append(f"{_of(name, latest)}{'at ' * (len(latest) > 1)}{where}")
    start = "The strongest compression is at " if len(latest) == 1 else "The strongest compression: "
    return f"{start}{_listed(parts)}." if parts else "Every network is a curve over its layers."


def steps_lead(analyses: Mapping[str, xr.Dataset]) -> str:
    """How D of the last layer moved from the first step to the last."""
    stepped, dim = with_steps(analyses)
    parts = []
    for name, one in stepped.items():
        if "compression" not in one.data_vars or dim not in one["compression"].dims:
            continue
        values = one["compression"].isel(layer=-1).values.astype(np.float64)
        times = labels(one, dim)
        ends = f"from {number(values[0])} at {dim} {times[0]} to {number(values[-1])} at {dim} {times[-1]}"
        parts.append(f"{_of(name, stepped)}{ends}")
    return f"D of the last layer goes {_listed(parts)}." if parts else f"Every number of the last layer by {dim}."


def collapse_lead(latest: Mapping[str, xr.Dataset]) -> str:
    """How many measures are near their limit."""
    parts = []
    for name, one in latest.items():
        names = [measure for measure in of_collapse(one) if not math.isnan(limit(one, measure))]
        if names:
            gaps = {measure: abs(float(one[measure].values[-1]) - limit(one, measure)) for measure in names}
            near = sum(gap <= NEAR for gap in gaps.values())
            where = f"in {name}, " if len(latest) > 1 else ""  # names often end in numbers
            text = f"{where}{near} of {len(names)} measures lie within {NEAR} of their limit"
            far = {measure: gap for measure, gap in gaps.items() if not math.isnan(gap)}
            if far and near < len(names):
                measure = max(far, key=far.__getitem__)
                value = number(float(one[measure].values[-1]))
                text += f", farthest {heading(one, measure)} with {value} for {number(limit(one, measure))}"
            parts.append(text)
    return f"At the last layer: {_listed(parts)}." if parts else "None of the measures has a known limit."


def uncertainty_lead(latest: Mapping[str, xr.Dataset]) -> str:
    """How well D of the last layer is known, where intervals were measured, or how far the bias of few samples goes."""
    known, corrected = [], []
    for name, one in latest.items():
        if "compression_interval" in one.data_vars:
            low, high = one["compression_interval"].transpose("layer", "bound").values[-1]
            is_known = np.isfinite([low, high]).all()
            ends = f"between {number(low)} and {number(high)}" if is_known else "not known"
            known.append(f"{_of(name, latest)}{ends}")
        if {"compression", "compression_unbiased"} <= set(one.data_vars):
            plain, fair = (float(one[key].values[-1]) for key in ("compression", "compression_unbiased"))
            corrected.append(f"{_of(name, latest)}{number(fair)} in place of {number(plain)}")
    if known:
        return f"D of the last layer is {_listed(known)}, with 95 % confidence over draws of the samples."
    if corrected:
        return f"Without the bias of few samples D of the last layer is {_listed(corrected)}."
    return "Numbers without the bias of few samples."


def similarity_lead(analyses: Mapping[str, xr.Dataset]) -> str:
    """Between which neighbouring layers the features change most."""
    parts = []
    for name, one in analyses.items():
        values = one["cka"].transpose("layer", "layer_").values.astype(np.float64) if "cka" in one.data_vars else None
        names = layer_names(one)
        if values is None or labels(one, "layer_") != names or len(names) < 2:
            continue
        steps = np.diag(values, 1)
        if np.isfinite(steps).any():
            at = int(np.nanargmin(steps))
            parts.append(
                f"{_of(name, analyses)}between {place(names[at])} and {place(names[at + 1])} (CKA {number(steps[at])})"
            )
    return f"The features change most {_listed(parts)}." if parts else "Which layers arrange the samples alike."


def _of(name: str, networks: Mapping[str, xr.Dataset]) -> str:
    """The network's name in front of what is said of it, where there are several."""
    return f"in {name} " if len(networks) > 1 else ""


def _listed(parts: list[str]) -> str:
    """The first parts as one sentence, the rest counted."""
    return "; ".join(parts[:_MOST]) + (f"; and {len(parts) - _MOST} more networks" if len(parts) > _MOST else "")

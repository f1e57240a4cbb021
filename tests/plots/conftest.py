"""Datasets as `nc.measure` returns them, from curves like those of trained networks."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from neurocollapse.metrics import QUANTITIES

MakeAnalysis = Callable[..., xr.Dataset]
ATTRIBUTES = {quantity.name: quantity.attributes() for quantity in QUANTITIES}
"""What the variables of the library say of themselves."""


def fit(values: np.ndarray) -> dict[str, float]:
    """Least squares of ln D against the position with its normal 95 % interval, over positive finite values."""
    known = np.isfinite(values) & (values > 0)
    if known.sum() < 3:
        names = ("slope", "intercept", "r_squared", "slope_lower_of_line", "slope_upper_of_line")
        return dict.fromkeys([f"decay_{name}" for name in names], float("nan"))
    where, logs = np.flatnonzero(known).astype(float), np.log(values[known])
    slope, intercept = np.polyfit(where, logs, 1)
    residual = logs - slope * where - intercept
    error = np.sqrt((residual**2).sum() / (known.sum() - 2) / ((where - where.mean()) ** 2).sum())
    return {
        "decay_slope": float(slope),
        "decay_intercept": float(intercept),
        "decay_r_squared": float(1 - (residual**2).sum() / ((logs - logs.mean()) ** 2).sum()),
        "decay_slope_lower_of_line": float(slope - 2.57 * error),
        "decay_slope_upper_of_line": float(slope + 2.57 * error),
    }


@pytest.fixture
def make_analysis() -> MakeAnalysis:
    """A factory of analyses: D_l curve, layer names, number of classes and provenance can be given."""
    return analysis


def analysis(
    compression: list[float] | None = None,
    *,
    names: list[str] | None = None,
    num_classes: int = 10,
    class_names: list[str] | None = None,
    seed: int = 0,
    **attrs: object,
) -> xr.Dataset:
    """One analysis with the variables, coordinates and attributes of the result contract."""
    given = [11.2, 6.4, 2.3, 0.9, 0.33, 0.11, 0.031] if compression is None else compression
    values = np.asarray(given, dtype=np.float64)
    count, generator = len(values), np.random.default_rng(seed)
    names = names or [f"layers.{index}" for index in range(count)]
    between = np.exp(generator.normal(0.0, 0.2, count)) * 3
    noise = np.exp(generator.normal(0.0, 0.3, (count, num_classes)))
    noise /= noise.mean(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        ratio = np.concatenate([[np.nan], values[1:] / values[:-1]])
        within = values * between
    progress = np.linspace(0.2, 1.0, count)
    limit = 1 - 1 / (num_classes - 1) if num_classes > 1 else 1.0
    layer = {
        "within_trace": within,
        "between_trace": between,
        "compression": values,
        "decay_ratio": ratio,
        "separation": limit * progress,
        "separation_etf": (1 + 1 / max(num_classes - 1, 1)) * progress,
        "discrimination": 0.3 + 0.68 * progress,
    }
    data = {name: ("layer", array, ATTRIBUTES[name]) for name, array in layer.items()}
    for name, array in {
        "class_count": np.full((count, num_classes), 144),
        "class_scatter": within[:, None] * noise,
    }.items():
        data[name] = (("layer", "class"), array, ATTRIBUTES[name])
    coords = {
        "layer": names,
        "depth": ("layer", np.arange(count)),
        "feature_dimension": ("layer", np.full(count, 64)),
        "module_type": ("layer", ["Sequential"] * count),
        "pooling": ("layer", ["none"] * count),
        "layout": ("layer", ["features"] * count),
        "feature_dtype": ("layer", ["float32"] * count),
        "class": np.arange(num_classes),
    }
    if class_names is not None:
        coords["class_name"] = ("class", class_names)
    provenance = {
        "title": "",
        "neurocollapse_version": "0.1.0",
        "torch_version": "2.13.0",
        "python_version": "3.12.0",
        "created": "2025-01-01T00:00:00+00:00",
        "model": "HybridMLP",
        "num_parameters": 123456,
        "num_samples": 1437,
        "num_classes": num_classes,
        "weighting": "equal",
        "precision": "single",
        "mode": "eval",
        "device": "cpu",
        "seed": 0,
        "command": "neurocollapse report",
        "skipped_layers": json.dumps({}),
        "warnings": json.dumps([]),
        "elapsed_seconds": 1.25,
    }
    return xr.Dataset({**data, **fit(values)}, coords, {**provenance, **attrs})

"""The section of one verification: its outcome in words, its assumptions, its verdicts, its bounds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from neurocollapse.report.numbers import number

_OUTCOMES = {
    "holds": ("holds", "✓", "The assumptions are met and the measurement lies inside the bounds."),
    "violated": ("violated", "✗", "The assumptions are met, yet a measurement lies outside its bounds."),
    "assumptions unmet": (
        "unmet",
        "?",
        "An assumption is not met, so the theorem says nothing here; this is neither a pass nor a failure.",
    ),
}
_BOUNDS = (("a posteriori", "posterior"), ("a priori", "prior"), ("printed", "printed"))


def outcome(status: Any) -> dict[str, str]:
    """Word, sign, style class and meaning of an outcome; the sign tells the three apart without colour."""
    text = str(getattr(status, "value", status))
    style, sign, meaning = _OUTCOMES.get(text.replace("_", " "), ("unmet", "?", ""))
    return {"text": text, "style": style, "sign": sign, "meaning": meaning}


def section(name: str, verification: Any) -> dict[str, Any]:
    """What the page shows of one verification, duck-typed so that the report knows no theory."""
    dataset = verification.to_dataset()
    assumptions = [_assumption(key, value) for key, value in _named(verification.assumptions)]
    verdicts = [_verdict(value) for _, value in _named(verification.verdicts)]
    return {
        "name": name,
        "outcome": outcome(verification.status),
        "reasons": _reasons(assumptions, verdicts),
        "assumptions": assumptions,
        "verdicts": verdicts,
        "bounds": _bound_rows(dataset) if isinstance(dataset, xr.Dataset) else None,
        "dataset": dataset,
    }


def _reasons(assumptions: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> str:
    """What stands in the way of a clean result, by name."""
    unmet = [row["name"] for row in assumptions if row["met"]["style"] == "unmet"]
    violated = [row["claim"] for row in verdicts if row["outcome"]["style"] == "violated"]
    texts = [f"Not met: {', '.join(unmet)}."] if unmet else []
    if violated:
        more = f" and {len(violated) - 3} more" if len(violated) > 3 else ""
        texts.append(f"Violated, {len(violated)} of {len(verdicts)} claims: {'; '.join(violated[:3])}{more}.")
    return " ".join(texts)


def _named(values: Any) -> list[tuple[str, Any]]:
    """Entries of a mapping or a sequence with their names."""
    if isinstance(values, Mapping):
        return [(str(key), value) for key, value in values.items()]
    return [(str(_field(value, "name", "")), value) for value in values]


def _field(value: Any, name: str, default: Any = None) -> Any:
    """An attribute, or the entry of a mapping."""
    return value.get(name, default) if isinstance(value, Mapping) else getattr(value, name, default)


def _assumption(name: str, value: Any) -> dict[str, Any]:
    """Value, residual, tolerance, whether it is met, and what it means."""
    met = _field(value, "met")
    return {
        "name": str(_field(value, "name", None) or name),
        **{key: number(_field(value, key)) for key in ("value", "residual", "tolerance")},
        "met": {"text": "not measured", "style": "unmet", "sign": "?"}
        if met is None
        else {"text": "met", "style": "holds", "sign": "✓"}
        if met
        else {"text": "not met", "style": "unmet", "sign": "?"},
        "meaning": str(_field(value, "meaning", "") or ""),
    }


def _verdict(value: Any) -> dict[str, Any]:
    """Claim, where it stands, numbers, outcome."""
    return {
        "claim": str(_field(value, "claim", "")),
        "reference": str(_field(value, "reference", "") or ""),
        **{key: _numbers(_field(value, key)) for key in ("lower", "measured", "upper")},
        "slack": _numbers(_field(value, "slack"), 2),
        "outcome": outcome(_field(value, "outcome", "")),
    }


def _numbers(value: Any, digits: int = 4) -> str:
    """One number, or the range of several."""
    if value is None or isinstance(value, str):
        return number(value)
    values = np.asarray(value, dtype=np.float64).ravel()
    known = values[~np.isnan(values)]
    if known.size == 0:
        return "–"
    return number(known[0], digits) if known.size == 1 else f"{number(known.min())} … {number(known.max())}"


def has_bounds(dataset: Any) -> bool:
    """Whether the dataset compares decay ratios with bounds along `layer`."""
    return isinstance(dataset, xr.Dataset) and "decay_ratio" in dataset.data_vars and "layer" in dataset.sizes


def _bound_rows(dataset: xr.Dataset) -> dict[str, Any] | None:
    """One row a layer: the ratio, each bracket, and how tight its upper end is."""
    if not has_bounds(dataset):
        return None
    kinds = [(word, key) for word, key in _BOUNDS if f"{key}_upper" in dataset.data_vars]
    measured = dataset["decay_ratio"].values.astype(np.float64)
    names = dataset["layer"].values if "layer" in dataset.coords else np.arange(measured.size)
    rows = []
    for index in np.flatnonzero(~np.isnan(measured)):
        brackets = []
        for _, key in kinds:
            ends = [float(dataset[f"{key}_{side}"].values[index]) for side in ("lower", "upper")]
            tight = number(ends[1] / measured[index]) if measured[index] > 0 else "–"
            brackets.append(
                {"text": "–" if np.isnan(ends).all() else f"{number(ends[0])} … {number(ends[1])}", "tight": tight}
            )
        rows.append({"name": str(names[index]), "measured": number(measured[index], 4), "brackets": brackets})
    return {"kinds": [word for word, _ in kinds], "rows": rows}

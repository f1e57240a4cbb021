"""The section of one verification or experiment: outcome in words, assumptions, verdicts, bounds."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
import xarray as xr
from markupsafe import Markup

from neurocollapse.report.grids import Cell, Grid, grid
from neurocollapse.support.bounds import Bound, bounds_in
from neurocollapse.support.formulas import typeset
from neurocollapse.support.numbers import number, together

_OUTCOMES = {
    "holds": ("holds", "✓", "The assumptions are met and the measurement lies inside the bounds."),
    "violated": ("violated", "✗", "The assumptions are met, yet a measurement lies outside its bounds."),
    "assumptions unmet": (
        "unmet",
        "?",
        "Where an assumption is not met its theorem says nothing; that is neither a pass nor a failure.",
    ),
}


_OPEN = (
    "Bounds whose source leaves a constant open, compared at the stated value; they do not count towards the outcome."
)
_CERTIFIED = {
    "holds": "Every layer of the linear tail provably pulls the classes together.",
    "violated": "A layer of the linear tail provably spreads the classes.",
    "unmet": "No proved bound decides some layer; that is neither a pass nor a failure.",
}
"""What an outcome means where the claims are certified compression."""


def outcome(status: Any) -> dict[str, str]:
    """Word, sign, style class and meaning of an outcome; the sign tells the three apart without colour."""
    text = str(getattr(status, "value", status))
    style, sign, meaning = _OUTCOMES.get(text.replace("_", " "), ("unmet", "?", ""))
    return {"text": text, "style": style, "sign": sign, "meaning": meaning}


def section(name: str, verification: Any) -> dict[str, Any]:
    """What the page shows of one verification or experiment, duck-typed so that the report knows no theory."""
    dataset = verification.to_dataset()
    of_experiment = is_experiment(verification)
    assumptions = [_assumption(key, value) for key, value in _named(verification.assumptions)]
    keys = [key for key, _ in _named(verification.assumptions)]
    verdicts = _verdict_rows(verification.verdicts, keys)
    claims = [claim_row(claim) for claim in _field(verification, "claims", None) or ()]
    result = outcome(verification.status)
    reasons = " ".join([*_share(verification.verdicts), _reasons(assumptions, verdicts)])
    if claims:
        undecided = [row["plain"] for row in claims if row["outcome"]["style"] != "holds"]
        result, reasons = {**result, "meaning": _CERTIFIED[result["style"]]}, _listed(undecided, " ")
    bounds = [] if of_experiment else bound_tables(dataset, name)
    verdict_grid = _verdict_grid(name, "Verdicts", verdicts)
    compared = _verdict_rows(_field(verification, "comparisons", ()), keys)
    evidence = [
        _assumption_grid(name, assumptions),
        *([] if of_experiment else [verdict_grid]),
        _verdict_grid(name, "For information", compared, _OPEN),
        *(one["grid"] for one in bounds),
    ]
    return {
        "name": name,
        "kind": "Experiment" if of_experiment else "Verification",
        "about": f"{verification.experiment.shows} Source: {verification.experiment.source}." if of_experiment else "",
        "outcome": result,
        "reasons": typeset(reasons),
        "claims": claims,
        "theorems": [
            {"label": str(one.label), "outcome": outcome(one.status)}
            for one in dict(_field(verification, "theorems", None) or {}).values()
        ],
        "grids": [verdict_grid] if of_experiment and verdicts else [],
        "evidence": [one for one in evidence if one.rows],
        "notes": [typeset(str(note)) for note in _field(verification, "notes", ())],
        "about_bounds": [typeset(text) for text in bounds[0]["about"]] if bounds else [],
        "dataset": dataset,
    }


def mark(result: Mapping[str, str]) -> Markup:
    """An outcome as a word with its sign."""
    signed = '<span class="mark {}"><span class="sign" aria-hidden="true">{}</span>\N{NO-BREAK SPACE}{}</span>'
    return Markup(signed).format(result["style"], result["sign"], result["text"])


def claim_row(claim: Any) -> dict[str, Any]:
    """One line about one step: the sentence, and how it came out."""
    text = str(_field(claim, "reason", "") or _field(claim, "claim", ""))
    plain = text[:1].upper() + text[1:] + "."
    return {"plain": plain, "text": typeset(plain), "outcome": outcome(_field(claim, "outcome"))}


def is_experiment(value: Any) -> bool:
    """Whether a result brings a figure of its own."""
    return hasattr(value, "experiment") and callable(getattr(value, "figure", None))


def _reasons(assumptions: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> str:
    """What stands in the way of a clean result, by name."""
    unmet = [row["name"] for row in assumptions if row["met"]["style"] == "unmet"]
    violated = [row["claim"] for row in verdicts if row["outcome"]["style"] == "violated"]
    texts = [f"Not met: {_listed(unmet, ', ')}."] if unmet else []
    texts += [f"Violated: {_listed(violated, '; ')}."] if violated else []
    return " ".join(texts)


def _share(verdicts: Any) -> list[str]:
    """How many verdicts hold, where some do and some do not."""
    outcomes = [outcome(_field(verdict, "outcome"))["style"] for verdict in verdicts]
    held = outcomes.count("holds")
    return [f"{held} of {len(outcomes)} verdicts hold."] if 0 < held < len(outcomes) else []


def _listed(names: list[str], between: str, limit: int = 4) -> str:
    """The first names, the rest counted."""
    return between.join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


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
        "name": _words(str(_field(value, "name", None) or name)),
        **{key: _field(value, key) for key in ("value", "residual", "tolerance")},
        "met": {"text": "not measured", "style": "unmet", "sign": "?"}
        if met is None
        else {"text": "met", "style": "holds", "sign": "✓"}
        if met
        else {"text": "not met", "style": "unmet", "sign": "?"},
        "meaning": str(_field(value, "meaning", "") or ""),
    }


def _assumption_grid(name: str, rows: list[dict[str, Any]]) -> Grid:
    """The table of all assumptions."""
    headings = ["assumption", "met?", "value", "residual", "tolerance", "meaning"]
    cells = [
        [
            row["name"],
            Cell(mark(row["met"]), row["met"]["text"]),
            *(Cell(number(row[key]), row[key]) for key in ("value", "residual", "tolerance")),
            Cell(typeset(row["meaning"]), row["meaning"]),
        ]
        for row in rows
    ]
    return grid(f"{name}: assumptions", headings, cells, words=[1], texts=[5], title="Assumptions")


def _verdict_grid(name: str, title: str, rows: list[dict[str, Any]], note: str = "") -> Grid:
    """The table of verdicts."""
    headings = ["claim", "outcome", "lower", "measured", "upper", "least slack", "reference"]
    cells = []
    for row in rows:
        why = Markup("<br>").join(filter(None, [row["reference"], typeset(row["reason"])]))
        told = "; ".join(filter(None, [row["reference"], row["reason"]]))
        numbers = [row[key] for key in ("lower", "measured", "upper", "slack")]
        result = Cell(mark(row["outcome"]), row["outcome"]["text"])
        cells.append([Cell(typeset(row["claim"]), row["claim"]), result, *numbers, Cell(why, told)])
    return grid(f"{name}: {title.lower()}", headings, cells, words=[1], texts=[6], title=title, note=note)


def _verdict_rows(verdicts: Any, assumptions: list[str]) -> list[dict[str, Any]]:
    """One row for each claim and outcome; layers in a row that share both share the row, with the range of numbers."""
    entries = [value for _, value in _named(verdicts)]
    rows = []
    for (claim, reference, result, reason), group in groupby(entries, _shared):
        alike = list(group)
        for name in sorted(assumptions, key=len, reverse=True):  # the longest first: names contain one another
            reason = reason.replace(name, _words(name))
        reason = _listed(reason.split("; "), "; ")
        row = {"claim": claim + _layers(alike), "reference": reference, "reason": reason, "outcome": outcome(result)}
        ends = [_ends([_side(_field(value, key)) for value in alike]) for key in ("lower", "measured", "upper")]
        row |= dict(zip(("lower", "measured", "upper"), _ranges(ends), strict=True))
        row["slack"] = _least([_field(value, "slack") for value in alike])
        rows.append(row)
    return rows


def _shared(value: Any) -> tuple[str, str, str, str]:
    """What verdicts of one row have in common."""
    result = _field(value, "outcome", "")
    texts = (
        _field(value, "claim"),
        _field(value, "reference"),
        getattr(result, "value", result),
        _field(value, "reason"),
    )
    claim, reference, result, reason = (str(text or "") for text in texts)
    return claim, reference, result, reason


def _layers(verdicts: list[Any]) -> str:
    """The layers that the claims are about, or how many claims there are."""
    layers = [_field(value, "layer") for value in verdicts]
    if any(layer is None for layer in layers):
        return "" if len(layers) == 1 else f" ({len(layers)} times)"
    return f", ℓ = {layers[0]}" if len(layers) == 1 else f", ℓ = {min(layers)} … {max(layers)}"


def _side(value: Any) -> Any:
    """A side of a bracket; one at infinity is a side that the claim does not have."""
    return np.nan if value is None or (isinstance(value, float) and np.isinf(value)) else value


def _ends(values: list[Any]) -> tuple[float, float]:
    """The least and the largest of several numbers; NaN where none is known."""
    flat = np.concatenate([np.ravel(np.asarray(value, dtype=np.float64)) for value in values])
    known = flat[~np.isnan(flat)]
    return (float(known.min()), float(known.max())) if known.size else (np.nan, np.nan)


def _ranges(pairs: list[tuple[float, float]], digits: int = 4) -> list[Cell]:
    """Ranges with the same decimals, where none needs a power of ten; one number where both ends are the same."""
    alike = together([end for pair in pairs for end in pair], digits)
    apart = any("×" in text for text in alike)
    texts = iter([text for pair in pairs for text in together(pair, digits)] if apart else alike)
    shown = zip(pairs, zip(texts, texts, strict=True), strict=True)
    return [
        Cell(low if low == high else f"{low} … {high}", pair[0] if low == high else pair) for pair, (low, high) in shown
    ]


def _least(values: list[Any]) -> Cell:
    """The smallest slack, which decides."""
    known = [float(value) for value in values if value is not None and not np.isnan(value)]
    return Cell(number(min(known), 2), min(known)) if known else Cell("–", None)


def _words(name: str) -> str:
    """The name of an assumption for reading."""
    return name.replace("_", " ")


def bound_tables(dataset: Any, name: str = "") -> list[dict[str, Any]]:
    """A table for each measured variable that has bounds: one row per layer, with each bracket and how tight it is."""
    if not isinstance(dataset, xr.Dataset):
        return []
    tables = []
    for quantity, bounds in bounds_in(dataset).items():
        known = [bound for bound in bounds if any(_is_known(dataset, side) for side in (bound.lower, bound.upper))]
        if known:
            tables.append(_bound_table(dataset, quantity, known, name))
    return tables


def _is_known(dataset: xr.Dataset, name: str) -> bool:
    """Whether a side of a bound exists and is defined somewhere."""
    return name in dataset.data_vars and bool(dataset[name].notnull().any())


def _bound_table(dataset: xr.Dataset, quantity: str, bounds: list[Bound], name: str) -> dict[str, Any]:
    """The table of one measured variable, and what its bounds are."""
    measured = dataset[quantity].values.astype(np.float64)
    names = [str(name) for name in (dataset["layer"].values if "layer" in dataset.coords else range(measured.size))]
    if "layer_name" in dataset.coords:
        names = [f"{name}, {word}" for name, word in zip(names, dataset["layer_name"].values, strict=True)]
    side = "upper" if any(bound.upper for bound in bounds) else "lower"
    known = np.flatnonzero(~np.isnan(measured))
    headings, columns = ["layer ℓ", "measured"], [[_layer(names[at]) for at in known], _column(measured[known], 4)]
    for bound in bounds:
        headings += [bound.label, f"{side} ÷ measured"]
        columns += _brackets(dataset, bound, side, known, measured)
    words = str(dataset[quantity].attrs.get("long_name", quantity.replace("_", " ")))
    title = f"Bounds on the {words}"
    return {
        "quantity": quantity,
        "heading": words,
        "about": [f"{bound.label.capitalize()}: {bound.about}" for bound in bounds if bound.about],
        "grid": grid(f"{name}: {title.lower()}", headings, zip(*columns, strict=True), title=title),
    }


def _layer(name: str) -> Cell:
    """A layer's name; one that the library gave, as of a bare matrix, is a symbol."""
    return Cell(typeset(name) if ", W_" in name else name, name)


def _column(values: np.ndarray, digits: int = 3) -> list[Cell]:
    """Numbers below each other."""
    return [Cell(*pair) for pair in zip(together(values.tolist(), digits), values.tolist(), strict=True)]


def _brackets(
    dataset: xr.Dataset, bound: Bound, side: str, known: np.ndarray, measured: np.ndarray
) -> list[list[Cell]]:
    """One bracket at each layer, and how tight it is."""
    low, high = (
        dataset[name].values.astype(np.float64)[known] if name else np.full(known.size, np.nan)
        for name in (bound.lower, bound.upper)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        tight = np.where(measured[known] > 0, (high if side == "upper" else low) / measured[known], np.nan)
    if side == "lower":
        return [_column(low), _column(tight)]
    texts = iter(together(np.column_stack([low, high]).ravel().tolist()))
    brackets = [
        Cell(_bracket(first, last), (float(one), float(other)))
        for one, other, (first, last) in zip(low, high, zip(texts, texts, strict=True), strict=True)
    ]
    return [brackets, _column(tight)]


def _bracket(low: str, high: str) -> str:
    """Both ends, the one that is known, or a dash."""
    known = [f"{mark}{end}" for mark, end in (("≥ ", low), ("≤ ", high)) if end != "–"]
    return f"{low} … {high}" if len(known) == 2 else "".join(known) or "–"

"""What the numbers of a report are: names, formulas, ranges and limits, as their variables say."""

import math
from collections.abc import Mapping
from typing import Any

import xarray as xr
from markupsafe import Markup, escape

from neurocollapse.report.curves import of_collapse, of_margin
from neurocollapse.report.formulas import formula
from neurocollapse.report.numbers import interval, number
from neurocollapse.report.tables import cells
from neurocollapse.support.dataset import heading, last_defined, limit, tabulated


def definitions(analyses: Mapping[str, xr.Dataset]) -> list[dict[str, Any]]:
    """Heading, symbol, name and text of every number that the tables show and that says something of itself.

    Networks that were measured by different conventions have a line each.
    """
    found: dict[str, dict[str, Any]] = {}
    for dataset in analyses.values():
        for name in (*tabulated(dataset), *_totals(dataset)):
            attrs = dataset[name].attrs
            if not attrs:
                continue
            entry = found.setdefault(
                name,
                {
                    "heading": heading(dataset, name),
                    "symbol": symbol(dataset, name),
                    "name": str(attrs.get("long_name", "")),
                    "conventions": [],
                    "facts": _facts(dataset, name),
                    "reference": str(attrs.get("reference", "")),
                },
            )
            convention = str(attrs.get("convention", ""))
            if convention and convention not in entry["conventions"]:
                entry["conventions"].append(convention)
    return list(found.values())


def collapse_rows(analyses: Mapping[str, xr.Dataset]) -> list[list[Any]]:
    """Measure, value at the last layer of each network, limit at collapse, direction, definition."""
    first: dict[str, xr.Dataset] = {}
    for dataset in analyses.values():
        for name in of_collapse(dataset):
            first.setdefault(name, dataset)
    rows: list[list[Any]] = []
    for name, dataset in first.items():
        attrs = dataset[name].attrs
        values = [cells(one[name])[-1] if name in one.data_vars else "–" for one in analyses.values()]
        ends = [number(limit(dataset, name)), str(attrs.get("better", "–"))]
        words = [escape(str(attrs.get("long_name", ""))), symbol(dataset, name)]
        rows.append([heading(dataset, name), *values, *ends, Markup(": ").join(filter(None, words))])
    return rows


def margin_rows(analyses: Mapping[str, xr.Dataset]) -> list[list[Any]]:
    """Number, value at the head of each network, what it is; nothing where no network has a head that was measured."""
    heads = {name: last_defined(one, "margin_spread") for name, one in analyses.items()}
    first: dict[str, xr.Dataset] = {}
    for head in heads.values():
        if head is not None:
            first |= {name: head for name in of_margin(head) if name not in first}
    return [
        [
            heading(dataset, name),
            *("–" if head is None or name not in head else cells(head[name])[0] for head in heads.values()),
            Markup(": ").join(filter(None, [escape(dataset[name].attrs["long_name"]), symbol(dataset, name)])),
        ]
        for name, dataset in first.items()
    ]


def symbol(dataset: xr.Dataset, name: str) -> Markup:
    """The symbol of a variable, or nothing."""
    tex = str(dataset[name].attrs.get("symbol", ""))
    return formula(tex) if tex else Markup("")


def _facts(dataset: xr.Dataset, name: str) -> str:
    """Range, limit at collapse and direction in words."""
    attrs = dataset[name].attrs
    low, high = (float(attrs.get(key, math.nan)) for key in ("valid_min", "valid_max"))
    known = {
        (True, True): interval(low, high),
        (True, False): f"at least {number(low)}",
        (False, True): f"at most {number(high)}",
    }
    facts = [known.get((not math.isnan(low), not math.isnan(high)), "")]
    if not math.isnan(limit(dataset, name)):
        facts.append(f"{number(limit(dataset, name))} at full collapse")
    if better := attrs.get("better"):
        facts.append(f"{better} is more collapsed")
    units = str(attrs.get("units", "1"))
    return "; ".join(filter(None, [*facts, "" if units in ("", "1") else f"in {units}"]))


def _totals(dataset: xr.Dataset) -> list[str]:
    """Numbers of the whole network that have a heading."""
    return [
        str(name)
        for name, one in dataset.data_vars.items()
        if one.dims in ((), ("bound",)) and one.attrs.get("heading")
    ]

"""What the numbers of a report are: names, formulas, ranges and limits, as their variables say."""

import math
from collections.abc import Mapping
from typing import Any

import xarray as xr
from markupsafe import Markup

from neurocollapse.report.curves import of_collapse, of_margin
from neurocollapse.report.grids import Cell, Grid, at_last_layer, grid, named
from neurocollapse.support.dataset import heading, last_defined, limit, tabulated
from neurocollapse.support.formulas import typeset
from neurocollapse.support.mathml import mathml
from neurocollapse.support.numbers import interval, number


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
                    "heading": typeset(heading(dataset, name)),
                    "symbol": symbol(dataset, name),
                    "name": typeset(str(attrs.get("long_name", ""))),
                    "conventions": [],
                    "facts": _facts(dataset, name),
                    "reference": typeset(str(attrs.get("reference", ""))),
                },
            )
            convention = str(attrs.get("convention", ""))
            if convention and typeset(convention) not in entry["conventions"]:
                entry["conventions"].append(typeset(convention))
    return list(found.values())


def collapse_grid(analyses: Mapping[str, xr.Dataset]) -> Grid | None:
    """Measure, value at the last layer of each network, limit at collapse, direction, definition."""
    first: dict[str, xr.Dataset] = {}
    for dataset in analyses.values():
        for name in of_collapse(dataset):
            first.setdefault(name, dataset)
    rows = [
        [
            named(dataset, name),
            *at_last_layer(analyses.values(), name),
            limit(dataset, name),
            str(dataset[name].attrs.get("better", "–")),
            _definition(dataset, name),
        ]
        for name, dataset in first.items()
    ]
    headings = ["measure", *_of_each(analyses), "limit", "more collapsed when", "definition"]
    count = len(analyses)
    title = "All measures and their limits"
    return grid(title, headings, rows, words=[count + 2], texts=[count + 3]) if rows else None


def margin_grid(analyses: Mapping[str, xr.Dataset]) -> Grid | None:
    """Number, value at the head of each network, what it is; nothing where no network has a head that was measured."""
    heads = [last_defined(one, "margin_spread") for one in analyses.values()]
    known = [xr.Dataset() if head is None else head for head in heads]
    first: dict[str, xr.Dataset] = {}
    for head in known:
        first |= {name: head for name in of_margin(head) if name not in first}
    rows = [[named(head, name), *at_last_layer(known, name), _definition(head, name)] for name, head in first.items()]
    headings = ["number", *_of_each(analyses), "definition"]
    return grid("The margin and its factors", headings, rows, texts=[len(analyses) + 1]) if rows else None


def _of_each(analyses: Mapping[str, xr.Dataset]) -> list[str]:
    """The headings of a column for each network."""
    return ["value"] if len(analyses) == 1 else list(analyses)


def _definition(dataset: xr.Dataset, name: str) -> Cell:
    """What a number is, in words and as a formula."""
    attrs = dataset[name].attrs
    words = [typeset(str(attrs.get("long_name", ""))), symbol(dataset, name)]
    plain = [str(attrs.get(key, "")) for key in ("long_name", "symbol")]
    return Cell(Markup(": ").join(filter(None, words)), ": ".join(filter(None, plain)))


def symbol(dataset: xr.Dataset, name: str) -> Markup:
    """The symbol of a variable, or nothing."""
    tex = str(dataset[name].attrs.get("symbol", ""))
    return mathml(tex) if tex else Markup("")


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

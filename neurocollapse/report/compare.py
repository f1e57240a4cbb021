"""Two networks, or two steps of one, side by side: layer by layer, number by number, and which is more collapsed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from neurocollapse.report.figures import Picture, picture
from neurocollapse.report.grids import Cell, Grid, grid, named
from neurocollapse.report.summary import place
from neurocollapse.report.tables import digits_of
from neurocollapse.support.dataset import heading, labels, layer_names, leading, shown
from neurocollapse.support.numbers import number, together

ALIKE = 0.05
"""Values of D that differ by less than this share count as alike."""
_BY_NAME, _BY_PLACE, _BY_ENDS = "name", "place", "ends"


@dataclass(frozen=True)
class Comparison:
    """What the section on a comparison shows."""

    lead: str
    note: str
    grids: list[Grid] = field(default_factory=list)
    evidence: list[Grid] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class _Pair:
    """Two networks, each with as many layers as the other, and names for these layers."""

    names: tuple[str, str]
    datasets: tuple[xr.Dataset, xr.Dataset]
    layers: list[str]
    matched: str

    def values(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A variable of both, as float64."""
        first, second = (np.asarray(one[name].values, dtype=np.float64) for one in self.datasets)
        return first, second


def to_compare(analyses: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The two networks that are compared; of one network with several steps, its first and its last step.

    Raises
    ------
    ValueError
        If there are more than two networks, or one without steps.
    """
    if len(analyses) == 1:
        ((name, one),) = analyses.items()
        dim = leading(one)
        if dim is not None and one.sizes[dim] > 1:
            steps = labels(one, dim)
            return {f"{name}, {dim} {steps[at]}": one.isel({dim: at}) for at in (0, -1)}
    if len(analyses) != 2:
        shown_names = f" ({', '.join(analyses)})" if analyses else ""
        raise ValueError(
            f"`compare=True` needs two networks, or one with several steps, got {len(analyses)}{shown_names}; "
            "pass two results of nc.analyze"
        )
    return dict(analyses)


def comparison_of(latest: Mapping[str, xr.Dataset]) -> Comparison:
    """Verdict and tables of two networks, each of one step."""
    pair = _matched(latest)
    names = [name for name in shown(pair.datasets[0]) if name in shown(pair.datasets[1])]
    grids = [_layers_of_compression(pair)] if "compression" in names else []
    grids += [_at_the_end(pair, names)] if names else []
    evidence = [_layers_of(pair, name) for name in names if name != "compression"]
    return Comparison(_verdict(pair) if "compression" in names else "", _note(pair, latest), grids, evidence)


def comparison_pictures(latest: Mapping[str, xr.Dataset]) -> list[Picture]:
    """How many times lower D of one network is, layer by layer."""
    from neurocollapse import plots  # here, not above: importing the library must not cost importing matplotlib

    pair = _matched(latest)
    if not all("compression" in one.data_vars for one in pair.datasets) or len(pair.layers) < 2:
        return []
    first, second = pair.values("compression")
    factor = _over(second, first)
    if not np.isfinite(factor).any():
        return []
    one, other = pair.names
    about = {"long_name": "ratio of both compressions", "heading": f"{other} ÷ {one}", "valid_min": 0.0}
    dataset = xr.Dataset({"compression_ratio": ("layer", factor, about)}, {"layer": pair.layers})
    ax: Any = plots.quantities(dataset, "compression_ratio", ax=plots.offscreen_axes())
    ax.axhline(1.0, color="#6B6B6B", linewidth=1.0)
    title = f"D of {other} over D of {one}, layer by layer"
    caption = f"Below the line at 1 {other} is more collapsed, above it {one}."
    return [picture(ax.figure, title=title, caption=caption, prefix="compare")]


def _matched(latest: Mapping[str, xr.Dataset]) -> _Pair:
    """Layers of the same name; else those at the same place, where there are equally many; else both ends."""
    (first_name, first), (second_name, second) = latest.items()
    mine, theirs = layer_names(first), layer_names(second)
    both = [name for name in mine if name in theirs]
    if 2 * len(both) >= min(len(mine), len(theirs)):
        places = [[names.index(name) for name in both] for names in (mine, theirs)]
        layers, matched = both, _BY_NAME
    elif len(mine) == len(theirs):
        places = [list(range(len(mine)))] * 2
        layers, matched = [f"{one} | {other}" for one, other in zip(mine, theirs, strict=True)], _BY_PLACE
    else:
        places = [[0, -1], [0, -1]]
        layers, matched = [f"{mine[at]} | {theirs[at]}" for at in (0, -1)], _BY_ENDS
    cut = (first.isel(layer=places[0]), second.isel(layer=places[1]))
    return _Pair((first_name, second_name), cut, layers, matched)


def _verdict(pair: _Pair) -> str:
    """Which network is more collapsed at how many layers, and by how much at the last one."""
    first, second = pair.values("compression")
    known = np.isfinite(first) & np.isfinite(second)
    lower = [int((known & (one < other * (1 - ALIKE))).sum()) for one, other in ((first, second), (second, first))]
    total, end = int(known.sum()), place(pair.layers[-1])
    if not total:
        return "No layer has a compression D in both networks."
    best = int(lower[1] > lower[0])
    if not any(lower):
        text = f"Both networks are compressed alike at {_counted(total, total)}"
    elif lower[0] == lower[1]:
        text = f"Either network is more collapsed at {_counted(lower[0], total)}"
    else:
        text = f"{pair.names[best]} is more collapsed than {pair.names[1 - best]} at {_counted(lower[best], total)}"
    if not known[-1]:
        return f"{text}."
    ends = float(first[-1]), float(second[-1])
    if min(ends) >= (1 - ALIKE) * max(ends):
        return f"{text}; at {end} they are alike (D = {number(ends[0])} and {number(ends[1])})."
    low = int(ends[1] < ends[0])
    size = f", {number(ends[1 - low] / ends[low], 2)} times lower" if ends[low] > 0 else ", exact collapse"
    but = "but " if any(lower) and lower[0] != lower[1] and low != best else ""
    return f"{text}; {but}at {end} D of {pair.names[low]} is {number(ends[low])} against {number(ends[1 - low])}{size}."


def _counted(count: int, total: int) -> str:
    """So many of all layers."""
    if count == total:
        return f"all {total} layers" if total > 1 else "the only layer that can be compared"
    return f"{count} of {total} layers"


def _note(pair: _Pair, latest: Mapping[str, xr.Dataset]) -> str:
    """How layers were matched, and what is left out."""
    if pair.matched == _BY_PLACE:
        return "The networks have layers of different names; they are compared in their order."
    if pair.matched == _BY_ENDS:
        return "The networks have different layers; only the first and the last ones are compared."
    alone = [
        f"{name} has {', '.join(extra[:6])}{' and more' if len(extra) > 6 else ''}"
        for name, one in latest.items()
        if (extra := [layer for layer in layer_names(one) if layer not in pair.layers])
    ]
    return f"Layers of one network only are left out: {'; '.join(alone)}." if alone else ""


def _layers_of_compression(pair: _Pair) -> Grid:
    """D of both networks at each layer, their ratio, which is lower, and whether the intervals are apart."""
    one, other = pair.names
    first, second = pair.values("compression")
    columns = [_column(first, second), _column(_over(second, first))]
    which = _which(pair, first, second, better="lower")
    headings = ["layer", f"D of {one}", f"D of {other}", f"{other} ÷ {one}", "lower"]
    rows = [[name, *cells, which[at]] for at, (name, *cells) in enumerate(_rows(pair, columns))]
    if all("compression_interval" in dataset.data_vars for dataset in pair.datasets):
        headings.append("95 % intervals")
        rows = [[*row, text] for row, text in zip(rows, _apart(pair), strict=True)]
    return grid("Compression D of both, layer by layer", headings, rows, words=range(4, len(headings)))


def _layers_of(pair: _Pair, name: str) -> Grid:
    """Another number of both networks at each layer, its difference, and which is more collapsed."""
    one, other = pair.names
    dataset = pair.datasets[0]
    first, second = pair.values(name)
    digits = digits_of(dataset[name])
    columns = [_column(first, second, digits=digits), _column(second - first, digits=digits)]
    better = _better(dataset, name)
    headings = ["layer", one, other, "difference"]
    rows = _rows(pair, columns)
    if better:
        which = _which(pair, first, second, better=better)
        headings.append(f"more collapsed ({better})")
        rows = [[*row, text] for row, text in zip(rows, which, strict=True)]
    return grid(f"{heading(dataset, name)} of both, layer by layer", headings, rows, words=range(4, len(headings)))


def _at_the_end(pair: _Pair, names: list[str]) -> Grid:
    """Every number at the last layer of both, its difference, and at how many layers each is more collapsed."""
    one, other = pair.names
    rows: list[list[Any]] = []
    for name in names:
        dataset = pair.datasets[0]
        first, second = pair.values(name)
        ends = [first[-1], second[-1], second[-1] - first[-1]]
        better = _better(dataset, name)
        which = _which(pair, first, second, better=better) if better else ["–"]
        counts = [f"{which.count(network)} of {len(which)}" if better else "–" for network in pair.names]
        cells = [Cell(*cell) for cell in zip(together(ends, digits_of(dataset[name])), ends, strict=True)]
        rows.append([named(dataset, name), *cells, which[-1], *counts])
    last = [f"layers at which {network} is" for network in pair.names]
    headings = ["at the last layer", one, other, "difference", "more collapsed", *last]
    return grid("Every number of the last layer, and who is more collapsed", headings, rows, words=[4, 5, 6])


def _column(*values: np.ndarray, digits: int = 3) -> list[list[Cell]]:
    """Columns that share their decimals."""
    flat = np.concatenate(values)
    cells = [Cell(*pair) for pair in zip(together(flat.tolist(), digits), flat.tolist(), strict=True)]
    size = len(values[0])
    return [cells[start : start + size] for start in range(0, len(cells), size)]


def _rows(pair: _Pair, columns: list[list[list[Cell]]]) -> list[list[Any]]:
    """The layers' names, and the cells of all columns beside them."""
    return [list(row) for row in zip(pair.layers, *(one for group in columns for one in group), strict=True)]


def _which(pair: _Pair, first: np.ndarray, second: np.ndarray, *, better: str) -> list[str]:
    """The network with the better value at each layer; both where they are equal, a dash where one is undefined."""
    sign = 1.0 if better == "higher" else -1.0
    texts = []
    for one, other in zip(sign * first, sign * second, strict=True):
        unknown = np.isnan(one) or np.isnan(other)
        texts.append("–" if unknown else "both" if one == other else pair.names[int(other > one)])
    return texts


def _better(dataset: xr.Dataset, name: str) -> str:
    """Which direction is more collapsed; nothing for numbers in units of the features, whose scales differ."""
    attrs = dataset[name].attrs
    return str(attrs.get("better", "")) if str(attrs.get("units", "1")) in ("", "1") else ""


def _over(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """A ratio; NaN for 0/0, infinite over zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(upper / lower)


def _apart(pair: _Pair) -> list[str]:
    """Whether the intervals over samples of both networks overlap at each layer."""
    first, second = (
        one["compression_interval"].transpose("layer", "bound").values.astype(np.float64) for one in pair.datasets
    )
    texts = []
    for (low, high), (other_low, other_high) in zip(first, second, strict=True):
        unknown = np.isnan([low, high, other_low, other_high]).any()
        texts.append("–" if unknown else "apart" if high < other_low or other_high < low else "overlap")
    return texts

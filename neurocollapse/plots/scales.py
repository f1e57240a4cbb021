"""Axes that fit the data: layer names that never overlap, logarithms that survive zeros and infinities."""

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogFormatterMathtext,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from neurocollapse.plots.datasets import positions
from neurocollapse.plots.frames import fitted, letters_that_fit
from neurocollapse.plots.style import GREY, colour, marker, shortened
from neurocollapse.support.dataset import labels, layer_names

_MOST_TICKS = 12
_MOST_IN_RAMP = 12
_CROWDED = 24
_HANDLE = 3.0
"""Room for a handle in front of a legend's text, in letters' heights."""
_MOST_ROWS = 8
"""Rows of marks at an edge, above each other."""


def layer_axis(
    ax: Axes,
    datasets: Sequence[xr.Dataset],
    *,
    relative: bool = False,
    most: int = _MOST_TICKS,
    under: Axes | Figure | None = None,
) -> None:
    """Put layer names under the axis; depths where the networks do not share their names, or relative ones.

    The label is as wide as what it stands `under`, by default the axes.
    """
    names, where = layer_names(datasets[0]), positions(datasets[0])
    if relative:
        ax.set_xlim(-0.03, 1.03)
        ax.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "¼", "½", "¾", "1"])
        ax.set_xlabel("relative depth  (0: first layer, 1: last)")
        return
    shared = all(layer_names(other) == names and np.array_equal(positions(other), where) for other in datasets[1:])
    if shared:
        short, head, tail = _distinct_parts(names)
        name_ticks(ax, where, short, most=most)
        room = int(1.1 * letters_that_fit(under or ax, mpl.rcParams["axes.labelsize"])) - 9
        pattern = f"layer  ({_cut_at_dots(head, tail, room)})" if head or tail else "layer"
        ax.set_xlabel(pattern, parse_math=False)
        return
    where = np.unique(np.concatenate([positions(dataset) for dataset in datasets]))
    name_ticks(ax, where, [f"{depth:g}" for depth in where], most=most)
    ax.set_xlabel("layer, in order of first firing")


def step_axis(ax: Axes, datasets: Sequence[xr.Dataset], dim: str, *, most: int = _MOST_TICKS) -> None:
    """Put the steps under the axis: numbers where they have them, else their names."""
    where, names = positions(datasets[0], dim), labels(datasets[0], dim)
    if dim in datasets[0].coords and np.issubdtype(datasets[0][dim].dtype, np.number):
        whole = datasets[0][dim].dtype.kind in "iu"
        ax.xaxis.set_major_locator(MaxNLocator(min(6, most), integer=whole, steps=[1, 2, 5, 10]))
    elif all(labels(other, dim) == names for other in datasets[1:]):
        name_ticks(ax, where, names, most=most)
    ax.set_xlabel(dim, parse_math=False)


def name_ticks(ax: Axes, where: np.ndarray, names: Sequence[str], *, most: int = _MOST_TICKS) -> None:
    """Label some positions at most, the first and the last among them, and turn the names where they are long."""
    kept = thinned(len(names), most)
    texts = [shortened(names[index], 18) for index in kept]
    ax.set_xticks([float(where[index]) for index in kept], texts, parse_math=False)
    width = 72 * ax.bbox.width / ax.figure.dpi
    if max((len(text) for text in texts), default=0) * 5.5 > width / max(len(kept), 1):
        ax.tick_params(axis="x", rotation=40)
        for label in ax.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    if len(where):
        margin = max(0.35, 0.04 * float(np.ptp(where)))
        ax.set_xlim(float(where.min()) - margin, float(where.max()) + margin)


def _distinct_parts(names: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Names without the dotted parts that all share (cutting would leave only those), and those before and behind."""
    parts = [name.split(".") for name in names]
    limit = min(map(len, parts), default=1) - 1
    head = next((i for i in range(limit) if len({part[i] for part in parts}) > 1), limit)
    tail = next((i for i in range(limit - head) if len({part[-1 - i] for part in parts}) > 1), limit - head)
    if len(names) < 2 or head + tail == 0:
        return list(names), [], []
    short = [".".join(part[head : len(part) - tail]) for part in parts]
    return short, parts[0][:head], parts[0][len(parts[0]) - tail :]


def _cut_at_dots(head: list[str], tail: list[str], limit: int) -> str:
    """The pattern `head.*.tail`; where it is longer than the limit, without the parts furthest from the star."""
    before, behind = "".join(f"{part}." for part in head), "".join(f".{part}" for part in tail)
    while len(before) + len(behind) >= limit and (head or tail):
        if not tail or len(before) > len(behind):
            head = head[1:]
            before = "…" + "".join(f"{part}." for part in head)
        else:
            tail = tail[:-1]
            behind = "".join(f".{part}" for part in tail) + "…"
    return f"{before}*{behind}"


def thinned(count: int, most: int = _MOST_TICKS) -> list[int]:
    """Evenly spaced indices with both ends, at most twelve, or so many."""
    if count <= most:
        return list(range(count))
    return sorted({round(index) for index in np.linspace(0, count - 1, most)})


def log_line(ax: Axes, where: np.ndarray, values: np.ndarray, **style: object) -> Line2D:
    """A line over positive finite values; gaps elsewhere, because a logarithm has no place for them."""
    shown = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    return linear_line(ax, where, shown, **style)


def linear_line(ax: Axes, where: np.ndarray, values: np.ndarray, **style: object) -> Line2D:
    """A line over finite values, with smaller markers where layers are many."""
    shown = np.where(np.isfinite(values), values, np.nan)
    if shown.size > _CROWDED:
        style["markersize"] = 2.5
    return ax.plot(where, shown, **style)[0]  # type: ignore[arg-type]  # style is passed through unread


def mean_line(
    ax: Axes, where: np.ndarray, values: xr.DataArray, over: str, index: int, words: str = "", **style: Any
) -> Line2D:
    """The mean over one dimension as a line, by default in the colour of a number; a band from least to greatest."""
    look = {"color": colour(index), "marker": marker(index), "label": words or "_nolegend_", **style}
    low, high = (values.reduce(of, over).values for of in (np.min, np.max))
    ax.fill_between(where, low, high, color=look["color"], alpha=0.12, linewidth=0)
    return ax.plot(where, values.mean(over).values, **look)[0]


def log_scale(ax: Axes, series: Sequence[np.ndarray]) -> None:
    """Make the vertical axis logarithmic with limits from the positive finite values of ``series``."""
    values = np.concatenate([np.ravel(one) for one in series]) if series else np.empty(0)
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (positive.min(), positive.max()) if positive.size else (0.1, 10.0)
    span = max(np.log10(high) - np.log10(low), 0.3)
    zeros, infinities = bool((values == 0).any()), bool(np.isposinf(values).any())
    below, above = (0.22 if marked else 0.08 for marked in (zeros, infinities))
    bottom, top = np.log10(low) - span * below, np.log10(high) + span * above
    ax.set_ylim(10.0 ** max(bottom, -200.0), 10.0 ** min(top, 200.0))  # tick locators look a third further out
    ax.set_yscale("log")  # after the limits: autoscaling in between overflows on values near the end of the range
    log_ticks(ax)


def log_ticks(ax: Axes) -> None:
    """Powers of ten over a wide range; 1, 2, 5 in plain digits where a decade would leave the axis bare."""
    low, high = ax.get_ylim()
    decades = float(np.log10(high) - np.log10(low))
    ax.yaxis.set_minor_formatter(NullFormatter())
    if decades > 2.2:
        ax.yaxis.set_major_locator(LogLocator(numticks=8))
        ax.yaxis.set_major_formatter(LogFormatterMathtext())
        return
    subs = (1.0, 2.0, 5.0) if decades > 0.7 else tuple(float(digit) for digit in range(1, 10))
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def mark_limits(
    ax: Axes, where: np.ndarray, values: np.ndarray, *, colour: str, words: tuple[str, str], row: int = 0
) -> None:
    """Show exact zeros at the bottom edge and infinities at the top edge, with words for the two if there are any."""
    edges = (
        (values == 0, "v", 0.035, 0.035, "bottom", words[0]),
        (np.isposinf(values), "^", 0.965, -0.035, "top", words[1]),
    )
    for mask, shape, height, step, side, text in edges:
        if not mask.any():
            continue
        level = height + row % _MOST_ROWS * 1.6 * step
        ax.plot(
            where[mask],
            np.full(int(mask.sum()), level),
            linestyle="none",
            marker=shape,
            color=colour,
            transform=ax.get_xaxis_transform(),
            label="_nolegend_",
        )
        if text:
            ax.annotate(
                text,
                (float(where[mask].max()), level + step),
                xycoords=ax.get_xaxis_transform(),
                horizontalalignment="right" if float(where[mask].max()) > float(np.mean(where)) else "left",
                verticalalignment="bottom" if side == "bottom" else "top",
                fontsize="small",
                color=GREY,
            )


def ramp_handle(inks: Sequence[str]) -> tuple[Line2D, ...]:
    """The colours of a ramp beside each other, at most twelve of them, as one entry of a legend."""
    return tuple(Line2D([], [], color=ink, linewidth=4.0) for ink in inks[:: -(-len(inks) // _MOST_IN_RAMP)])


def legend_above(
    ax: Axes, entries: Sequence[tuple[Artist | tuple[Artist, ...], str]], *, columns: int = 1
) -> Legend | None:
    """The legend above the axes, where it can hide no data whatever the data are; artists in a tuple share an entry."""
    if not entries:
        return None
    letters = letters_that_fit(ax, handle=_HANDLE)
    return fitted(
        lambda count: ax.legend(
            [handle for handle, _ in entries],
            [textwrap.fill(text, letters, break_long_words=False) for _, text in entries],
            loc="lower left",
            bbox_to_anchor=(0.0, 1.01),
            borderaxespad=0.0,
            borderpad=0.1,
            labelspacing=0.3,
            columnspacing=1.0,
            ncols=count,
            handler_map={tuple: HandlerTuple(ndivide=None, pad=0.0)},
        ),
        room=1.05 * float(ax.bbox.width),
        most=columns,
    )

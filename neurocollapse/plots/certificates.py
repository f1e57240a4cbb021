"""Bounds beside measurements: what a theorem allows at each layer and what the network does."""

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from neurocollapse.plots.datasets import axis_label, layer_names, per_layer, symbol
from neurocollapse.plots.frames import panel
from neurocollapse.plots.scales import legend_above, log_scale, name_ticks
from neurocollapse.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LINES,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Width,
)
from neurocollapse.support.bounds import Bound, bounds_in

COLOURS = (ORANGE, BLUE, GREEN, PURPLE, SKY, VERMILLION)
WIDTHS = (5.0, 2.0, 1.6)
LANES = 0.6
"""Part of the room between two layers that all brackets share."""


def bounds(
    dataset: xr.Dataset, *, quantity: str = "decay_ratio", ax: Axes | None = None, width: Width | None = None
) -> Axes:
    """Draw the bounds of theorems as brackets around the measured value of each layer of a linear network.

    A measurement inside its bracket agrees with the bound; one outside violates it. A bracket that is not drawn is
    undefined there, because an assumption failed. Lower bounds that lie below 0 say nothing; an arrow at the bottom
    edge and the number stand for them.

    Parameters
    ----------
    dataset
        `Verification.to_dataset()`: along `layer` the measured quantity and its lower and upper bounds, whose
        attributes say of which theorem they are.
    quantity : str, default "decay_ratio"
        The measured variable, or how its name begins: ``"decay_ratio"``, ``"separation"``, or any other that has
        bounds. Between two-sided bounds on a log axis, above lower bounds on a plain one.
    ax
        Axes to draw in; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 or 6.9 inches, with letters to read at that size.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, or the measured variable is missing.

    Examples
    --------
    >>> import xarray as xr
    >>> ratio = {"decay_ratio": ("layer", [0.06]), "prior_lower": ("layer", [0.05]), "prior_upper": ("layer", [0.07])}
    >>> bounds(xr.Dataset(ratio)).get_yscale()
    'log'
    """
    if not isinstance(dataset, xr.Dataset):
        raise TypeError(
            f"`dataset` must be an xarray.Dataset, got {type(dataset).__name__}; pass verification.to_dataset()"
        )
    bounded = bounds_in(dataset)
    if quantity not in dataset.data_vars:
        quantity = next((name for name in bounded if name.startswith(quantity)), quantity)
    measured, found = per_layer(dataset, quantity), bounded.get(quantity, [])
    draw = _draw_from_below if found and not any(bound.upper for bound in found) else _draw_on_both_sides
    with panel(ax, width) as ax:
        entries = draw(ax, dataset, measured, found)
        _draw_curves(ax, dataset, quantity, entries)
        ax.set_ylabel(axis_label(dataset, quantity))
        name_ticks(ax, np.arange(measured.size, dtype=np.float64), layer_names(dataset))
        ax.set_xlabel(r"layer $\ell$ (0 is the input)")
        legend_above(ax, entries, columns=1 if any(len(text) > 26 for _, text in entries) else 2)
    return ax


def _draw_on_both_sides(
    ax: Axes, dataset: xr.Dataset, measured: np.ndarray, found: list[Bound]
) -> list[tuple[Artist, str]]:
    """Measurements in their brackets."""
    sides = {bound: _sides(dataset, bound) for bound in found}
    log_scale(ax, [measured, *(side for pair in sides.values() for side in pair)])
    bottom, top = ax.get_ylim()
    entries = _draw_measured(ax, measured)
    for bound, (low, high) in sides.items():
        if (low <= high).any():
            lane = _lane(bound, found)
            entries.append(_draw_bracket(ax, bound, lane, np.maximum(low, bottom), np.minimum(high, top)))
    _say_if_bare(ax, entries)
    return entries


def _draw_from_below(
    ax: Axes, dataset: xr.Dataset, measured: np.ndarray, found: list[Bound]
) -> list[tuple[Artist, str]]:
    """Measurements above their lower bounds; bounds below zero are written, not drawn."""
    lows = {bound: per_layer(dataset, bound.lower) for bound in found}
    finite = np.concatenate([one[np.isfinite(one) & (one >= 0)] for one in (measured, *lows.values())])
    floor = max(0.0, float(finite.min()) - 0.12) if finite.size else 0.0
    top = max(1.0, float(finite.max())) if finite.size else 1.0
    ax.set_ylim(floor - 0.08 * (top - floor), top + 0.05)
    entries = _draw_measured(ax, measured)
    for bound, low in lows.items():
        if np.isnan(low).all():
            continue
        lane, drawn = _lane(bound, found), np.where(low >= floor, low, np.nan)
        handle, words = _draw_bracket(ax, bound, lane, drawn, np.where(np.isnan(low), low, top))
        vacuous = low < 0
        if vacuous.any():
            words += f": below 0, so empty, at {int(vacuous.sum())} of {int(np.isfinite(low).sum())} layers"
            _draw_vacuous(ax, bound, lane, np.flatnonzero(vacuous), low[vacuous])
        entries.append((handle, words))
    _say_if_bare(ax, entries)
    return entries


def _sides(dataset: xr.Dataset, bound: Bound) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends at every layer; a side that the bound does not have reaches the edge where the other is."""
    low = per_layer(dataset, bound.lower) if bound.lower else 0.0 * per_layer(dataset, bound.upper)
    high = per_layer(dataset, bound.upper) if bound.upper else np.where(np.isnan(low), low, np.inf)
    return low, high


def _draw_curves(ax: Axes, dataset: xr.Dataset, quantity: str, entries: list[tuple[Artist, str]]) -> None:
    """Lines that theorems draw through the measurements."""
    for name, variable in dataset.data_vars.items():
        if variable.attrs.get("role") == "curve" and variable.attrs.get("of") == quantity:
            values = per_layer(dataset, str(name))
            if np.isfinite(values).any():
                (line,) = ax.plot(np.arange(values.size), values, color=GREY, linestyle=LINES[3], linewidth=1.2)
                entries.append((line, f"{variable.attrs.get('long_name', name)} {symbol(dataset, str(name), '')}"))


def _lane(bound: Bound, found: list[Bound]) -> float:
    """Where a bound's brackets stand beside the measurement; the middle one behind it."""
    room = max(one.place for one in found) + 1
    return LANES / max(room, 3) * (bound.place - (room - 1) / 2)


def _draw_vacuous(ax: Axes, bound: Bound, lane: float, where: np.ndarray, values: np.ndarray) -> None:
    """Arrows at the bottom edge with the number the bound really has."""
    place = ax.get_xaxis_transform()
    style = {"linestyle": "none", "marker": "v", "color": _colour(bound), "transform": place}
    ax.plot(where + lane, np.full(where.size, 0.03), **style)  # type: ignore[arg-type]  # mixed types
    if where.size > 8:
        return
    for index, value in zip(where, values, strict=True):
        ax.annotate(_vacuous_number(value), (index + lane, 0.06), xycoords=place, fontsize="small", ha="center")


def _vacuous_number(value: float) -> str:
    """Two digits of a negative number, with a power of ten where it is long."""
    if value > -1e4:
        return f"{value:.3g}".replace("-", "−")
    digits, power = f"{-value:.0e}".split("e")
    return rf"$-{digits}\times10^{{{int(power)}}}$"


def _say_if_bare(ax: Axes, entries: list[tuple[Artist, str]]) -> None:
    """Words in place of brackets where there is none, because an empty space might be taken for agreement."""
    if len(entries) == 1:
        words = "no bound applies: its assumptions are unmet"
        ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", color=GREY, fontsize="small")


def _draw_measured(ax: Axes, measured: np.ndarray) -> list[tuple[Artist, str]]:
    """The measurement as a black dot in front of everything."""
    (dots,) = ax.plot(np.arange(measured.size), measured, linestyle="none", marker="o", color=BLACK, zorder=5)
    return [(dots, "measured")]


def _draw_bracket(ax: Axes, bound: Bound, lane: float, low: np.ndarray, high: np.ndarray) -> tuple[Artist, str]:
    """Vertical bars from the lower to the upper bound with caps, in the lane of the bound."""
    known = np.isfinite(low) & np.isfinite(high) & (low <= high)
    where = np.arange(low.size)[known] + lane
    width, line = WIDTHS[min(bound.place, len(WIDTHS) - 1)], LINES[1] if bound.compared else LINES[0]
    handle = ax.vlines(where, low[known], high[known], color=_colour(bound), linewidth=width, linestyle=line)
    for edge in (low[known], high[known]):
        ax.hlines(edge, where - 0.08, where + 0.08, color=_colour(bound), linewidth=1.4)
    return handle, bound.label


def _colour(bound: Bound) -> str:
    """The colour of a theorem."""
    return COLOURS[bound.place % len(COLOURS)]

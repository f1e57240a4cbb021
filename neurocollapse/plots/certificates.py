"""Bounds beside measurements: what a theorem allows at each layer and what the network does."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from neurocollapse.plots.datasets import layer_names, per_layer, symbol
from neurocollapse.plots.scales import legend_above, log_scale, name_ticks
from neurocollapse.plots.style import BLACK, BLUE, GREEN, GREY, LINES, ORANGE, axes, context

_LANE = 0.2


@dataclass(frozen=True)
class _Bound:
    """One kind of bound: where it stands beside the measurement and how it looks."""

    words: str
    lower: str
    upper: str
    lane: int
    colour: str
    width: float
    line: Any


_RATIO_BOUNDS = (
    _Bound("a priori certificate", "prior_lower", "prior_upper", -1, ORANGE, 5.0, "-"),
    _Bound("a posteriori certificate", "posterior_lower", "posterior_upper", 0, BLUE, 2.0, "-"),
    _Bound("printed bound", "printed_lower", "printed_upper", 1, GREEN, 1.6, LINES[1]),
)
_SEPARATION_BOUNDS = (
    _Bound("a priori certificate", "separation_prior_lower", "", -1, ORANGE, 5.0, "-"),
    _Bound("printed bound", "separation_printed_lower", "", 1, GREEN, 1.6, LINES[1]),
)


def bounds(dataset: xr.Dataset, *, quantity: str = "decay_ratio", ax: Axes | None = None) -> Axes:
    """Bounds of the theorems as brackets around the measured value of each layer of a linear network.

    A measurement inside its bracket agrees with the bound; one outside violates it. A bracket that is not drawn is
    undefined there, because an assumption failed. Lower bounds on the separation that lie below 0 say nothing; an
    arrow at the bottom edge and the number stand for them.

    Parameters
    ----------
    dataset
        `Verification.to_dataset()`: along `layer` the measured quantity and its lower and upper bounds.
    quantity
        ``"decay_ratio"``, D_{l+1}/D_l at layer l on a log axis, or ``"separation"``, 1 − max |cos| of uncentred means.
    ax
        Axes to draw in; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, ``quantity`` is unknown, or the measured variable is missing.

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
    if quantity not in ("decay_ratio", "separation"):
        raise ValueError(f"`quantity` must be 'decay_ratio' or 'separation', got {quantity!r}")
    with context():
        return _draw_ratio(dataset, ax) if quantity == "decay_ratio" else _draw_separation(dataset, ax)


def _draw_ratio(dataset: xr.Dataset, ax: Axes | None) -> Axes:
    """Decay ratios in their brackets, with the rate as a line."""
    measured = per_layer(dataset, "decay_ratio")
    ax = axes(ax)
    present = [bound for bound in _RATIO_BOUNDS if {bound.lower, bound.upper} <= set(dataset.data_vars)]
    edges = [per_layer(dataset, name) for bound in present for name in (bound.lower, bound.upper)]
    rate = per_layer(dataset, "rate") if "rate" in dataset.data_vars else np.full_like(measured, np.nan)
    log_scale(ax, [measured, rate, *edges])
    bottom, top = ax.get_ylim()
    entries = _draw_measured(ax, measured)
    for bound in present:
        low, high = per_layer(dataset, bound.lower), per_layer(dataset, bound.upper)
        if (low <= high).any():
            entries.append(_draw_bracket(ax, bound, np.maximum(low, bottom), np.minimum(high, top)))
    _say_if_bare(ax, entries)
    if np.isfinite(rate).any():
        (line,) = ax.plot(np.arange(rate.size), rate, color=GREY, linestyle=LINES[3], linewidth=1.2)
        entries.append((line, "rate " + symbol(dataset, "rate", r"\varepsilon^2 / n^{1/L}")))
    ax.set_ylabel(r"decay ratio  $D_{\ell+1} / D_\ell$")
    return _finish(ax, dataset, entries)


def _draw_separation(dataset: xr.Dataset, ax: Axes | None) -> Axes:
    """Separations above their lower bounds; bounds below zero are written, not drawn."""
    measured = per_layer(dataset, "separation_uncentred")
    ax = axes(ax)
    present = [bound for bound in _SEPARATION_BOUNDS if bound.lower in dataset.data_vars]
    shown = [measured, *(per_layer(dataset, bound.lower) for bound in present)]
    finite = np.concatenate([one[np.isfinite(one) & (one >= 0)] for one in shown])
    floor = max(0.0, float(finite.min()) - 0.12) if finite.size else 0.0
    top = max(1.0, float(finite.max())) if finite.size else 1.0
    ax.set_ylim(floor - 0.08 * (top - floor), top + 0.05)
    entries = _draw_measured(ax, measured)
    for bound in present:
        low = per_layer(dataset, bound.lower)
        if np.isnan(low).all():
            continue
        drawn = np.where(low >= floor, low, np.nan)
        handle, words = _draw_bracket(ax, bound, drawn, np.where(np.isnan(low), low, top))
        vacuous = low < 0
        if vacuous.any():
            words += f": below 0, so empty, at {int(vacuous.sum())} of {int(np.isfinite(low).sum())} layers"
            _draw_vacuous(ax, bound, np.flatnonzero(vacuous), low[vacuous])
        entries.append((handle, words))
    _say_if_bare(ax, entries)
    ax.set_ylabel(r"separation  $S_\ell$, uncentred means")
    return _finish(ax, dataset, entries)


def _draw_vacuous(ax: Axes, bound: _Bound, where: np.ndarray, values: np.ndarray) -> None:
    """Arrows at the bottom edge with the number the bound really has."""
    place = ax.get_xaxis_transform()
    style = {"linestyle": "none", "marker": "v", "color": bound.colour, "transform": place}
    ax.plot(where + bound.lane * _LANE, np.full(where.size, 0.03), **style)  # type: ignore[arg-type]  # mixed types
    if where.size > 8:
        return
    for index, value in zip(where, values, strict=True):
        ax.annotate(
            _vacuous_number(value), (index + bound.lane * _LANE, 0.06), xycoords=place, fontsize="small", ha="center"
        )


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


def _draw_bracket(ax: Axes, bound: _Bound, low: np.ndarray, high: np.ndarray) -> tuple[Artist, str]:
    """Vertical bars from the lower to the upper bound with caps, in the lane of the bound."""
    known = np.isfinite(low) & np.isfinite(high) & (low <= high)
    where = np.arange(low.size)[known] + bound.lane * _LANE
    style = {"color": bound.colour, "linewidth": bound.width, "linestyle": bound.line}
    handle = ax.vlines(where, low[known], high[known], **style)
    for edge in (low[known], high[known]):
        ax.hlines(edge, where - 0.4 * _LANE, where + 0.4 * _LANE, color=bound.colour, linewidth=1.4)
    return handle, bound.words


def _finish(ax: Axes, dataset: xr.Dataset, entries: list[tuple[Artist, str]]) -> Axes:
    """Layer names and legend."""
    name_ticks(ax, np.arange(dataset.sizes["layer"], dtype=np.float64), layer_names(dataset))
    ax.set_xlabel(r"layer $\ell$ (0 is the input)")
    legend_above(ax, entries, columns=1 if any(len(text) > 26 for _, text in entries) else 2)
    return ax

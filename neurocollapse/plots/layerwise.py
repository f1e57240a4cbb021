"""Curves over the layers of one network, or of several in the same axes."""

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from neurocollapse.plots.datasets import Datasets, axis_label, num_classes, per_layer, scalar
from neurocollapse.plots.networks import Network, finish, networks
from neurocollapse.plots.scales import linear_line, log_line, log_scale, mark_limits
from neurocollapse.plots.style import BLACK, BLUE, GREEN, GREY, LINES, PURPLE, VERMILLION, panel

_WORDS = (r"$S_\ell$ (centred, absolute cosine)", "discrimination (uncentred, signed cosine)")


def compression(dataset: Datasets, *, ax: Axes | None = None, fit: bool = True) -> Axes:
    r"""Within-class over between-class variability D_l against the layer, on a log axis with its geometric fit.

    A layer whose classes are exactly collapsed (D_l = 0) is marked at the bottom edge, one without between-class
    variability (D_l = inf) at the top edge, and an undefined one (NaN) leaves a gap.

    Parameters
    ----------
    dataset
        Result of `nc.measure` or `nc.analyze`, or a mapping of names to such results to compare networks.
    ax
        Axes to draw in; a new figure by default.
    fit
        Whether to draw the least-squares line of ln D_l with its slope, 95 % interval and R² in the legend.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, or a variable is missing.

    References
    ----------
    He and Su, "A law of data separation in deep learning", arXiv:2210.17020.

    Examples
    --------
    >>> import xarray as xr
    >>> axes = compression(xr.Dataset({"compression": ("layer", [4.0, 1.0, 0.0])}), fit=False)
    >>> axes.get_yscale()
    'log'
    """
    with panel(ax) as ax:
        drawn = networks(dataset, BLUE)
        entries: list[tuple[Artist, str]] = []
        for row, one in enumerate(drawn):
            values = per_layer(one.dataset, "compression")
            entries.append(
                (log_line(ax, one.where, values, color=one.colour, marker=one.marker), one.title("measured"))
            )
            if fit:
                _draw_fit(ax, one, entries, alone=len(drawn) == 1)
            mark_limits(ax, one.where, values, colour=one.colour, words=("exactly collapsed", "Σ_B = 0"), row=row)
        log_scale(ax, [per_layer(one.dataset, "compression") for one in drawn])
        return finish(ax, drawn, entries, axis_label(drawn[0].dataset, "compression"))


def _draw_fit(ax: Axes, one: Network, entries: list[tuple[Artist, str]], *, alone: bool) -> None:
    """Draw exp(intercept + slope · depth), and say in the legend what the line is."""
    slope, intercept = scalar(one.dataset, "decay_slope"), scalar(one.dataset, "decay_intercept")
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        return
    ends, steps = one.where[[0, -1]], _fitted_against(one, slope, intercept)[[0, -1]]
    line = log_line(ax, ends, np.exp(intercept + slope * steps), color=one.colour, linestyle=LINES[1], linewidth=1.1)
    low, high = scalar(one.dataset, "decay_slope_lower"), scalar(one.dataset, "decay_slope_upper")
    interval = (
        f" [95\N{NO-BREAK SPACE}%: {_signed(low)}, {_signed(high)}]" if np.isfinite(low) and np.isfinite(high) else ""
    )
    r_squared = scalar(one.dataset, "decay_r_squared")
    words = f"slope {_signed(slope)}{interval}" + (
        f", R²\N{NO-BREAK SPACE}{r_squared:.2f}" if np.isfinite(r_squared) else ""
    )
    if alone:
        entries.append((line, f"fit: {words}"))
    else:
        handle, name = entries.pop()
        entries.append((handle, f"{name}: {words}"))


def _fitted_against(one: Network, slope: float, intercept: float) -> np.ndarray:
    """Abscissae of the fit: positions, which a least-squares line meets in the mean, or depths after a selection."""
    values = per_layer(one.dataset, "compression")
    usable = np.isfinite(values) & (values > 0)
    counted = np.arange(values.size, dtype=np.float64)
    if usable.any() and np.isclose(np.log(values[usable]).mean(), intercept + slope * counted[usable].mean()):
        return counted
    return one.where


def _signed(value: float) -> str:
    """Two decimals, or two digits of a small number, with a true minus sign."""
    return (f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}").replace("-", "−")


def separation(dataset: Datasets, *, ax: Axes | None = None) -> Axes:
    """How far apart the class means point: S_l (centred, absolute) and discrimination (uncentred, signed) by layer.

    The dotted line is 1 − 1/(K−1), which S_l takes at a simplex equiangular tight frame of K classes.

    Parameters
    ----------
    dataset
        Result of `nc.measure` or `nc.analyze`, or a mapping of names to such results to compare networks.
    ax
        Axes to draw in; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, or a variable is missing.

    Examples
    --------
    >>> import xarray as xr
    >>> both = {"separation": ("layer", [0.1, 0.5]), "discrimination": ("layer", [0.4, 1.0])}
    >>> separation(xr.Dataset(both)).get_xlabel()
    'layer'
    """
    with panel(ax) as ax:
        drawn = networks(dataset, GREEN)
        alone = len(drawn) == 1
        entries: list[tuple[Artist, str]] = []
        for one in drawn:
            first = _draw_one(ax, one, "separation", one.colour)
            second = _draw_one(ax, one, "discrimination", VERMILLION if alone else one.colour)
            entries += [(first, _WORDS[0]), (second, _WORDS[1])] if alone else [(first, one.title(""))]
        if not alone:  # colour and marker name the network, line and filling name the quantity
            for words, line, fill in zip(_WORDS, LINES, (BLACK, "white"), strict=False):
                key = Line2D([], [], color=BLACK, linestyle=line, marker="o", markerfacecolor=fill)
                entries.append((key, words))
        if (limit := _frame_limit(drawn)) is not None:
            ideal = ax.axhline(limit, color=GREY, linestyle=LINES[3], linewidth=1.0)
            entries.append((ideal, f"$S_\\ell$ at a simplex frame: {limit:.3f}"))
        return finish(ax, drawn, entries, "separation of class means")


def _draw_one(ax: Axes, one: Network, name: str, ink: str) -> Line2D:
    """One of the two separations: solid and filled, or dashed and hollow."""
    first = name == "separation"
    values = per_layer(one.dataset, name)
    fill, line = (ink, LINES[0]) if first else ("white", LINES[1])
    return linear_line(ax, one.where, values, color=ink, marker=one.marker, markerfacecolor=fill, linestyle=line)


def _frame_limit(drawn: list[Network]) -> float | None:
    """1 − 1/(K−1) where all networks have the same number of classes, more than two."""
    counts = {num_classes(one.dataset) for one in drawn}
    count = counts.pop()
    return None if counts or count is None or count < 3 else 1 - 1 / (count - 1)


def decay(dataset: Datasets, *, ax: Axes | None = None) -> Axes:
    """What each layer multiplies the compression by: D_l / D_{l−1} against the layer, on a log axis.

    Below the line at 1 a layer compresses, above it the layer spreads the classes again. The first layer has no ratio.

    Parameters
    ----------
    dataset
        Result of `nc.measure` or `nc.analyze`, or a mapping of names to such results to compare networks.
    ax
        Axes to draw in; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, or a variable is missing.

    Examples
    --------
    >>> import xarray as xr
    >>> decay(xr.Dataset({"decay_ratio": ("layer", [float("nan"), 0.5, 0.4])})).get_yscale()
    'log'
    """
    with panel(ax) as ax:
        drawn = networks(dataset, PURPLE)
        entries: list[tuple[Artist, str]] = []
        for row, one in enumerate(drawn):
            values = per_layer(one.dataset, "decay_ratio")
            entries.append(
                (log_line(ax, one.where, values, color=one.colour, marker=one.marker), one.title("measured"))
            )
            if np.isfinite(slope := scalar(one.dataset, "decay_slope")):
                line = ax.axhline(np.exp(slope), color=one.colour, linestyle=LINES[1], linewidth=1.1)
                words = f"fitted factor {np.exp(slope):.3g} per layer"
                if len(drawn) == 1:
                    entries.append((line, words))
                else:
                    entries[-1] = (entries[-1][0], f"{one.title('')}; dashed: {words}")
            mark_limits(ax, one.where, values, colour=one.colour, words=("collapses here", "infinite"), row=row)
        ax.axhline(1.0, color=GREY, linewidth=1.0)
        log_scale(ax, [np.array([1.0]), *(per_layer(one.dataset, "decay_ratio") for one in drawn)])
        return finish(ax, drawn, entries, axis_label(drawn[0].dataset, "decay_ratio"))

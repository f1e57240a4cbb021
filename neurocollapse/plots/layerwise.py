"""Curves over the layers of one network, or of several in the same axes."""

from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from neurocollapse.plots.datasets import Datasets
from neurocollapse.plots.networks import Network
from neurocollapse.plots.panels import Panel
from neurocollapse.plots.parts import Part, network_panel
from neurocollapse.plots.scales import log_line
from neurocollapse.plots.style import BLUE, GREEN, GREY, LINES, PURPLE, VERMILLION, Width
from neurocollapse.support.dataset import ends_of, num_classes, scalar
from neurocollapse.support.numbers import short

_WORDS = {
    "separation": r"$S_\ell$ (centred, absolute cosine)",
    "discrimination": "discrimination (uncentred, signed cosine)",
}


def compression(dataset: Datasets, *, ax: Axes | None = None, fit: bool = True, width: Width | None = None) -> Axes:
    r"""Draw the compression D_l against the layer, on a log axis with its geometric fit.

    A layer whose classes are exactly collapsed (D_l = 0) is marked at the bottom edge, one without between-class
    variability (D_l = inf) at the top edge, and an undefined one (NaN) leaves a gap. Results of
    ``uncertainty=True`` have their 95 % intervals as bars.

    Parameters
    ----------
    dataset
        Result of `nc.measure` or `nc.analyze`, also along a leading dimension: every step is a curve, from light to
        dark, and along `model`, `run` or `network` every entry is a network. Or a mapping of names to such results, to
        compare networks at their last steps.
    ax
        Axes to draw in; a new figure by default.
    fit : bool, default True
        Whether to draw the least-squares line of ln D_l with its slope, the 95 % interval (over samples, else of the
        line) and R² in the legend. Of more than four networks the range of slopes is told.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 or 6.9 inches, with letters to read at that size.

    Returns
    -------
    matplotlib.axes.Axes
        With a logarithmic vertical axis. More than eight networks have axes of their own in a new figure, with the same
        limits and one legend: the first of them. In the caller's Axes they have the colours of a ramp and no fit.

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, or D was not measured.

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
    return network_panel(Part(partial(_draw_compression, fit=fit), BLUE, log=True), dataset, ax, width)


def _draw_compression(panel: Panel, *, fit: bool = True) -> None:
    """The curves, their intervals, and the fitted lines."""
    panel.curves("compression", "measured", limits=("exactly collapsed", "Σ_B = 0"))
    for one in panel.summarised:
        _draw_interval(panel, one, "compression_interval")
        if fit and not panel.crowded:
            _draw_fit(panel, one)
    if fit and not panel.told:
        _tell_range(panel, "slopes of the fits", [scalar(one.dataset, "decay_slope") for one in panel.drawn])


def _draw_interval(panel: Panel, one: Network, name: str) -> None:
    """Draw 95 % intervals of unbiased values as bars, where they were measured; raw values may lie outside them."""
    if name not in one.dataset:
        return
    lower, upper = one.dataset[name].transpose("bound", "layer").values
    panel.bars(one, lower, upper, "95 % interval, unbiased" if one is panel.summarised[0] else "")


def _tell_range(panel: Panel, words: str, values: list[float]) -> None:
    """One entry of the legend for a number of every network, where there are too many to tell each."""
    known = [value for value in values if np.isfinite(value)]
    if known:
        line = Line2D([], [], color=GREY, linestyle="none" if panel.crowded else LINES[1], linewidth=1.1)
        panel.add(line, f"{words}: {_signed(min(known))} to {_signed(max(known))}")


def _draw_fit(panel: Panel, one: Network) -> None:
    """Draw exp(intercept + slope · depth), and say in the legend what the line is."""
    slope, intercept = scalar(one.dataset, "decay_slope"), scalar(one.dataset, "decay_intercept")
    if not (np.isfinite(slope) and np.isfinite(intercept)) or one.where.size < 2:
        return
    ends, steps = one.where[[0, -1]], _fitted_against(one, slope, intercept)[[0, -1]]
    fitted = np.exp(intercept + slope * steps)
    line = log_line(panel.of(one), ends, fitted, color=one.colour, linestyle=LINES[1], linewidth=1.1)
    low, high, whose = _slope_ends(one)
    r_squared = scalar(one.dataset, "decay_r_squared")
    words = f"fit: slope {_signed(slope)}"
    if np.isfinite(low) and np.isfinite(high):
        words += f" [{whose} 95\N{NO-BREAK SPACE}%: {_signed(low)}, {_signed(high)}]"
    if np.isfinite(r_squared):
        words += f", R²\N{NO-BREAK SPACE}{r_squared:.2f}"
    panel.note(one, line, words)


def _slope_ends(one: Network) -> tuple[float, float, str]:
    """The interval of the slope over samples where it was measured, else that of the line, and whose it is."""
    if "decay_slope_interval" in one.dataset:
        return *ends_of(one.dataset, "decay_slope_interval"), "samples’"
    low, high = (scalar(one.dataset, f"decay_slope_{end}_of_line") for end in ("lower", "upper"))
    return low, high, "line’s"


def _fitted_against(one: Network, slope: float, intercept: float) -> np.ndarray:
    """Abscissae of the fit: positions, which a least-squares line meets in the mean, or depths after a selection."""
    values = one.values("compression")
    usable = np.isfinite(values) & (values > 0)
    counted = np.arange(values.size, dtype=np.float64)
    if usable.any() and np.isclose(np.log(values[usable]).mean(), intercept + slope * counted[usable].mean()):
        return counted
    return one.depths


def _signed(value: float) -> str:
    """Two decimals, or two digits of a small number, with a true minus sign."""
    return f"{value:.2f}".replace("-", "−") if abs(value) >= 0.1 else short(value, 2)


def separation(dataset: Datasets, *, ax: Axes | None = None, width: Width | None = None) -> Axes:
    """Draw S_l (centred, absolute cosines) and discrimination (uncentred, signed) against the layer.

    The dotted line is 1 − 1/(K−1), which S_l takes at a simplex equiangular tight frame of K classes.

    Parameters
    ----------
    dataset
        Result of `nc.measure` or `nc.analyze`, with or without steps, or a mapping of names to such results.
    ax
        Axes to draw in; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 or 6.9 inches, with letters to read at that size.

    Returns
    -------
    matplotlib.axes.Axes
        With both conventions in the legend. See `compression` for many networks.

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, or either of the two was not measured.

    Examples
    --------
    >>> import xarray as xr
    >>> both = {"separation": ("layer", [0.1, 0.5]), "discrimination": ("layer", [0.4, 1.0])}
    >>> separation(xr.Dataset(both)).get_xlabel()
    'layer'
    """
    return network_panel(SEPARATION, dataset, ax, width)


def _draw_separation(panel: Panel) -> None:
    """Both conventions, and the limit of the first."""
    for index, (name, words) in enumerate(_WORDS.items()):
        panel.curves(name, words, index=index, ink=(GREEN, VERMILLION)[index])
    if (limit := _frame_limit(panel.drawn)) is not None:
        words = f"$S_\\ell$ at a simplex frame: {limit:.3f}"
        panel.level(limit, words, color=GREY, linestyle=LINES[3], linewidth=1.0)
    two = {num_classes(one.dataset) for one in panel.drawn} == {2}
    panel.label = "separation of class means" + (", where S is always 0 for two classes" if two else "")


def _frame_limit(drawn: list[Network]) -> float | None:
    """1 − 1/(K−1) where all networks have the same number of classes, more than two."""
    counts = {num_classes(one.dataset) for one in drawn}
    count = counts.pop()
    return None if counts or count is None or count < 3 else 1 - 1 / (count - 1)


def decay(dataset: Datasets, *, ax: Axes | None = None, width: Width | None = None) -> Axes:
    """Draw the factor by which each layer multiplies the compression, D_l / D_{l−1}, on a log axis.

    Below the line at 1 a layer compresses, above it the layer spreads the classes again. The first layer has no ratio.
    Results of ``uncertainty=True`` have the 95 % intervals of unbiased ratios as bars.

    Parameters
    ----------
    dataset
        Result of `nc.measure` or `nc.analyze`; steps and networks are drawn as by `compression`.
    ax
        Axes to draw in; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 or 6.9 inches, with letters to read at that size.

    Returns
    -------
    matplotlib.axes.Axes
        With a line at 1, and one at the fitted factor.

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, or has no decay ratios.

    Examples
    --------
    >>> import xarray as xr
    >>> decay(xr.Dataset({"decay_ratio": ("layer", [float("nan"), 0.5, 0.4])})).get_yscale()
    'log'
    """
    return network_panel(DECAY, dataset, ax, width)


def _draw_decay(panel: Panel) -> None:
    """The ratios, their intervals, the fitted factors, and the line at 1."""
    panel.curves("decay_ratio", "measured", limits=("collapses here", "infinite"))
    factors = {one.name: np.exp(scalar(one.dataset, "decay_slope")) for one in panel.drawn}
    for one in panel.summarised:
        _draw_interval(panel, one, "decay_ratio_interval")
        if np.isfinite(factor := factors[one.name]) and not panel.crowded:
            line = panel.of(one).axhline(factor, color=one.colour, linestyle=LINES[1], linewidth=1.1)
            panel.note(one, line, f"fitted factor {short(factor, 3)} per layer")
    if not panel.told:
        _tell_range(panel, "fitted factors per layer", list(factors.values()))
    panel.level(1.0, color=GREY, linewidth=1.0)


COMPRESSION = Part(_draw_compression, BLUE, log=True)
SEPARATION = Part(_draw_separation, GREEN)
DECAY = Part(_draw_decay, PURPLE, log=True)
"""The parts of figures with several panels."""

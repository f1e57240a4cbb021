"""How far each class spreads, layer by layer."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from neurocollapse.plots.datasets import Datasets, per_layer, variable
from neurocollapse.plots.networks import Network
from neurocollapse.plots.panels import Panel
from neurocollapse.plots.parts import Part, network_panel
from neurocollapse.plots.style import BLUE, GREY, Width, colour, literal, marker, shortened
from neurocollapse.support.dataset import class_names

_MAX_CLASS_LINES = 10


def class_spread(dataset: Datasets, *, ax: Axes | None = None, width: Width | None = None) -> Axes:
    """Draw how far each class spreads around its mean, relative to tr Σ_B, against the layer, on a log axis.

    The average of the curves, weighted by the number of samples in each class, is the compression D_l, so a class
    above the others holds the network's D_l up. Up to ten classes are drawn one by one; more, and networks that are
    compared, are drawn as a median line with the range of all classes.

    Parameters
    ----------
    dataset
        Result of `nc.measure` or `nc.analyze`, of one or several steps, or a mapping of names to such results.
    ax
        Axes to draw in; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 or 6.9 inches, with letters to read at that size.

    Returns
    -------
    matplotlib.axes.Axes
        With a logarithmic vertical axis, and one curve per class or network. See `compression` for many networks.

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, or the spread of single classes was not measured.

    Examples
    --------
    >>> import xarray as xr
    >>> spread = {"class_scatter": (("layer", "class"), [[2.0, 1.0]]), "between_trace": ("layer", [1.0])}
    >>> class_spread(xr.Dataset(spread)).get_ylabel()
    'class spread / between-class trace'
    """
    return network_panel(CLASS_SPREAD, dataset, ax, width)


def _draw_spread(panel: Panel) -> None:
    """Every class, or the range of all; and where one collapsed."""
    spreads = [_relative_spread(one.dataset) for one in panel.drawn]
    each = len(panel.drawn) == 1 and spreads[0].shape[1] <= _MAX_CLASS_LINES
    for one, spread in zip(panel.drawn, spreads, strict=True):
        (_draw_each_class if each else _draw_range)(panel, one, spread)
        collapsed = np.where(((spread == 0) & _can_spread(one.dataset)).any(axis=1), 0.0, 1.0)
        panel.mark(one, collapsed, ("a class collapsed", ""))
    if not panel.told:
        counts = {spread.shape[1] for spread in spreads}
        what = "median" if panel.crowded else "median and range"
        panel.add(Line2D([], [], color=GREY), f"{what} of {counts.pop() if len(counts) == 1 else 'all'} classes")
    panel.label = "class spread / between-class trace"
    panel.columns = 5 if each else 1


CLASS_SPREAD = Part(_draw_spread, BLUE, log=True)


def _relative_spread(dataset: xr.Dataset) -> np.ndarray:
    """Scatter of each class over tr Σ_B, of shape (layers, classes); undefined where tr Σ_B is zero."""
    scatter = np.asarray(variable(dataset, "class_scatter", "layer", "class").values, dtype=np.float64)
    between = per_layer(dataset, "between_trace")[:, None]
    ratio = np.full_like(scatter, np.nan)
    np.divide(scatter, between, out=ratio, where=np.isfinite(scatter) & (between > 0))
    return ratio


def _can_spread(dataset: xr.Dataset) -> np.ndarray:
    """Which classes have more than one sample, where their numbers are known: a single sample is its own mean."""
    if "class_count" not in dataset.data_vars:
        return np.array(True)
    return np.asarray(variable(dataset, "class_count", "layer", "class").values) > 1


def _draw_each_class(panel: Panel, one: Network, spread: np.ndarray) -> None:
    """One thin line per class."""
    for index, name in enumerate(class_names(one.dataset) or map(str, range(spread.shape[1]))):
        style = {"color": colour(index), "marker": marker(index), "markersize": 4.0, "linewidth": 1.0}
        panel.add(panel.curve(one, spread[:, index], **style), literal(shortened(name, 9)))


def _draw_range(panel: Panel, one: Network, spread: np.ndarray) -> None:
    """The median class as a line, and the range from the tightest to the widest class as a band."""
    shown = np.ma.masked_where(~(np.isfinite(spread) & (spread > 0)), spread)
    low, middle, high = (np.ma.filled(edge, np.nan) for edge in (shown.min(1), np.ma.median(shown, 1), shown.max(1)))
    line = panel.curve(one, np.asarray(middle))
    if one in panel.summarised and not panel.crowded:
        panel.band(one, low, high)
        panel.note(one, line, f"median and range of {spread.shape[1]} classes")

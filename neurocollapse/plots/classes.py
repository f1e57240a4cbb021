"""How far each class spreads, layer by layer."""

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from neurocollapse.plots.datasets import Datasets, class_names, per_layer, variable
from neurocollapse.plots.networks import Network, finish, networks
from neurocollapse.plots.scales import log_line, log_scale, mark_limits
from neurocollapse.plots.style import BLUE, colour, literal, marker, panel, shortened

_MAX_CLASS_LINES = 10


def class_spread(dataset: Datasets, *, ax: Axes | None = None) -> Axes:
    """How far each class spreads around its mean, relative to tr Σ_B, against the layer, on a log axis.

    The average of the curves, weighted by the number of samples in each class, is the compression D_l, so a class
    above the others holds the network's D_l up. Up to ten classes are drawn one by one; more, and networks that are
    compared, are drawn as a median line with the range of all classes.

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
    >>> spread = {"class_scatter": (("layer", "class"), [[2.0, 1.0]]), "between_trace": ("layer", [1.0])}
    >>> class_spread(xr.Dataset(spread)).get_ylabel()
    'class spread / between-class trace'
    """
    with panel(ax) as ax:
        drawn = networks(dataset, BLUE)
        spreads = [_relative_spread(one.dataset) for one in drawn]
        each = len(drawn) == 1 and spreads[0].shape[1] <= _MAX_CLASS_LINES
        entries: list[tuple[Artist, str]] = []
        for row, (one, spread) in enumerate(zip(drawn, spreads, strict=True)):
            entries += _draw_each_class(ax, one, spread) if each else [_draw_range(ax, one, spread)]
            collapsed = np.where(((spread == 0) & _can_spread(one.dataset)).any(axis=1), 0.0, 1.0)
            mark_limits(ax, one.where, collapsed, colour=one.colour, words=("a class collapsed", ""), row=row)
        log_scale(ax, spreads)
        return finish(ax, drawn, entries, "class spread / between-class trace", columns=5 if each else 1)


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


def _draw_each_class(ax: Axes, one: Network, spread: np.ndarray) -> list[tuple[Artist, str]]:
    """One thin line a class."""
    entries: list[tuple[Artist, str]] = []
    for index, name in enumerate(class_names(one.dataset)):
        style = {"color": colour(index), "marker": marker(index), "markersize": 4.0, "linewidth": 1.0}
        entries.append((log_line(ax, one.where, spread[:, index], **style), literal(shortened(name, 9))))
    return entries


def _draw_range(ax: Axes, one: Network, spread: np.ndarray) -> tuple[Artist, str]:
    """The median class as a line, and the range from the tightest to the widest class as a band."""
    shown = np.ma.masked_where(~(np.isfinite(spread) & (spread > 0)), spread)
    low, middle, high = (np.ma.filled(edge, np.nan) for edge in (shown.min(1), np.ma.median(shown, 1), shown.max(1)))
    ax.fill_between(one.where, low, high, color=one.colour, alpha=0.18, linewidth=0)
    line = log_line(ax, one.where, np.asarray(middle), color=one.colour, marker=one.marker)
    words = f"median and range of {spread.shape[1]} classes"
    return line, f"{one.title('')}: {words}" if one.name else words

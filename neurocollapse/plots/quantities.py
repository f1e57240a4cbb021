"""Any numbers of the layers as curves, labelled by what their variables say of themselves."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from neurocollapse.plots.datasets import Datasets
from neurocollapse.plots.panels import Panel
from neurocollapse.plots.parts import Part, network_panel
from neurocollapse.plots.style import BLUE, GREY, LINES, Width, colour, literal
from neurocollapse.support.dataset import heading, layer_names, limit

_DECADE = 10.0
_ARROWS = {"lower": " ↓", "higher": " ↑"}


def quantities(
    dataset: Datasets,
    names: str | Sequence[str],
    *,
    over: str = "layer",
    ax: Axes | None = None,
    width: Width | None = None,
) -> Axes:
    """Draw one or several variables against the layer, or those of the last layer against the step.

    The legend says where a quantity goes at full collapse ("NC3 → 0"), or in which direction (↓, ↑) where its limit
    is not known; dotted lines are these limits. The axis is logarithmic where values that have no upper end, or go to
    zero, span a decade.

    Parameters
    ----------
    dataset
        Result of `nc.measure` or `nc.analyze`, also with a leading dimension, or a mapping of names to such results.
    names
        Variables along `layer`, of the library or your own.
    over : str, default "layer"
        The dimension on the horizontal axis: "layer", or the leading dimension.
    ax
        Axes to draw in; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 or 6.9 inches, with letters to read at that size.

    Returns
    -------
    matplotlib.axes.Axes
        With the long name and symbol of a single variable at its vertical axis. See `compression` for many networks.

    Raises
    ------
    TypeError
        If ``dataset`` or ``ax`` is of another kind.
    ValueError
        If there is no such variable or dimension, or ``names`` is empty.

    Examples
    --------
    >>> norms = xr.Dataset({"norm": ("layer", [3.0, 2.0], {"long_name": "norm of the means"})})
    >>> quantities(norms, "norm").get_ylabel()
    'norm of the means'
    """
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted:
        raise ValueError("`names` must hold at least one variable of the dataset, got none")
    return network_panel(part_of(wanted, over=over), dataset, ax, width)


def part_of(names: Sequence[str], *, over: str = "layer", title: str = "") -> Part:
    """The panel of some variables."""
    return Part(partial(_draw, names=names), BLUE, over=over, title=title)


def _draw(panel: Panel, *, names: Sequence[str]) -> None:
    """A curve of every variable, and their limits."""
    first, over = panel.drawn[0].dataset, panel.drawn[0].over
    series = [one.values(name) for one in panel.drawn for name in names]
    panel.log = far_apart(series) and all(towards_zero(first, name) for name in names)
    for index, name in enumerate(names):
        panel.curves(name, _words(first, name), index=index, ink=colour(index), limits=("exactly 0", "infinite"))
    _draw_limits(panel, {limit(first, name) for name in names})
    if len(names) > 1:
        panel.label = "value"
    if over != "layer":
        last = {name for one in panel.drawn for name in layer_names(one.dataset.expand_dims("layer"))}
        panel.below = f"{over}, at {f'layer {last.pop()}' if len(last) == 1 else 'the last layer'}"


def _words(dataset: xr.Dataset, name: str) -> str:
    """A variable in the legend: its heading, and its limit or direction."""
    goes = limit(dataset, name)
    arrow = _ARROWS.get(str(dataset[name].attrs.get("better")), "") if np.isnan(goes) else f" → {goes:g}"
    return literal(heading(dataset, name)) + arrow


def far_apart(series: Sequence[np.ndarray]) -> bool:
    """Whether a logarithmic axis shows more: values over a decade or more, none of them negative."""
    values = np.concatenate(series)
    positive = values[np.isfinite(values) & (values > 0)]
    return positive.size > 1 and not (values < 0).any() and positive.max() > _DECADE * positive.min()


def towards_zero(dataset: xr.Dataset, name: str) -> bool:
    """Whether the small values are the ones to tell apart, not those near a largest one."""
    return limit(dataset, name) == 0 or not np.isfinite(dataset[name].attrs.get("valid_max", np.inf))


def _draw_limits(panel: Panel, limits: set[float]) -> None:
    """Dotted lines where the limits are; an arrow below a logarithmic axis that has no place for zero."""
    for height in sorted(height for height in limits if np.isfinite(height)):
        if height > 0 or not panel.log:
            panel.level(height, color=GREY, linestyle=LINES[3], linewidth=1.0)
        else:
            place: dict[str, Any] = {"xycoords": "axes fraction", "color": GREY, "annotation_clip": False}
            for ax in panel.cells:
                ax.annotate("", (1.015, 0.0), (1.015, 0.14), arrowprops={"arrowstyle": "->", "color": GREY}, **place)
                if not panel.apart:
                    ax.annotate("collapse", (1.015, 0.16), rotation=90, fontsize="small", ha="center", **place)

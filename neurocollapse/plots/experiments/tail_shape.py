"""D of linear tails in their certified bands, and the predicted shape, one panel per network."""

from functools import partial
from typing import Any

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.certificate import certificate
from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.scales import log_line
from neurocollapse.plots.style import GREEN, LINES, literal


def tail_shape_figure(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Draw the certificate of every network, and the prediction floor + transient as a dashed line.

    Parameters
    ----------
    dataset
        Result of `tail-shape`.
    ax
        Axes, one per network; a new figure by default.
    """
    names = dataset["network"].values
    return panel_grid([partial(_draw, dataset, name, legend=name == names[0]) for name in names], ax)


def _draw(dataset: xr.Dataset, name: str, *, legend: bool, ax: Axes) -> None:
    """One network, its name at the axis; the legend is the same for all."""
    network = dataset.sel(network=name, drop=True)
    certificate(network, ax=ax)
    log_line(ax, network["layer"].values, network["compression_law"].values, color=GREEN, linestyle=LINES[1])
    ax.set(xlabel=f"layer of {literal(name)}", ylabel=r"$D_\ell$; green: floor + transient")
    shown = ax.get_legend()
    if shown is not None and not legend:
        shown.remove()

"""D of linear tails in their certified bands, and the predicted shape, one panel per network."""

from functools import partial

import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.certificate import certified_curves
from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.scales import log_line
from neurocollapse.plots.style import GREEN, LINES, literal


def tail_shape_figure(dataset: xr.Dataset) -> Figure:
    """Draw the certificate of every network, and the prediction floor + transient, with one legend above all.

    Parameters
    ----------
    dataset
        Result of `tail-shape`.
    """
    entries: dict[str, Artist] = {}
    panels = [partial(_draw, dataset, name, entries) for name in dataset["network"].values]
    return panel_grid(panels, None, shared=lambda: [(handle, words) for words, handle in entries.items()])


def _draw(dataset: xr.Dataset, name: str, entries: dict[str, Artist], *, ax: Axes) -> None:
    """One network, its name above; its curves join the entries of the legend."""
    network = dataset.sel(network=name, drop=True)
    drawn = certified_curves(network, ax=ax)
    law = log_line(ax, network["layer"].values, network["compression_law"].values, color=GREEN, linestyle=LINES[1])
    entries |= {words: handle for handle, words in [*drawn, (law, "predicted: floor + transient")]}
    ax.set_title(literal(name), loc="left")
    ax.set_ylabel(r"$D_\ell$")

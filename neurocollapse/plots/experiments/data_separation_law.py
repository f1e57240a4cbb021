"""Two measures of separation against the layer, with the lines through their logarithms."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.scales import legend_above, log_line, log_scale
from neurocollapse.plots.style import LINES, colour, literal, marker, shortened

LABELS = {"fuzziness": r"fuzziness $\mathrm{tr}(\Sigma_W \Sigma_B^+)$", "compression": r"compression $D_\ell$"}


def data_separation_law_figure(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Draw both measures on logarithmic axes, one panel each; dashed: the least-squares lines.

    Parameters
    ----------
    dataset
        Result of `data-separation-law`.
    ax
        Two Axes; a new figure by default.
    """
    return panel_grid([partial(_draw, dataset, name) for name in LABELS], ax)


def _draw(dataset: xr.Dataset, name: str, *, ax: Axes) -> None:
    """One measure of all networks, and their lines."""
    layers = dataset["layer"].values.astype(np.float64)
    entries: list[tuple[Artist, str]] = []
    shown: list[np.ndarray] = []
    for index, network in enumerate(dataset["network"].values):
        one = dataset.sel(network=network)
        line = one.sel(measure=name)
        own = layers[: int(one["num_layers"])]
        fitted = np.exp(float(line["intercept"]) + float(line["slope"]) * own)
        log_line(ax, layers, one[name].values, color=colour(index), marker=marker(index), linestyle="none")
        log_line(ax, own, fitted, color=colour(index), linestyle=LINES[1], linewidth=1.1)
        shown += [one[name].values, fitted]
        factor, r_squared = float(np.exp(line["slope"])), float(line["r_squared"])
        words = f"{literal(shortened(network, 18))}: × {factor:.2f} a layer, R² {r_squared:.3f}"
        entries.append((Line2D([], [], color=colour(index), marker=marker(index), linestyle=LINES[1]), words))
    log_scale(ax, shown)
    ax.set(xlabel=r"layer $\ell$ (0 is the input)", ylabel=LABELS[name])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(ax, entries)

"""What weight decay does to the last linear layers: D and its bound, imbalance, and condition numbers."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.scales import log_line, log_scale, name_ticks
from neurocollapse.plots.style import LINES, colour, marker

PANELS = (
    ("last_compression", "last_bound", "D of the last features; dashed: bound"),
    ("tail_condition", "head_condition", "κ of all linear layers; dashed: of the last"),
)


def balance_collapse_figure(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Draw D with its bound, and condition numbers, against weight decay, a colour for each number of linear layers.

    Parameters
    ----------
    dataset
        Result of `balance-implies-collapse`.
    ax
        Two Axes; a new figure by default.
    """
    return panel_grid([partial(_draw, dataset, *names) for names in PANELS], ax)


def _draw(dataset: xr.Dataset, solid: str, dashed: str, words: str, *, ax: Axes) -> None:
    """Two quantities of every tail; weight decays stand side by side, because one of them is 0."""
    where = np.arange(dataset.sizes["weight_decay"])
    for index, tail in enumerate(dataset["tail"].values):
        one, style = dataset.sel(tail=tail), {"color": colour(index), "marker": marker(index)}
        log_line(ax, where, one[solid].values, **style, label=f"{tail} linear layers")
        log_line(ax, where, one[dashed].values, **style, linestyle=LINES[1], linewidth=1.1, markerfacecolor="white")
    log_scale(ax, [dataset[solid].values, dataset[dashed].values])
    name_ticks(ax, where, [f"{decay:g}" for decay in dataset["weight_decay"].values])
    ax.set(xlabel="weight decay", ylabel=words)
    ax.legend(loc="best")

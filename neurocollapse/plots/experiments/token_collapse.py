"""Neural collapse of language models over training, a curve for every width."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.scales import log_line, log_scale, name_ticks
from neurocollapse.plots.style import LINES, colour, literal, marker
from neurocollapse.support.dataset import heading

FALLING, RISING = ("cdnv", "gnc2_variation", "unc3"), ("nc4",)
LOSS = "loss"
PANELS = (*FALLING, *RISING, "ncm_error", LOSS)
_ARROWS = dict.fromkeys(FALLING, " ↓") | dict.fromkeys(RISING, " ↑")


def token_collapse_figure(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Draw each measure against the steps of training, which stand side by side, a colour for each width.

    Parameters
    ----------
    dataset
        Result of `token-collapse`.
    ax
        Axes, six; a new figure by default.
    """
    return panel_grid([partial(_draw, dataset, name) for name in PANELS], ax)


def _draw(dataset: xr.Dataset, name: str, *, ax: Axes) -> None:
    """One measure of every width."""
    where = np.arange(dataset.sizes["step"])
    for index, width in enumerate(dataset["width"].values):
        style = {"color": colour(index), "marker": marker(index), "linestyle": LINES[0]}
        log_line(ax, where, dataset[name].sel(width=width).values, **style, label=f"width {width}")
    if name in FALLING:
        log_scale(ax, [dataset[name].values])
    name_ticks(ax, where, [str(step) for step in dataset["step"].values])
    words = "cross-entropy" if name == LOSS else literal(heading(dataset, name))
    ax.set(xlabel="steps of training", ylabel=words + _ARROWS.get(name, ""))
    if name == PANELS[0]:
        ax.legend(loc="best")

"""What is left of the margin over training, one panel per network."""

from functools import partial
from typing import Any

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.margin_efficiency import margin_efficiency
from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.style import literal


def margin_factors_figure(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Draw the four factors and their product over the epochs.

    Parameters
    ----------
    dataset
        Result of `margin-efficiency`.
    ax
        Axes, one per network; a new figure by default.
    """
    return panel_grid([partial(_draw, dataset, name) for name in dataset["network"].values], ax)


def _draw(dataset: xr.Dataset, name: str, *, ax: Axes) -> None:
    """One network, its name at the axis; what a factor is before the margins are positive lies far outside."""
    margin_efficiency(dataset.sel(network=name, drop=True), ax=ax)
    ax.set_ylim(0.0, 1.05)
    ax.set_xlabel(f"epoch of {literal(name)}")

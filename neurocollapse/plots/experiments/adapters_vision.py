"""Figure of adapters on a vision transformer: accuracy against what is trained, and collapse layer by layer."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.scales import log_line, log_scale, name_ticks
from neurocollapse.plots.style import colour, marker

_PANELS = (("compression", "$D_l$ of the new classes"), ("nc1", "NC1 of the new classes"))


def adapters_vision_figure(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Draw test accuracy against the share of the parameters, and D and NC1 of the adapted layers of each method.

    Parameters
    ----------
    dataset
        The dataset of `adapters-vision`.
    ax
        Three Axes; a new figure by default.
    """
    return panel_grid(
        [partial(_accuracy, dataset), *(partial(_layers, dataset, *one) for one in _PANELS)], ax, columns=3
    )


def _accuracy(dataset: xr.Dataset, *, ax: Axes) -> None:
    """The mean over repeats as a marker, every repeat as a dot."""
    for index, method in enumerate(dataset["tuning"].values):
        one = dataset.sel(tuning=method)
        share, values = float(one["share"]), one["accuracy"].values
        ax.plot(np.full(values.size, share), values, linestyle="", marker=".", color=colour(index), alpha=0.45)
        label = f"{method} ({share:.2g})" if share < 0.001 else f"{method} ({100 * share:.3g} %)"
        ax.plot(share, values.mean(), linestyle="", marker=marker(index), color=colour(index), label=label)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set(xlabel="share of the parameters trained", ylabel="test accuracy, new classes")
    ax.legend(fontsize="small")


def _layers(dataset: xr.Dataset, name: str, words: str, *, ax: Axes) -> None:
    """The geometric mean over repeats along the adapted layers."""
    where = np.arange(dataset.sizes["layer"])
    for index, method in enumerate(dataset["tuning"].values):
        values = dataset[name].sel(tuning=method)
        mean = np.exp(np.log(values.values).mean(axis=values.dims.index("repeat")))
        log_line(ax, where, mean, color=colour(index), marker=marker(index), label=str(method))
    log_scale(ax, [dataset[name].values.ravel()])
    name_ticks(ax, where, [str(layer) for layer in dataset["layer"].values])
    ax.set(xlabel="adapted layer, at the class token", ylabel=words)

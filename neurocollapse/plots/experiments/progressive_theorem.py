"""Compression and separation of deep linear networks on noisy orthonormal data, beside the theorem's rate."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.scales import log_line, log_scale
from neurocollapse.plots.style import BLACK, BLUE, GREEN


def draw_progressive_theorem(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """D_l with the line of the theorem's rate, and S_l with a straight line through its mean.

    Parameters
    ----------
    dataset
        Result of `progressive-theorem`: `compression`, `discrimination` and `rate`.
    ax
        Two Axes; a new figure by default.
    """
    return panel_grid([partial(_compression, dataset), partial(_discrimination, dataset)], ax)


def _compression(dataset: xr.Dataset, *, ax: Axes) -> None:
    """Every seed, and the rate from their mean at layer 0."""
    layers, values = dataset["layer"].values, dataset["compression"].transpose("seed", "layer").values
    for index, single in enumerate(values):
        label = f"D, {len(values)} seeds" if index == 0 else "_nolegend_"
        log_line(ax, layers, single, color=BLUE, linewidth=0.6, marker="o", markersize=3, label=label)
    line = values[:, 0].mean() * float(dataset["rate"]) ** layers
    log_line(ax, layers, line, color=BLACK, linestyle=":", label=f"${dataset['rate'].attrs['symbol']}$ per layer")
    log_scale(ax, [values, line])
    ax.set(xlabel=r"layer $\ell$ (0 is the data)", ylabel=r"compression $D_\ell$")
    ax.legend(loc="lower left")


def _discrimination(dataset: xr.Dataset, *, ax: Axes) -> None:
    """The mean of the seeds with its standard error, and the straight line through layers 1 …."""
    layers, values = dataset["layer"].values, dataset["discrimination"].transpose("seed", "layer").values
    mean, error = values.mean(axis=0), values.std(axis=0) / np.sqrt(len(values))
    ax.errorbar(layers, mean, error, color=GREEN, marker="o", linestyle="none", label="S, mean and standard error")
    slope, intercept = np.polyfit(layers[1:], mean[1:], 1)
    ax.plot(layers, intercept + slope * layers, color=BLACK, linestyle=":", label=f"straight, {slope:+.4f} per layer")
    ax.set(xlabel=r"layer $\ell$ (0 is the data)", ylabel=r"separation $S_\ell$ (uncentred, signed)")
    ax.legend(loc="upper left")

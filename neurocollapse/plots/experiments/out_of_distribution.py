"""Figure of detectors of other data during training."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.scales import log_scale, mean_line, name_ticks
from neurocollapse.plots.style import literal

_RATES = (("auroc", "AUROC"), ("fpr95", "false positive rate at 95 %"))


def out_of_distribution_figure(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Draw NC1, NC5, and of all other data AUROC and false positive rate of each detector, over the epochs.

    Lines are means over networks, bands hold all of them.

    Parameters
    ----------
    dataset
        The dataset of `out-of-distribution`.
    ax
        Two Axes, and two for each kind of other data; a new figure by default.
    """
    panels = [partial(_collapse, dataset), partial(_cosines, dataset)]
    for other in dataset["other"].values:
        panels += [partial(_rates, dataset.sel(other=other), *names, literal(other)) for names in _RATES]
    return panel_grid(panels, ax)


def _collapse(dataset: xr.Dataset, *, ax: Axes) -> None:
    """NC1 of the training samples."""
    _line(dataset["nc1"], 0, "NC1", ax=ax)
    log_scale(ax, [dataset["nc1"].values.ravel()])
    _finish(dataset, "NC1 of training samples", ax=ax)


def _cosines(dataset: xr.Dataset, *, ax: Axes) -> None:
    """NC5, a line for each kind of other data."""
    for index, other in enumerate(dataset["other"].values):
        _line(dataset["nc5"].sel(other=other), index, literal(other), ax=ax)
    ax.set_ylim(0.0, 1.02)
    ax.legend()
    _finish(dataset, "NC5, cosine to other data", ax=ax)


def _rates(dataset: xr.Dataset, name: str, words: str, other: str, *, ax: Axes) -> None:
    """One rate of every detector."""
    for index, detector in enumerate(dataset["detector"].values):
        _line(dataset[name].sel(detector=detector), index, str(detector), ax=ax)
    ax.set_title(f"against {other}")
    ax.legend()
    _finish(dataset, words, ax=ax)


def _line(values: xr.DataArray, index: int, words: str, *, ax: Axes) -> None:
    """The mean over networks, and a band from the least to the greatest."""
    mean_line(ax, np.arange(values.sizes["epoch"]), values, "repeat", index, words)


def _finish(dataset: xr.Dataset, words: str, *, ax: Axes) -> None:
    """Epochs side by side, and what is drawn."""
    epochs = dataset["epoch"].values
    name_ticks(ax, np.arange(len(epochs)), [str(epoch) for epoch in epochs])
    ax.set(xlabel="epochs of training", ylabel=words)

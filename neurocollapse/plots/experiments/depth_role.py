"""Test accuracy and compression of linear and ReLU networks of growing depth."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.scales import legend_above, log_line, log_scale, mean_line
from neurocollapse.plots.style import colour, marker


def depth_role_figure(dataset: xr.Dataset) -> Figure:
    """Draw accuracy and the last layer's compression against depth, and compression against the layer.

    Lines are means over the seeds (of ln D), bands run from the least to the largest.

    Parameters
    ----------
    dataset
        `accuracy` (network, depth, seed, split) and `compression` (network, depth, seed, split, layer).
    """
    train = dataset["compression"].sel(split="train")
    kinds = [partial(_layers, train, str(kind)) for kind in dataset["network"].values]
    return panel_grid([partial(_accuracy, dataset), partial(_last_compression, dataset), *kinds], None)


def _accuracy(dataset: xr.Dataset, *, ax: Axes) -> None:
    """Accuracy on both splits against depth."""
    entries = []
    for index, kind in enumerate(dataset["network"].values):
        for split in dataset["split"].values:
            values = dataset["accuracy"].sel(network=kind, split=split)
            line = mean_line(ax, values["depth"].values, values, "seed", index, **_style(index, split))
            entries.append((line, f"{kind}, {split}"))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _finish(ax, "depth L (weight matrices)", "accuracy")
    legend_above(ax, entries, columns=2)


def _last_compression(dataset: xr.Dataset, *, ax: Axes) -> None:
    """Compression of the last hidden layer on both splits against depth."""
    entries, drawn = [], []
    depths = dataset["depth"].values
    for index, kind in enumerate(dataset["network"].values):
        for split in dataset["split"].values:
            values = dataset["compression"].sel(network=kind, split=split)
            last = np.stack([values.sel(depth=depth, layer=depth - 1).values for depth in depths])
            style = _style(index, split)
            entries.append((log_line(ax, depths, _mean(last), **style), f"{kind}, {split}"))
            ax.fill_between(depths, last.min(1), last.max(1), color=colour(index), alpha=0.15)
            drawn.append(last)
    log_scale(ax, drawn)
    _finish(ax, "depth L (weight matrices)", r"$D_\ell$ of the last hidden layer")
    legend_above(ax, entries, columns=2)


def _layers(compression: xr.DataArray, kind: str, *, ax: Axes) -> None:
    """Compression of every layer of one kind of network, one line a depth; the limits fit every kind."""
    entries = []
    for index, depth in enumerate(compression["depth"].values):
        values = compression.sel(depth=depth, network=kind).transpose("layer", "seed").values[:depth]
        style = {"color": colour(index + 2), "marker": marker(index + 2)}
        entries.append((log_line(ax, np.arange(depth), _mean(values), **style), f"L = {depth}"))
    log_scale(ax, [compression.values])
    _finish(ax, "layer (0 is the input)", rf"$D_\ell$ of {kind} networks, train")
    legend_above(ax, entries, columns=4)


def _style(index: int, split: str) -> dict[str, Any]:
    """A colour a network; broken lines and open markers for samples not trained on."""
    line: dict[str, Any] = {"color": colour(index), "marker": marker(index)}
    return line if split == "train" else {**line, "linestyle": (0, (4, 2)), "markerfacecolor": "white"}


def _mean(values: np.ndarray) -> np.ndarray:
    """Geometric mean over the seeds, the last axis."""
    with np.errstate(divide="ignore"):
        return np.exp(np.log(values).mean(-1))


def _finish(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Labels, and whole numbers on the horizontal axis."""
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))

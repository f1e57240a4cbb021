"""Figures of the experiments on transfer."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.scales import log_line, log_scale, name_ticks
from neurocollapse.plots.style import GREY, colour, marker

_LAYERWISE = (
    ("nc1", "NC1 of the new classes"),
    ("cdnv", "CDNV of the new classes"),
    ("accuracy", "accuracy of a probe"),
)


def transfer_collapse_figure(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Draw accuracy on the new classes against NC1 of the new and of the source's classes, a dot a network.

    Parameters
    ----------
    dataset
        Result of `transfer-collapse`.
    ax
        Two Axes; a new figure by default.
    """
    return panel_grid([partial(_scatter, dataset, name) for name in ("nc1_target", "nc1_source")], ax)


def transfer_layerwise_figure(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Draw NC1, CDNV and probe accuracy on the new classes along depth, a line a repeat.

    Parameters
    ----------
    dataset
        Result of `transfer-layerwise`.
    ax
        Three Axes; a new figure by default.
    """
    return panel_grid([partial(_along_depth, dataset, *names) for names in _LAYERWISE], ax, columns=3)


def transfer_fewshot_figure(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Draw test accuracy and NC1 of the new classes against samples per class, a line per method.

    Parameters
    ----------
    dataset
        Result of `transfer-fewshot`.
    ax
        Two Axes; a new figure by default.
    """
    return panel_grid([partial(_over_shots, dataset, name) for name in ("accuracy", "nc1")], ax)


def _scatter(dataset: xr.Dataset, name: str, *, ax: Axes) -> None:
    """One dot a network: colour by loss, told in the first panel, marker by projections, told in the second."""
    losses, depths = dataset["loss"].values, dataset["projections"].values
    for index, loss in enumerate(losses):
        for place, depth in enumerate(depths):
            one = dataset.sel(loss=loss, projections=depth)
            style: dict[str, Any] = {"color": colour(index), "marker": marker(place), "linestyle": "none"}
            ax.plot(one[name].values.ravel(), one["accuracy"].values.ravel(), **style)
    told: list[tuple[dict[str, Any], str]]
    if name == "nc1_target":
        told = [({"color": colour(index), "marker": "o"}, str(loss)) for index, loss in enumerate(losses)]
    else:
        told = [
            ({"color": GREY, "marker": marker(index)}, f"{depth} projections") for index, depth in enumerate(depths)
        ]
    ax.legend(
        handles=[Line2D([], [], linestyle="none", label=label.replace("_", "-"), **style) for style, label in told]
    )
    ax.set_xscale("log")
    ax.set(xlabel=dataset[name].attrs["long_name"], ylabel="accuracy of a probe, new classes")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def _along_depth(dataset: xr.Dataset, name: str, words: str, *, ax: Axes) -> None:
    """One variable of every repeat; the layers stand side by side, and the layer chosen by NC1 is ringed."""
    where = np.arange(dataset.sizes["layer"])
    for index, repeat in enumerate(dataset["repeat"].values):
        values = dataset[name].sel(repeat=repeat).values
        style: dict[str, Any] = {"color": colour(index), "marker": marker(index), "label": f"network {repeat}"}
        if name == "accuracy":
            ax.plot(where, values, **style)
        else:
            log_line(ax, where, values, **style)
        chosen = int(np.argmin(dataset["nc1"].sel(repeat=repeat).values))
        ax.plot(chosen, values[chosen], "o", markersize=12, markerfacecolor="none", color=GREY)
    if name == "accuracy":
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.legend(loc="best")
    else:
        log_scale(ax, [dataset[name].values.ravel()])
    name_ticks(ax, where, [str(layer) for layer in dataset["layer"].values])
    ax.set(xlabel="layer; ringed: least NC1", ylabel=words)


def _over_shots(dataset: xr.Dataset, name: str, *, ax: Axes) -> None:
    """The mean over repeats of one variable, a line per method; the band holds all repeats."""
    shots = dataset["shots"].values
    where = np.arange(len(shots))
    for index, method in enumerate(dataset["tuning"].values):
        values = dataset[name].sel(tuning=method)
        share = 100 * float(dataset["share"].sel(tuning=method))
        style: dict[str, Any] = {"color": colour(index), "marker": marker(index), "label": f"{method} ({share:.3g} %)"}
        ax.plot(where, values.mean("repeat").values, **style)
        ax.fill_between(where, values.min("repeat"), values.max("repeat"), color=colour(index), alpha=0.12, linewidth=0)
    name_ticks(ax, where, [str(count) for count in shots])
    ax.set(xlabel="samples per class", ylabel=dataset[name].attrs["long_name"])
    if name == "accuracy":
        ax.set_xlabel("samples per class; in brackets: share of the parameters trained")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.legend(loc="best", fontsize="small")
    else:
        ax.set_yscale("log")

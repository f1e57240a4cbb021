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
from neurocollapse.plots.scales import legend_above, log_line, log_scale, mean_line, name_ticks
from neurocollapse.plots.style import GREY, LINES, colour, marker

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

    Beside them the error of nearest class means of as many samples, in the source's features, and its proven bound.

    Parameters
    ----------
    dataset
        Result of `transfer-fewshot`.
    ax
        Three Axes; a new figure by default. Two for a result without errors of class means.
    """
    panels = [partial(_over_shots, dataset, name) for name in ("accuracy", "nc1")]
    if "error" in dataset.data_vars:
        panels.append(partial(_errors, dataset))
    return panel_grid(panels, ax, columns=3)


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
    where, entries = np.arange(len(shots)), []
    for index, method in enumerate(dataset["tuning"].values):
        share = 100 * float(dataset["share"].sel(tuning=method))
        line = mean_line(ax, where, dataset[name].sel(tuning=method), "repeat", index)
        entries.append((line, f"{method} ({share:.3g} %)"))
    name_ticks(ax, where, [str(count) for count in shots])
    ax.set(xlabel="samples per class", ylabel=dataset[name].attrs["long_name"])
    if name == "accuracy":
        ax.set_xlabel("samples per class; in brackets: share of the parameters trained")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        legend_above(ax, entries, columns=2)
    else:
        ax.set_yscale("log")


def _errors(dataset: xr.Dataset, *, ax: Axes) -> None:
    """Errors of nearest class means as full lines, and their bounds as broken ones."""
    where, entries = np.arange(dataset.sizes["shots"]), []
    for index, half in enumerate(dataset["half"].values):
        one, look = dataset.sel(half=half), {"linestyle": LINES[1], "markerfacecolor": "white"}
        entries.append((mean_line(ax, where, one["error"], "repeat", index), str(half)))
        entries.append((mean_line(ax, where, one["error_bound"], "repeat", index, **look), f"{half}: bound"))
    name_ticks(ax, where, [str(count) for count in dataset["shots"].values])
    ax.set(xlabel="samples per class", ylabel=dataset["error"].attrs["long_name"])
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    legend_above(ax, entries)

"""Four curves over the layers of a hybrid and of a plain perceptron."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.scales import linear_line, log_line, log_scale
from neurocollapse.plots.style import BLACK, GREY, LINES, colour, marker


def hybrid_vs_mlp_figure(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Draw probe accuracy, numerical rank, compression and separation against the layer; shaded: linear layers.

    Parameters
    ----------
    dataset
        Result of `hybrid-vs-mlp`.
    ax
        Four Axes; a new figure by default.
    """
    panels = (
        _accuracy,
        partial(_curves, quantity="numerical_rank", label="numerical rank"),
        _compression,
        partial(_curves, quantity="separation", label=r"separation $S_\ell$", log=False),
    )
    return panel_grid([partial(_panel, dataset, draw) for draw in panels], ax)


def _panel(dataset: xr.Dataset, draw: Callable[[Axes, xr.Dataset], None], *, ax: Axes) -> None:
    """One panel with its layer axis, and the hybrid's linear layers shaded."""
    draw(ax, dataset)
    first, last = int(dataset.attrs["num_nonlinear"]), int(dataset["layer"][-1])
    ax.axvspan(first + 0.5, last + 0.3, color=GREY, alpha=0.1, linewidth=0)
    ax.text(
        (first + 0.5 + last + 0.3) / 2,
        1.01,
        "linear in the hybrid",
        transform=ax.get_xaxis_transform(),
        ha="center",
        va="bottom",
        fontsize=8.5,
        color=BLACK,
    )
    ax.set(xlabel=r"layer $\ell$ (0 is the input)", xlim=(-0.3, last + 0.3))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _accuracy(ax: Axes, dataset: xr.Dataset) -> None:
    """The linear probe's accuracy on training samples, and thin and dashed on held-out ones."""
    for index, name in enumerate(dataset["network"].values):
        one, style = dataset.sel(network=name), {"color": colour(index), "marker": marker(index)}
        linear_line(ax, one["layer"].values, one["probe_accuracy_train"].values, **style, label=f"{name}, train")
        held = {**style, "linestyle": LINES[1], "linewidth": 1.0, "markerfacecolor": "white"}
        linear_line(ax, one["layer"].values, one["probe_accuracy_test"].values, **held, label=f"{name}, held out")
    ax.set_ylabel("accuracy of a linear probe")
    ax.legend(loc="best")


def _curves(ax: Axes, dataset: xr.Dataset, quantity: str, label: str, *, log: bool = True) -> None:
    """One quantity of both networks."""
    for index, name in enumerate(dataset["network"].values):
        one = dataset.sel(network=name)
        draw = log_line if log else linear_line
        draw(ax, one["layer"].values, one[quantity].values, color=colour(index), marker=marker(index), label=str(name))
    if log:
        log_scale(ax, [dataset[quantity].values])
    ax.set_ylabel(label)


def _compression(ax: Axes, dataset: xr.Dataset) -> None:
    """Compression, and the least-squares lines from the hybrid's last nonlinear layer on."""
    _curves(ax, dataset, "compression", r"compression $D_\ell$")
    layers = dataset["layer"].values[int(dataset.attrs["num_nonlinear"]) :]
    for index, name in enumerate(dataset["network"].values):
        one = dataset.sel(network=name)
        logs = np.log(one["compression"].values[layers])
        slope = float(one["linear_slope"])
        values = np.exp(logs.mean() + slope * (layers - layers.mean()))
        words = f"× {np.exp(slope):.2f} a layer, R² {float(one['linear_r_squared']):.3f}"
        log_line(ax, layers, values, color=colour(index), linestyle=LINES[1], linewidth=1.0, label=words)
    ax.legend(loc="lower left")

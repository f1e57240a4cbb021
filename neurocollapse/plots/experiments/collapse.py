"""The decay of D_l over the layers of small networks, for every depth, scale or kind of their initial weights."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.scales import log_line, log_scale
from neurocollapse.plots.style import BLACK, colour, marker

SWEPT = {"depth": "L = {:d}", "init_scale": "ε = {:g}", "init": "{}"}
"""What may differ between networks, and how a legend says it."""
TITLES = {"linear": "deep linear networks", "relu": "ReLU networks"}

Panel = Callable[..., None]


def draw_decay(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    r"""D_l against l, one panel an activation, with the line D_0 (ε²/n^{1/L})^l of the formula.

    Parameters
    ----------
    dataset
        Result of `collapse-depth`, `collapse-scale` or `collapse-init`.
    ax
        As many Axes as there are activations; a new figure by default.
    """
    return _drawn([(_decay, activation) for activation in dataset["activation"].values], dataset, ax)


def draw_tradeoff(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Decay and training of one activation side by side: what a smaller scale gains, and what it costs.

    Parameters
    ----------
    dataset
        Result of `scale-tradeoff`.
    ax
        Two Axes; a new figure by default.
    """
    activation = dataset["activation"].values[0]
    return _drawn([(_decay, activation), (_loss, activation)], dataset, ax)


def _drawn(panels: list[tuple[Panel, str]], dataset: xr.Dataset, ax: Any) -> Figure:
    """The panels side by side, in the caller's axes or in a new figure."""
    draw = [partial(panel, networks=dataset.sel(activation=activation)) for panel, activation in panels]
    return panel_grid(draw, ax, columns=len(draw))


def _decay(*, ax: Axes, networks: xr.Dataset) -> None:
    """Mean over seeds of ln D_l, every seed as a thin line, and the formula where it speaks."""
    ax.set_title(TITLES[str(networks["activation"].values)])
    shown = []
    for index, (name, one) in enumerate(_swept(networks)):
        layers, values = one["layer"].values, one["compression"].transpose("seed", "layer").values
        for single in values:
            log_line(ax, layers, single, color=colour(index), linewidth=0.5, alpha=0.5)
        mean = np.exp(np.log(values).mean(axis=0))
        log_line(ax, layers, mean, color=colour(index), marker=marker(index), label=name)
        shown.append(values)
        if str(one["activation"].values) == "linear" and str(one["init"].values) == "orth":
            rate = float(one["init_scale"]) ** 2 / networks.attrs["samples_per_class"] ** (1 / int(one["depth"]))
            log_line(ax, layers, values[0, 0] * rate ** np.arange(len(layers)), color=BLACK, linestyle=":", zorder=5)
    if str(networks["activation"].values) == "linear":
        ax.plot([], [], color=BLACK, linestyle=":", label=r"$D_0\,(\varepsilon^2/n^{1/L})^\ell$, orth")
    log_scale(ax, shown)
    ax.set(xlabel=r"layer $\ell$ (0 is the data)", ylabel=r"$D_\ell$")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower left")


def _loss(*, ax: Axes, networks: xr.Dataset) -> None:
    """Loss against step, one line per seed."""
    ax.set_title("training of the same networks")
    for index, (name, one) in enumerate(_swept(networks)):
        for number, loss in enumerate(one["loss"].transpose("seed", "step").values):
            label = name if number == 0 else "_nolegend_"
            ax.plot(one["step"], loss, color=colour(index), linewidth=1.0, label=label)
    ax.set(xlabel="step of gradient descent", ylabel="loss (½ mean)", yscale="log")
    ax.set_xlim(0, 1.02 * float(networks["steps"].max()))
    ax.legend(loc="best")


def _swept(networks: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """Every kind of network with its name in a legend: what differs, or all of it where nothing does."""
    differing = [name for name in SWEPT if networks.sizes[name] > 1] or list(SWEPT)
    kinds = itertools.product(*(networks[name].values.tolist() for name in SWEPT))
    named = []
    for kind in kinds:
        place = dict(zip(SWEPT, kind, strict=True))
        text = ", ".join(SWEPT[name].format(place[name]) for name in differing)
        named.append((text, networks.sel(place).isel(layer=slice(0, place["depth"]))))
    return named

"""How far linear networks miss the theorem's assumptions, against width and depth."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.scales import log_scale
from neurocollapse.plots.style import BLACK, BLUE, GREEN, PANEL, VERMILLION, axes_grid, context

LINES = {
    "minimum_norm": (r"distance from least norm, $\|W_{L:1} - YX^+\|_F$", BLUE, "o"),
    "balance": (
        r"imbalance, mean of $\|W_\ell W_\ell^\top - W_{\ell+1}^\top W_{\ell+1}\|_F\,/\,\|W_\ell\|_F$",
        VERMILLION,
        "s",
    ),
}


def draw_assumption_checks(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Distance from the least norm, imbalance, and variance of the middle singular values; one column a sweep.

    Parameters
    ----------
    dataset
        Result of `assumption-checks`.
    ax
        Four Axes, residuals above and variances below, width left and depth right; a new figure by default.
    """
    with context():
        if ax is None:
            figure, grid = plt.subplots(
                2, 2, figsize=(2 * PANEL[0], 1.7 * PANEL[1]), height_ratios=(3, 2), sharey="row"
            )
            axes = list(grid.flat)
        else:
            figure, axes = axes_grid(ax, 4)
        try:
            for column, sweep in enumerate(("width", "depth")):
                chosen = dataset.isel(network=dataset["sweep"].values == sweep).sortby(sweep)
                _residuals(axes[column], chosen, sweep)
                _spread(axes[2 + column], chosen, sweep)
        except Exception:
            if ax is None:
                plt.close(figure)
            raise
    return figure


def _residuals(ax: Axes, chosen: xr.Dataset, sweep: str) -> None:
    """Means of the seeds with their standard deviation."""
    for name, (label, colour, marker) in LINES.items():
        values = chosen[name]
        ax.errorbar(
            chosen[sweep], values.mean("seed"), values.std("seed"), color=colour, marker=marker, capsize=2, label=label
        )
    fixed = f"L = {int(chosen['depth'][0])}" if sweep == "width" else f"width {int(chosen['width'][0])}"
    ax.set_title(fixed)
    ax.set(ylim=(0, None), xlabel=_axis(sweep), xticks=chosen[sweep].values)
    if sweep == "width":
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.08), borderaxespad=0.0)


def _spread(ax: Axes, chosen: xr.Dataset, sweep: str) -> None:
    """The largest variance of the middle singular values, beside the square of what they all are."""
    values, scale = chosen["spread"].max("seed"), chosen.attrs["init_scale"]
    ax.plot(chosen[sweep], values, color=GREEN, marker="^", label="variance of the middle singular values")
    ax.axhline(scale**2, color=BLACK, linestyle=":", label=r"$\varepsilon^2$, for comparison")
    log_scale(ax, [values.values, np.array([scale**2, float(values.min()) / 10])])
    ax.set(xlabel=_axis(sweep), xticks=chosen[sweep].values)
    if sweep == "width":
        ax.legend(loc="center left")


def _axis(sweep: str) -> str:
    """The axis label of a sweep."""
    return {"width": "width of the hidden layers", "depth": "weight matrices L"}[sweep]

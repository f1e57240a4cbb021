"""How far the first layer of a two-layer network leaves the few directions that the first gradient names."""

from typing import Any

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.style import BLACK, PANEL, axes_grid, colour, context, marker

TITLES = {"orthonormal": "orthonormal samples, N = d", "random labels": "labels independent of X, N = {}d"}


def draw_smooth_mlp(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Drift against the initial scale ε, one line an activation, one panel a case.

    Parameters
    ----------
    dataset
        Result of `smooth-mlp`.
    ax
        As many Axes as there are cases; a new figure by default.
    """
    cases = dataset["case"].values
    with context():
        if ax is None:
            size = (len(cases) * PANEL[0], PANEL[1])
            figure, grid = plt.subplots(1, len(cases), figsize=size, sharey=True, squeeze=False)
            axes = list(grid.flat)
        else:
            figure, axes = axes_grid(ax, len(cases))
        try:
            for one, case in zip(axes, cases, strict=True):
                _drift(one, dataset["drift"].sel(case=case))
                one.set_title(TITLES[case].format(dataset.attrs["many_samples"]))
        except Exception:
            if ax is None:
                plt.close(figure)
            raise
        axes[-1].legend(loc="lower right", ncols=2)
        axes[0].set_ylabel(r"$\|U_2^\top \Delta W V_2\|_F \,/\, \|\Delta W\|_F$")
    return figure


def _drift(ax: Axes, drift: xr.DataArray) -> None:
    """Every activation: the mean of the seeds, and the seeds as dots."""
    scales = drift["init_scale"].values
    for index, name in enumerate(drift["activation"].values):
        one = drift.sel(activation=name).transpose("init_scale", "seed")
        ax.loglog(scales, one.mean("seed"), color=colour(index), marker=marker(index), label=str(name))
        ax.plot(scales, one.values, color=colour(index), marker=".", markersize=3, linestyle="none")
    ax.axhline(1.0, color=BLACK, linewidth=0.8, linestyle=":")
    ax.set(xlabel=r"initial scale $\varepsilon$", ylim=(None, 2))

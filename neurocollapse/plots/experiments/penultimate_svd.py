"""Singular values of the penultimate weights of several networks over training, and of their change."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neurocollapse.plots.style import BLUE, GREY, PANEL, VERMILLION, context

STILL = 0.1
"""Part of the largest move below which a singular value is drawn as one that stayed."""


def penultimate_svd_figure(dataset: xr.Dataset) -> Figure:
    """Draw, one row per network, every singular value of W(t) over training, and the spectra of W(0), W and ΔW.

    Parameters
    ----------
    dataset
        `singular_values`, `drift_singular_values` (network, step, component) and the attribute `num_classes`.
    """
    kinds = dataset["network"].values
    with context():
        figure, panels = plt.subplots(
            len(kinds), 2, figsize=(2 * PANEL[0], 0.75 * PANEL[1] * len(kinds)), squeeze=False, sharex="col"
        )
        for row, kind in zip(panels, kinds, strict=True):
            own = dataset.sel(network=kind).dropna("step", subset=["singular_values"], how="all")
            own = own.dropna("component", subset=["singular_values"], how="all")
            _over_training(row[0], own, str(kind))
            _spectra(row[1], own, int(dataset.attrs["num_classes"]))
        panels[0, 1].legend(loc="upper right")
        panels[-1, 0].set_xlabel("optimizer steps")
        panels[-1, 1].set_xlabel("component")
    return figure


def _over_training(ax: Axes, dataset: xr.Dataset, kind: str) -> None:
    """One line a singular value, those that end where they began in grey."""
    values = dataset["singular_values"].transpose("component", "step").values
    moves = np.abs(values[:, -1] - values[:, 0])
    far = moves > STILL * moves.max()
    for line, moved in zip(values, far, strict=True):
        style: dict[str, Any] = {"color": BLUE, "zorder": 3} if moved else {"color": GREY, "zorder": 2, "alpha": 0.5}
        ax.plot(dataset["step"], line, linewidth=1.0, **style)
    ax.set_ylabel(rf"{kind}: $\sigma_i(W)$")
    ax.set_title(f"{far.sum()} of {len(far)} move over {STILL:.0%} of the largest move", loc="left", fontsize=9)


def _spectra(ax: Axes, dataset: xr.Dataset, num_classes: int) -> None:
    """Start, end and change, by component."""
    where = dataset["component"].values
    lines = {
        "$W(0)$": (dataset["singular_values"].isel(step=0), GREY, "--"),
        "$W$ after training": (dataset["singular_values"].isel(step=-1), BLUE, "-"),
        r"$\Delta W$": (dataset["drift_singular_values"].isel(step=-1), VERMILLION, "-"),
    }
    for label, (values, colour, line) in lines.items():
        ax.plot(where, values, color=colour, linestyle=line, label=label)
    ax.axvline(num_classes + 0.5, color=GREY, linewidth=1.0, linestyle=":", label=f"K = {num_classes} classes")
    ax.set_ylabel(r"$\sigma_i$")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))

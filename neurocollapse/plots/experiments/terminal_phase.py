"""Neural collapse over the epochs of training, on training and on test samples."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.panels import panel_grid
from neurocollapse.plots.quantities import quantities
from neurocollapse.plots.style import GREY

PANELS = ("nc2_norms", "nc2_angles", "nc3", "nc1", "nc4", "ncm_error", "margin_efficiency", "error")


def terminal_phase_figure(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Draw each measure over the epochs, of training and test samples; shaded where no training error is left.

    Parameters
    ----------
    dataset
        Result of `terminal-phase`.
    ax
        Axes, eight; a new figure by default.
    """
    error = dataset["error"].assign_attrs(long_name="error of the network", valid_max=1.0).expand_dims("layer", -1)
    dataset = dataset.assign(error=error)
    return panel_grid([partial(_draw, dataset, name) for name in PANELS], ax)


def _draw(dataset: xr.Dataset, name: str, *, ax: Axes) -> None:
    """One measure of both splits."""
    splits = [str(split) for split in dataset["split"].values]
    quantities({split: dataset.sel(split=split, drop=True) for split in splits}, name, over="epoch", ax=ax)
    ax.set_xlabel("epoch")
    epochs, errors = dataset["epoch"].values, dataset["error"].sel(split="train").values.ravel()
    zero = np.flatnonzero(errors == 0)
    if zero.size:
        ax.axvspan(epochs[zero[0]], epochs[-1], color=GREY, alpha=0.12, linewidth=0)

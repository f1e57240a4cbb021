"""Matrices as colours."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from neurocollapse.plots.scales import log_ticks
from neurocollapse.plots.style import GREY

_UNDEFINED = "#D9D9D9"
_MOST_VECTOR = 5_000
"""Cells beyond which the picture holds pixels: each would be a path of its own."""


def heat_map(
    axes: Axes, values: np.ndarray, colours: str, label: str, *, edges: Sequence[np.ndarray] = (), **style: Any
) -> None:
    """Draw a matrix, undefined cells in grey, with a bar of its colours.

    Parameters
    ----------
    axes
        The bar takes some of their room.
    values
        Rows upwards, columns to the right.
    colours
        A map of matplotlib, by name.
    label
        Label of the bar.
    edges
        Between columns, and between rows; whole numbers by default.
    **style
        As `Axes.pcolormesh` takes it: `norm`, or `vmin` and `vmax`.
    """
    mesh = axes.pcolormesh(
        *edges,
        np.ma.masked_invalid(values),
        cmap=mpl.colormaps[colours].with_extremes(bad=_UNDEFINED),
        rasterized=values.size > _MOST_VECTOR,
        **style,
    )
    bar = axes.figure.colorbar(mesh, ax=axes)
    bar.set_label(label)
    if isinstance(mesh.norm, LogNorm):
        log_ticks(bar.ax)
    axes.grid(False)
    axes.tick_params(color=GREY)

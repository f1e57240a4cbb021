"""The four curves of one network, or of several, on one page."""

from typing import Any

from matplotlib.figure import Figure

from neurocollapse.plots.classes import CLASS_SPREAD
from neurocollapse.plots.datasets import Datasets
from neurocollapse.plots.layerwise import COMPRESSION, DECAY, SEPARATION
from neurocollapse.plots.parts import network_grid
from neurocollapse.plots.style import Width

PARTS = (COMPRESSION, DECAY, SEPARATION, CLASS_SPREAD)


def layers(dataset: Datasets, *, ax: Any = None, width: Width | None = None) -> Figure:
    """Draw compression with its fit, decay ratios, separation and class spread against the layer, in four panels.

    Parameters
    ----------
    dataset
        Result of `nc.measure` or `nc.analyze`, with or without steps, or a mapping of names to such results.
    ax
        Four Axes to draw in, as of ``plt.subplots(2, 2)[1]``; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 inches with the panels one below the other, or 6.9 inches.

    Returns
    -------
    matplotlib.figure.Figure
        With four equal panels; a new one has one legend of the networks, or of the steps. More than eight networks have
        a row each, with the same axes in every row.

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` is of another kind, or a variable is missing; no figure stays open.
    """
    return network_grid(PARTS, dataset, ax, width)

"""The four curves of one network, or of several, on one page."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from neurocollapse.plots.classes import class_spread
from neurocollapse.plots.datasets import Datasets
from neurocollapse.plots.layerwise import compression, decay, separation
from neurocollapse.plots.style import PANEL, axes_grid, context

PANELS = (compression, decay, separation, class_spread)


def layers(dataset: Datasets, *, ax: Any = None) -> Figure:
    """Compression with its fit, decay ratios, separation and class spread against the layer, in four panels.

    Parameters
    ----------
    dataset
        Result of `nc.measure` or `nc.analyze`, or a mapping of names to such results to compare networks.
    ax
        Four Axes to draw in, as of ``plt.subplots(2, 2)[1]``; a new figure by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` is of another kind, or a variable is missing.
    """
    if ax is not None:
        figure, panels = axes_grid(ax, len(PANELS))
        with context():
            for panel, one in zip(PANELS, panels, strict=True):
                panel(dataset, ax=one)
        return figure
    with context():
        figure, grid = plt.subplots(2, 2, figsize=(2 * PANEL[0], 2 * PANEL[1]))
        try:
            for panel, one in zip(PANELS, grid.flat, strict=True):
                panel(dataset, ax=one)
        except Exception:
            plt.close(figure)  # a figure nobody gets must not stay in pyplot's registry
            raise
    return figure

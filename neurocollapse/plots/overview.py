"""The four curves of one network, or of several, on one page."""

from functools import partial
from typing import Any

from matplotlib.figure import Figure

from neurocollapse.plots.classes import class_spread
from neurocollapse.plots.datasets import Datasets
from neurocollapse.plots.layerwise import compression, decay, separation
from neurocollapse.plots.panels import panel_grid

PANELS = (compression, decay, separation, class_spread)


def layers(dataset: Datasets, *, ax: Any = None) -> Figure:
    """Compression with its fit, decay ratios, separation and class spread against the layer, in four panels.

    Parameters
    ----------
    dataset
        Result of `nc.measure` or `nc.analyze`, with or without steps, or a mapping of names to such results.
    ax
        Four Axes to draw in, as of ``plt.subplots(2, 2)[1]``; a new figure by default.

    Returns
    -------
    matplotlib.figure.Figure
        With four panels.

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` is of another kind, or a variable is missing; no figure stays open.
    """
    return panel_grid([partial(draw, dataset) for draw in PANELS], ax)

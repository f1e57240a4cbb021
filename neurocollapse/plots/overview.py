"""The four curves of one network, or of several, on one page."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from neurocollapse.plots.classes import class_spread
from neurocollapse.plots.datasets import Datasets
from neurocollapse.plots.layerwise import compression, decay, separation
from neurocollapse.plots.style import PANEL, context

PANELS = (compression, decay, separation, class_spread)


def layers(dataset: Datasets) -> Figure:
    """Compression with its fit, decay ratios, separation and class spread against the layer, in four panels.

    Parameters
    ----------
    dataset
        Result of `nc.measure` or `nc.analyze`, or a mapping of names to such results to compare networks.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` is of another kind, or a variable is missing.
    """
    with context():
        figure, grid = plt.subplots(2, 2, figsize=(2 * PANEL[0], 2 * PANEL[1]))
        try:
            for panel, ax in zip(PANELS, grid.flat, strict=True):
                panel(dataset, ax=ax)
        except Exception:
            plt.close(figure)  # a figure nobody gets must not stay in pyplot's registry
            raise
    return figure

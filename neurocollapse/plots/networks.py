"""The networks of one axes: which are drawn, in which colour, under which name."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from neurocollapse.plots.datasets import Datasets, named, positions
from neurocollapse.plots.scales import layer_axis, legend_above
from neurocollapse.plots.style import colour, literal, marker, shortened


@dataclass(frozen=True)
class Network:
    """One network in an axes: its name, its data, and how it is drawn."""

    name: str
    dataset: xr.Dataset
    colour: str
    marker: str

    @property
    def where(self) -> np.ndarray:
        """Positions of the layers, of shape (layers,)."""
        return positions(self.dataset)

    def title(self, unnamed: str) -> str:
        """The name for a legend, or the words for a network without one."""
        return literal(shortened(self.name, 32)) if self.name else unnamed


def networks(dataset: Datasets, alone: str) -> list[Network]:
    """What to draw: a network alone in the colour of the quantity, several each in a colour of their own."""
    given = named(dataset)
    return [
        Network(name, one, alone if len(given) == 1 else colour(index), marker(index))
        for index, (name, one) in enumerate(given.items())
    ]


def finish(
    ax: Axes, drawn: Sequence[Network], entries: Sequence[tuple[Artist, str]], label: str, *, columns: int = 1
) -> Axes:
    """Axis labels, layer names and the legend."""
    ax.set_ylabel(label)
    layer_axis(ax, [one.dataset for one in drawn])
    legend_above(ax, entries, columns=columns)
    return ax

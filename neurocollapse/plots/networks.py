"""The networks of one axes, or the steps of one network: which are drawn, in which colour, under which name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from neurocollapse.plots.datasets import Datasets, named, positions, variable
from neurocollapse.plots.style import colour, literal, marker, ramp, shortened
from neurocollapse.support.dataset import labels, last, leading

MOST_APART = 8
"""Networks that colours and markers of their own can tell apart; more have the colours of a ramp, in their order."""


@dataclass(frozen=True, eq=False)
class Network:
    """One curve of each variable: its name, its data along one dimension, and how it is drawn."""

    name: str
    dataset: xr.Dataset
    colour: str
    marker: str
    over: str = "layer"
    step: str | None = None
    """Which step of a network it is, if it is one."""
    relative: bool = False
    """Whether its layers stand between 0 and 1, because the others have another depth."""

    @property
    def depths(self) -> np.ndarray:
        """Positions of the layers, or of the steps, as the dataset has them."""
        return positions(self.dataset, self.over)

    @property
    def where(self) -> np.ndarray:
        """Positions on the axis."""
        depths = self.depths
        if not self.relative:
            return depths
        return (depths - depths[0]) / (depths[-1] - depths[0]) if len(depths) > 1 else np.ones(1)

    def values(self, name: str) -> np.ndarray:
        """The values of a variable along the axis, as float64."""
        return np.asarray(variable(self.dataset, name, self.over).values, dtype=np.float64)

    def title(self, unnamed: str) -> str:
        """The name for a legend, or the words for a network without one."""
        return literal(shortened(self.name, 32)) if self.name else unnamed


def networks(dataset: Datasets, alone: str, over: str = "layer") -> list[Network]:
    """What to draw against the layer: a network in the colour of the quantity, several each in a colour of their own.

    A network with a leading dimension is drawn at every step, in the colours of a ramp; several networks at the last.
    Networks of different depth stand at relative depths.
    Against another dimension than `layer`, it is the last layer that is drawn.
    """
    given = named(dataset)
    if over != "layer":
        given = _last_layers(given, over)
    elif len(given) == 1:
        ((name, one),) = given.items()
        dim = leading(one)
        if dim is not None and one.sizes[dim] > 1:
            return _steps(one, dim)
        given = {name: last(one)[0]}
    else:
        steps = {name: last(one) for name, one in given.items()}
        given = {", ".join(filter(None, (name, words))): one for name, (one, words) in steps.items()}
    inks = [alone] if len(given) == 1 else [colour(index) for index in range(len(given))]
    if len(given) > MOST_APART:  # in axes that are not ours; where they are, each has axes of its own
        inks = ramp(len(given))
    drawn = [
        Network(name, one, ink, marker(index) if len(given) <= MOST_APART else "", over)
        for index, ((name, one), ink) in enumerate(zip(given.items(), inks, strict=True))
    ]
    uneven = over == "layer" and len({float(one.depths[-1]) for one in drawn}) > 1
    return [replace(one, relative=True) for one in drawn] if uneven else drawn


def crowded(drawn: Sequence[Network]) -> bool:
    """Whether there are more networks than colours and markers can tell apart; steps have their order."""
    return len(drawn) > MOST_APART and drawn[0].step is None


def _steps(dataset: xr.Dataset, dim: str) -> list[Network]:
    """Every step of one network, from light to dark."""
    texts = labels(dataset, dim)
    return [
        Network(f"{dim} {text}", dataset.isel({dim: at}), ink, marker(0), step=text)
        for at, (text, ink) in enumerate(zip(texts, ramp(len(texts)), strict=True))
    ]


def _last_layers(given: Mapping[str, xr.Dataset], over: str) -> dict[str, xr.Dataset]:
    """The last layer of every network, which all must have the dimension."""
    for name, one in given.items():
        if over not in one.dims:
            has = leading(one)
            raise ValueError(
                f"{f'`dataset[{name!r}]`' if name else '`dataset`'} has no dimension {over!r} in front of its layers "
                f"(it has {has or 'none'}); draw it over 'layer', or join steps with xarray.concat(…, dim={over!r})"
            )
    return {name: one.isel(layer=-1) for name, one in given.items()}

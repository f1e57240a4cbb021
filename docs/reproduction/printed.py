"""A number that a source prints: where it comes from, and where in a run its measurement lies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

TAGS = {
    "R": "from the authors' public program",
    "F": "read off a published figure",
    "S": "from slides",
    "V": "recomputed in float64, independently of this library, in the source's setting",
}


@dataclass(frozen=True)
class Printed:
    """One printed number, or a row of numbers that one claim is about.

    Attributes
    ----------
    experiment
        Name of the experiment that measures it.
    quantity
        What it is, in words and symbols; unique within the experiment.
    tag
        Where it comes from, one of `TAGS`.
    printed
        The number as text, with the digits of the source.
    claim
        Beginning of the verdicts about it, which only they have; empty where the experiment claims nothing of it.
    values
        Dataset → its values, one per network; None takes what the claim has measured.
    given
        Fields of the setting that it is printed for; elsewhere the verdict is "another setting".
    """

    experiment: str
    quantity: str
    tag: str
    printed: str
    claim: str = ""
    values: Callable[[xr.Dataset], Any] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def measured(self, dataset: xr.Dataset) -> np.ndarray | None:
        """The values as a flat array without NaN; None where the dataset has none of them."""
        if self.values is None:
            return None
        try:
            found = np.asarray(self.values(dataset), dtype=float).ravel()
        except KeyError:  # a network, a depth or a method that this run left out
            return None
        found = found[np.isfinite(found)]
        return found if found.size else None


def at(name: str, **place: Any) -> Callable[[xr.Dataset], Any]:
    """A variable at a place, by the labels of its coordinates."""
    return lambda dataset: dataset[name].sel(place)

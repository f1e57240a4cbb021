"""Bounds in a dataset: which variables bound which measurement, as their attributes say."""

from typing import NamedTuple

import xarray as xr

SIDES = ("lower", "upper")


class Bound(NamedTuple):
    """What one theorem allows for a measured variable along `layer`.

    Attributes
    ----------
    label
        The theorem in words.
    lower, upper
        Names of the variables; empty for a side that it does not have.
    place
        Its place among the theorems, the same for every measurement of a dataset.
    compared
        Whether it is compared only, its source leaving constants open.
    about
        What the bound is made of, a sentence; may be empty.
    """

    label: str
    lower: str
    upper: str
    place: int
    compared: bool
    about: str


def bounds_in(dataset: xr.Dataset) -> dict[str, list[Bound]]:
    """The bounds of every measured variable that has some, in the order of the theorems.

    A variable along `layer` whose `role` is "lower" or "upper" is a side of a bound `of` another. In files that say
    nothing, any x_lower and x_upper is one of the decay ratio, or of the separation.

    Examples
    --------
    >>> about = {"role": "upper", "of": "decay_ratio", "label": "certificate", "place": 0}
    >>> bounds_in(xr.Dataset({"decay_ratio": ("layer", [0.1]), "prior_upper": ("layer", [0.2], about)}))
    {'decay_ratio': [Bound(label='certificate', lower='', upper='prior_upper', place=0, compared=False, about='')]}
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name, variable in dataset.data_vars.items():
        stem, _, side = str(name).rpartition("_")
        side = str(variable.attrs.get("role", side))
        of = str(variable.attrs.get("of", "separation_uncentred" if stem.startswith("separation") else "decay_ratio"))
        if variable.dims == ("layer",) and side in SIDES and of in dataset.data_vars and stem not in dataset.data_vars:
            label = str(variable.attrs.get("label", stem.removeprefix("separation_").replace("_", " ")))
            found.setdefault((of, label), {})[side] = str(name)
    labels = list(dict.fromkeys(label for _, label in found))
    bounds: dict[str, list[Bound]] = {}
    for (of, label), sides in found.items():
        attributes = dataset[next(iter(sides.values()))].attrs
        place, compared = int(attributes.get("place", labels.index(label))), bool(attributes.get("compared", False))
        lower, upper = (sides.get(side, "") for side in SIDES)
        bounds.setdefault(of, []).append(Bound(label, lower, upper, place, compared, str(attributes.get("about", ""))))
    return {of: sorted(some, key=lambda bound: bound.place) for of, some in bounds.items()}

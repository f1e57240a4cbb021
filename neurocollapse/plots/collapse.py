"""Neural collapse as papers show it: NC1 to NC4, over the layers or over training."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from neurocollapse.plots.datasets import Datasets, common_steps, named
from neurocollapse.plots.parts import Part, network_grid, network_panel
from neurocollapse.plots.quantities import part_of
from neurocollapse.plots.style import Width
from neurocollapse.support.dataset import family, heading, last, limit, shown

FAMILY = "collapse"
TITLES = {
    "NC1": "variability collapse",
    "NC2": "simplex frame of the means",
    "NC3": "self-duality",
    "NC4": "nearest class mean",
    "NC5": "orthogonality to other data",
}
_MOST_CURVES = 4
_FURTHER, _UNLIMITED = "Further measures", "Measures without a known limit"


def collapse(dataset: Datasets, *, ax: Any = None, width: Width | None = None) -> Figure:
    """Draw the measures of neural collapse against the layer, with a panel for each of NC1 to NC4 and for the others.

    Where the dataset has a leading dimension (step, epoch, checkpoint), the last layer is drawn against it instead. All
    variables of the family "collapse" that the dataset has are drawn, see `quantities` for arrows and dotted lines.

    Parameters
    ----------
    dataset
        With variables of the family "collapse", as of ``nc.analyze(…, quantities="collapse")``; or a mapping of names
        to such datasets, of which those variables are drawn that all have.
    ax
        Axes to draw in, one per panel; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 inches with the panels one below the other, or 6.9 inches.

    Returns
    -------
    matplotlib.figure.Figure
        In a new one more than eight networks have a row each, with the same axes in every row.

    Raises
    ------
    TypeError
        If ``dataset`` or ``ax`` is of another kind.
    ValueError
        If ``dataset`` has no measure of collapse, or ``ax`` another number of axes than there are panels.

    References
    ----------
    Papyan, Han, Donoho, "Prevalence of neural collapse during the terminal phase of deep learning training", PNAS
    117(40), 2020.

    Examples
    --------
    >>> import xarray as xr
    >>> nc3 = ("layer", [0.9, 0.1], {"family": "collapse", "heading": "NC3", "at_collapse": 0.0})
    >>> [axes.get_legend().get_title().get_text() for axes in collapse(xr.Dataset({"nc3": nc3})).axes]
    ['NC3: self-duality']
    """
    return network_grid(_parts(dataset), dataset, ax, width)


def collapse_panels(dataset: Datasets) -> dict[str, Callable[..., Any]]:
    """Title of each panel, and the function that draws it in ``ax=``."""
    return {part.title: partial(network_panel, part, dataset) for part in _parts(dataset)}


def _parts(dataset: Datasets) -> list[Part]:
    """The panels: at most four measures each, with what they are at their head."""
    networks = named(dataset)
    over = common_steps(networks)
    parts = []
    for group, names in _groups({name: last(one)[0] for name, one in networks.items()}).items():
        title = f"{group}: {TITLES[group]}" if group in TITLES else group
        for start in range(0, len(names), _MOST_CURVES):
            part = f"{title} ({1 + start // _MOST_CURVES})" if start else title
            parts.append(part_of(names[start : start + _MOST_CURVES], over=over, title=part))
    return parts


def _groups(networks: Mapping[str, xr.Dataset]) -> dict[str, list[str]]:
    """Names of the measures under NC1, NC2, …, by the number in their heading or name.

    Those without a number, and those of which no limit is known, whose scales differ, stand last.
    """
    first = next(iter(networks.values()))
    names = [
        name
        for name in shown(first)
        if all(name in shown(one) and family(one, name) == FAMILY for one in networks.values())
    ]
    if not names:
        raise ValueError(
            "`dataset` has no measure of neural collapse along `layer`; measure some with "
            "nc.analyze(model, loader, quantities='collapse')"
        )
    groups: dict[str, list[str]] = {}
    for name in names:
        number = re.search(r"(?i)nc([1-5])", f"{heading(first, name)} {name}")
        known = f"NC{number[1]}" if number else _FURTHER
        groups.setdefault(_UNLIMITED if np.isnan(limit(first, name)) else known, []).append(name)
    return dict(sorted(groups.items(), key=lambda group: ((_FURTHER, _UNLIMITED).count(group[0]), group[0])))

"""Layers against layers, as a heat map."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from neurocollapse.plots.datasets import axis_label
from neurocollapse.plots.frames import panel
from neurocollapse.plots.heat import heat_map
from neurocollapse.plots.scales import thinned
from neurocollapse.plots.style import Width, literal, shortened
from neurocollapse.support.dataset import labels


def similarity(dataset: xr.Dataset, name: str = "cka", *, ax: Axes | None = None, width: Width | None = None) -> Axes:
    """Draw the similarity of all pairs of layers as a heat map, in order of depth to the right and upwards.

    Colours go from 0 to 1, or from the smallest value where that is negative; undefined cells are grey.

    Parameters
    ----------
    dataset
        Result of `nc.similarity`; `layer` is drawn upwards, `layer_` to the right.
    name : str, default "cka"
        A variable along `layer, layer_`, such as "class_cka".
    ax
        Axes to draw in; a new figure by default. The colour bar takes some of their room.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 or 6.9 inches, with letters to read at that size.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If ``dataset`` or ``ax`` is of another kind.
    ValueError
        If ``dataset`` has no such variable along `layer, layer_`.

    Examples
    --------
    >>> pairs = xr.Dataset({"cka": (("layer", "layer_"), np.eye(2))}, {"layer": ["a", "b"], "layer_": ["a", "b"]})
    >>> similarity(pairs).get_xlabel()
    'layer'
    """
    values = _values(dataset, name)
    with panel(ax, width) as axes:
        known = values[np.isfinite(values)]
        heat_map(axes, values, "viridis", axis_label(dataset, name), vmin=min(0.0, known.min(initial=0.0)), vmax=1.0)
        _name_layers(axes.xaxis, labels(dataset, "layer_"), rotation=90)
        _name_layers(axes.yaxis, labels(dataset, "layer"))
        axes.set_xlabel("layer")
        axes.set_ylabel("layer")
    return axes


def _values(dataset: Any, name: str) -> np.ndarray:
    """The matrix, rows along `layer`."""
    if not isinstance(dataset, xr.Dataset):
        raise TypeError(
            f"`dataset` must be an xarray.Dataset, got {type(dataset).__name__}; pass what nc.similarity returns"
        )
    if name not in dataset.data_vars or set(dataset[name].dims) != {"layer", "layer_"}:
        raise ValueError(
            f"`dataset` has no {name!r} along layer, layer_; pass what nc.similarity(model, loader) returns"
        )
    return np.asarray(dataset[name].transpose("layer", "layer_").values, dtype=np.float64)


def _name_layers(axis: Any, names: list[str], **style: Any) -> None:
    """Names in the middle of the cells, some of them where they are many."""
    kept = thinned(len(names))
    axis.set_ticks(np.asarray(kept) + 0.5, [literal(shortened(names[index], 18)) for index in kept], **style)

"""Weights over training: the spectrum as a landscape over the steps, and how far singular subspaces turn."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d import Axes3D

from neurocollapse.plots.datasets import variable
from neurocollapse.plots.frames import panel
from neurocollapse.plots.scales import legend_above
from neurocollapse.plots.style import BLUE, GREY, ORANGE, WIDTHS, Width, check_width, context, literal
from neurocollapse.support.dataset import layer_names
from neurocollapse.support.names import did_you_mean
from neurocollapse.support.numbers import short

SIDES = {"left": "left (output)", "right": "right (input)"}
MOST_RIBS = 13
"""Steps at which a line is drawn across the components."""
MOST_BETWEEN = 30
"""Most curves that are drawn for the components between the leading and the trailing ones."""
VIEW = (24.0, -56.0)
"""Elevation and azimuth, from which neither the leading nor the trailing values hide the others."""


def trajectory(
    dataset: xr.Dataset,
    *,
    layer: str | int | None = None,
    quantity: str = "singular_values",
    ax: Any = None,
    width: Width | None = None,
) -> Axes3D:
    """Draw one layer's singular values as a landscape over index and step.

    The singular values whose vectors the tracker follows one by one are coloured, leading ones blue and trailing ones
    orange; those between, which it follows as one subspace, are grey. Where only leading values are kept, none is
    orange.

    Parameters
    ----------
    dataset
        Result of a `WeightTracker`.
    layer
        Name or position; default the first.
    quantity : str, default "singular_values"
        "singular_values" or "drift_singular_values".
    ax
        Axes with projection="3d"; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 or 6.9 inches, with letters to read at that size.

    Returns
    -------
    mpl_toolkits.mplot3d.Axes3D

    Raises
    ------
    TypeError, ValueError
        If the layer or variable does not exist, there is no step, or ``ax`` is flat.

    Examples
    --------
    >>> steps = xr.Dataset({"singular_values": (("step", "layer", "component"), [[[2.0, 1.0]], [[3.0, 1.0]]])})
    >>> trajectory(steps).get_ylabel()
    'step'
    """
    values = _of_layer(variable(dataset, quantity, "step", "layer", "component"), dataset, layer)
    table = values.values[:, ~np.isnan(values.values).all(axis=0)]
    steps = _steps(dataset)
    if ax is not None and not isinstance(ax, Axes3D):
        raise TypeError(f"`ax` must be three-dimensional, got {type(ax).__name__}; make it with projection='3d'")
    check_width(ax, width)
    with context(width):
        if ax is None:
            size = (WIDTHS[width], 0.84 * min(WIDTHS[width], 5.0)) if width else (5.0, 4.2)
            place = (0.0, 0.06, 0.82, 0.94) if width else (0.0, 0.02, 0.88, 0.98)
            ax = plt.figure(figsize=size, layout="none").add_axes(place, projection="3d")
        _draw_landscape(ax, steps, table, *_ends(values, table.shape[1], dataset.sizes.get("edge", 0)))
        ax.set_xlabel("index $i$")
        ax.set_ylabel("step")
        ax.set_zlabel(f"${dataset[quantity].attrs.get('symbol', quantity)}$")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.zaxis.set_major_locator(MaxNLocator(5))
        ax.view_init(*VIEW)
    return ax


def angles(
    dataset: xr.Dataset,
    *,
    layer: str | int | None = None,
    side: str = "right",
    ax: Axes | None = None,
    width: Width | None = None,
) -> Axes:
    """Draw how far one layer's singular vectors have turned since the reference step.

    Parameters
    ----------
    dataset
        Result of a `WeightTracker` with a reference step.
    layer
        Name or position of one; by default the first is drawn.
    side : str, default "right"
        "right" (directions in the layer's input) or "left" (in its output).
    ax
        Axes to draw in; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 or 6.9 inches, with letters to read at that size.

    Returns
    -------
    matplotlib.axes.Axes
        In radians.

    Raises
    ------
    TypeError, ValueError
        If the layer or side does not exist, or there is no step.

    Examples
    --------
    >>> dims, number = ("step", "layer", "side", "edge"), [[[[0.0]]], [[[0.3]]]]
    >>> steps = xr.Dataset({"top_angle": (dims, number), "bottom_angle": (dims, number),
    ...                     "middle_angle": (dims[:3], [[[0.0]], [[0.0]]])}, coords={"side": ["right"]})
    >>> angles(steps).get_xlabel()
    'step'
    """
    edges = ("step", "layer", "side", "edge")
    found = {
        "leading": variable(dataset, "top_angle", *edges),
        "trailing": variable(dataset, "bottom_angle", *edges),
        "middle": variable(dataset, "middle_angle", *edges[:3]),
    }
    steps = _steps(dataset)
    if side not in dataset["side"].values:
        raise ValueError(f"`side` must be one of {', '.join(map(repr, dataset['side'].values.tolist()))}, got {side!r}")
    chosen = {name: _of_layer(values, dataset, layer).sel(side=side).values for name, values in found.items()}
    with panel(ax, width) as ax:
        entries: list[tuple[Any, str]] = []
        for name, colour, line in (("leading", BLUE, "-"), ("trailing", ORANGE, (0, (5, 2)))):
            count = int((~np.isnan(chosen[name])).any(axis=0).sum())
            for index in range(count):
                label = f"{name} {count}, one by one" if count > 1 else f"{name} vector"
                (drawn,) = ax.plot(steps, chosen[name][:, index], color=colour, linestyle=line)
                entries += [] if index else [(drawn, label)]
        middle = chosen["middle"]
        if not np.isnan(middle).all():
            # Wide and behind the others: a vector that turns with the middle lies on its curve.
            (drawn,) = ax.plot(steps, middle, color=GREY, linewidth=5.0, alpha=0.5, zorder=1.5)
            entries.append((drawn, f"those between, together: up to {short(np.nanmax(middle), 2)}"))
        ax.set(xlabel="step", ylabel=f"angle of the {SIDES.get(side, side)}\nsingular vectors  [rad]")
        top = max((float(np.nanmax(values)) for values in chosen.values() if not np.isnan(values).all()), default=1.0)
        ax.set_ylim(-0.02 * max(top, 1e-3), 1.06 * max(top, 1e-3))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        legend_above(ax, entries)
    return ax


def landscape_legend(ax: Axes3D, edge: int, **options: Any) -> None:
    """A legend of the colours of `trajectory`, and of the labelled lines that were added to it."""
    parts = {f"leading {edge}": BLUE, "between": GREY, f"trailing {edge}": ORANGE}
    lines = [Line2D([], [], color=colour, label=name) for name, colour in parts.items()]
    ax.legend(handles=[*lines, *ax.get_legend_handles_labels()[0]], **options)


def _ends(values: xr.DataArray, count: int, edge: int) -> tuple[int, int]:
    """How many leading and trailing components are followed one by one, of those that are kept."""
    size = min(int(values["rows"]), int(values["columns"])) if {"rows", "columns"} <= set(values.coords) else count
    singles = min(edge, size // 2)
    return min(singles, count), singles if count == size else 0


def _draw_landscape(ax: Axes3D, steps: np.ndarray, table: np.ndarray, leading: int, trailing: int) -> None:
    """Curves along the steps, coloured by place in the spectrum, and thin ribs across."""
    count = table.shape[1]
    index = np.arange(1, count + 1)
    for row in np.unique(np.linspace(0, len(steps) - 1, MOST_RIBS).round().astype(int)):
        ax.plot(index, np.full(count, steps[row]), table[row], color="#BBBBBB", linewidth=0.6, zorder=1)
    last = count - trailing
    between = np.linspace(leading, last - 1, min(MOST_BETWEEN, last - leading)).round().astype(int)
    for component in sorted([*range(leading), *between, *range(last, count)], reverse=True):
        middle = leading <= component < last
        colour = GREY if middle else BLUE if component < leading else ORANGE
        ax.plot(
            np.full(len(steps), index[component]),
            steps,
            table[:, component],
            color=colour,
            linewidth=0.8 if middle else 1.8,
        )


def _steps(dataset: xr.Dataset) -> np.ndarray:
    """The steps, or their positions."""
    if dataset.sizes["step"] == 0:
        raise ValueError("`dataset` has no step to draw; record some first")
    return np.asarray(dataset["step"].values, dtype=np.float64)


def _of_layer(values: xr.DataArray, dataset: xr.Dataset, layer: str | int | None) -> xr.DataArray:
    """One layer, by name or position."""
    names = layer_names(dataset)
    if isinstance(layer, str):
        if layer not in names:
            raise ValueError(f"`layer` = {literal(layer)!r} is not in the dataset{did_you_mean(layer, names)}")
        return values.isel(layer=names.index(layer))
    position = 0 if layer is None else layer
    if not -len(names) <= position < len(names):
        raise ValueError(f"`layer` must lie in [0, {len(names)}), got {position}")
    return values.isel(layer=position)

"""One quantity of all layers over training, as a heat map."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from neurocollapse.plots.datasets import axis_label, named, positions, variable
from neurocollapse.plots.frames import panel
from neurocollapse.plots.heat import heat_map
from neurocollapse.plots.quantities import far_apart, towards_zero
from neurocollapse.plots.scales import step_axis, thinned
from neurocollapse.plots.style import Width, literal, shortened
from neurocollapse.support.dataset import layer_names, leading

_COLOURS = "viridis"


def evolution(
    dataset: xr.Dataset,
    name: str = "compression",
    *,
    relative: bool = False,
    ax: Axes | None = None,
    width: Width | None = None,
) -> Axes:
    """Draw a quantity as a heat map: steps to the right, layers upwards in order of depth.

    Colours are logarithmic where values span a decade or more and small ones are the ones to tell apart. Cells reach
    half-way to their neighbours; undefined ones are grey, and on a logarithmic scale so are exact zeros.

    Parameters
    ----------
    dataset
        Result of a tracker, or joined along any leading dimension.
    name : str, default "compression"
        A variable along `layer`.
    relative : bool, default False
        Put the layers at their relative depth, from 0 to 1, to compare networks of different depth.
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
        If ``dataset`` has several networks, no such variable, or no dimension in front of its layers.

    Examples
    --------
    >>> run = xr.Dataset({"compression": (("step", "layer"), [[4.0, 2.0], [3.0, 0.5]])}, {"step": [0, 10]})
    >>> evolution(run).get_xlabel()
    'step'
    """
    one, dim = _run(dataset)
    values = np.asarray(variable(one, name, dim, "layer").values, dtype=np.float64).T
    names, depth = layer_names(one), np.arange(one.sizes["layer"], dtype=np.float64)
    if relative:
        depth = np.linspace(0.0, 1.0, len(names)) if len(names) > 1 else np.zeros(1)
    with panel(ax, width) as axes:
        heat_map(
            axes,
            np.where(_shown(values, one, name), values, np.nan),
            _COLOURS,
            axis_label(one, name),
            edges=(_edges(positions(one, dim)), _edges(depth)),
            norm=_norm(values, one, name),
        )
        step_axis(axes, [one], dim)
        _layer_ticks(axes, depth, names, relative=relative)
    return axes


def _run(dataset: Any) -> tuple[xr.Dataset, str]:
    """The one network, and its leading dimension."""
    networks = named(dataset)
    if len(networks) > 1:
        raise ValueError(f"a heat map shows one network, got {len(networks)}; draw each, in axes of its own")
    ((_, one),) = networks.items()
    dim = leading(one)
    if dim is None:
        raise ValueError("`dataset` has no dimension in front of its layers; join steps, or use nc.track")
    return one, dim


def _is_log(values: np.ndarray, dataset: xr.Dataset, name: str) -> bool:
    """Whether colours are logarithmic."""
    return far_apart([values.ravel()]) and towards_zero(dataset, name)


def _shown(values: np.ndarray, dataset: xr.Dataset, name: str) -> np.ndarray:
    """Which values the scale has a place for."""
    return np.isfinite(values) & (values > 0) if _is_log(values, dataset, name) else np.isfinite(values)


def _norm(values: np.ndarray, dataset: xr.Dataset, name: str) -> Normalize:
    """The scale of the colours."""
    shown = values[_shown(values, dataset, name)]
    ends = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    return LogNorm(*ends) if _is_log(values, dataset, name) else Normalize(*ends)


def _edges(where: np.ndarray) -> np.ndarray:
    """Borders half-way between positions, and as far beyond the outer ones."""
    if len(where) == 1:
        return np.array([where[0] - 0.5, where[0] + 0.5])
    middle = (where[1:] + where[:-1]) / 2
    return np.concatenate([[2 * where[0] - middle[0]], middle, [2 * where[-1] - middle[-1]]])


def _layer_ticks(ax: Axes, depth: np.ndarray, names: list[str], *, relative: bool) -> None:
    """Names beside the rows, some of them where they are many; numbers where depth is relative."""
    ax.set_ylabel("relative depth" if relative else "layer")
    if not relative:
        kept = thinned(len(names))
        ax.set_yticks(depth[kept], [literal(shortened(names[index], 18)) for index in kept])

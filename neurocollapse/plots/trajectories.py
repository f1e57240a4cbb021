"""One quantity of every layer over training as curves, and over several runs as a band."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from neurocollapse.plots.datasets import Datasets, axis_label, common_steps, named, positions, variable
from neurocollapse.plots.frames import panel
from neurocollapse.plots.quantities import far_apart, towards_zero
from neurocollapse.plots.scales import legend_above, linear_line, log_line, log_scale, ramp_handle, step_axis, thinned
from neurocollapse.plots.style import GREY, Width, literal, ramp, shortened
from neurocollapse.support.dataset import layer_names
from neurocollapse.support.names import did_you_mean

_MOST_NAMED = 5
"""Layers that the legend names one by one."""


def trajectories(
    dataset: Datasets,
    name: str = "compression",
    *,
    layers: Sequence[str] | None = None,
    ax: Axes | None = None,
    width: Width | None = None,
) -> Axes:
    """Draw a quantity of each layer over the steps, in colours from light to dark with depth.

    Several runs are drawn as their median and a band from the lowest to the highest of those that have the step. The
    axis is logarithmic where values span a decade and small ones are the ones to tell apart; it has no place for zeros.

    Parameters
    ----------
    dataset
        Result of a tracker, or joined along any leading dimension; also with a dimension `run` in front, or a mapping
        of names to runs.
    name : str, default "compression"
        A variable along `layer`.
    layers : list of str, optional
        Which layers; by default all, or twelve of them where there are more.
    ax
        Axes to draw in; a new figure by default.
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
        If there is no such variable or layer, no dimension in front of the layers, or runs differ in theirs.

    Examples
    --------
    >>> steps = {"step": [0, 10], "layer": ["fc1", "fc2"]}
    >>> run = xr.Dataset({"compression": (("run", "step", "layer"), [[[4.0, 2.0], [3.0, 0.5]]] * 3)}, steps)
    >>> trajectories(run).get_xlabel()
    'step'
    """
    runs = named(dataset)
    dim = common_steps(runs)
    if dim == "layer":
        raise ValueError(
            "`dataset` has no dimension with several steps that all runs share; use nc.track, or join steps"
        )
    joined = _joined(runs, name, dim)
    first = next(iter(runs.values()))
    kept = _positions_of(layer_names(first), layers)
    values = joined.values[:, :, kept]
    is_log = far_apart([values.ravel()]) and towards_zero(first, name)
    known = np.ma.masked_invalid(values)
    middle = np.ma.median(known, axis=0).filled(np.nan)
    low, high = known.min(axis=0).filled(np.nan), known.max(axis=0).filled(np.nan)
    where = positions(joined.to_dataset(name="value"), dim)
    inks = ramp(len(kept))
    with panel(ax, width) as axes:
        for index, ink in enumerate(inks):
            (log_line if is_log else linear_line)(axes, where, middle[:, index], color=ink, linewidth=1.4)
            if len(runs) > 1:
                axes.fill_between(where, low[:, index], high[:, index], color=ink, alpha=0.25, linewidth=0)
        if is_log:
            log_scale(axes, [low, high])
        axes.set_ylabel(axis_label(first, name))
        step_axis(axes, [first], dim)
        legend_above(axes, [*_layer_entries([layer_names(first)[at] for at in kept], inks), *_run_entries(len(runs))])
    return axes


def _joined(runs: dict[str, xr.Dataset], name: str, dim: str) -> xr.DataArray:
    """The variable along run, step and layer, with NaN at steps that a run lacks."""
    found = [variable(one, name, dim, "layer").astype(np.float64) for one in runs.values()]
    names = [layer_names(one) for one in runs.values()]
    if any(one != names[0] for one in names):
        raise ValueError("runs have different layers; draw each in axes of its own")
    labels = [one[dim].values if dim in one.coords else np.arange(one.sizes[dim]) for one in found]
    if all(np.array_equal(one, labels[0]) for one in labels):
        return xr.DataArray(np.stack([one.values for one in found]), {dim: labels[0]}, ("run", dim, "layer"))
    if not all(np.issubdtype(one.dtype, np.number) for one in labels):
        raise ValueError(f"runs have different {dim}s, which have no numbers to put them in order")
    bare = [xr.DataArray(one.values, {dim: label}, (dim, "layer")) for one, label in zip(found, labels, strict=True)]
    return xr.concat(bare, "run", join="outer")


def _positions_of(names: list[str], layers: Sequence[str] | None) -> list[int]:
    """Which layers to draw, in order of depth."""
    if layers is None:
        return thinned(len(names))
    wanted = [layers] if isinstance(layers, str) else list(layers)
    missing = next((one for one in wanted if one not in names), None)
    if missing is not None or not wanted:
        raise ValueError(f"`layers`: there is no layer {missing!r}{did_you_mean(str(missing), names)}")
    return sorted(names.index(one) for one in set(wanted))


def _layer_entries(names: list[str], inks: list[str]) -> list[tuple[Any, str]]:
    """The layers by name, or many as one entry."""
    short = [literal(shortened(one, 18)) for one in names]
    if len(names) > _MOST_NAMED:
        return [(ramp_handle(inks), f"{short[0]} to {short[-1]}, {len(names)} layers")]
    return [(Line2D([], [], color=ink, linewidth=3.0), name) for ink, name in zip(inks, short, strict=True)]


def _run_entries(count: int) -> list[tuple[Any, str]]:
    """What line and band are, where there are several runs."""
    if count == 1:
        return []
    return [(Patch(color=GREY, alpha=0.25, linewidth=0), f"lowest to highest of {count} runs; line: the median")]

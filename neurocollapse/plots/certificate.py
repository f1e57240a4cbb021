"""One glance at what is proved about a linear tail: measured D, its certified band, floor and transient."""

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from neurocollapse.plots.datasets import axis_label, layer_names, per_layer
from neurocollapse.plots.frames import panel
from neurocollapse.plots.scales import legend_above, log_scale, name_ticks
from neurocollapse.plots.style import BLACK, BLUE, GREY, LINES, ORANGE, VERMILLION, Width

CURVES = (
    ("compression_floor", "floor: D of the output", GREY, LINES[1]),
    ("compression_invisible", "transient: spread that the output does not see", ORANGE, LINES[0]),
    ("compression_visible", "spread that the output sees", VERMILLION, LINES[3]),
)
OUTSIDE = 1e-9
"""How far outside the band, as a part of itself, rounding may carry a measurement."""


SHOWN = 0.1
"""Share of the least measured D down to which curves affect the range of the axis."""


def certificate(dataset: xr.Dataset, *, ax: Axes | None = None, width: Width | None = None) -> Axes:
    """Draw D of every layer of a linear tail inside its certified band, with its floor and its transient.

    The band follows from the input, the output and the weights alone: no features in between are looked at. D is a
    geometric transient (spread that the output does not see) on a floor that the training loss sets.

    Parameters
    ----------
    dataset
        `Verification.to_dataset()`.
    ax
        Axes to draw in; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 or 6.9 inches, with letters to read at that size.

    Returns
    -------
    matplotlib.axes.Axes
        Logarithmic; what is not defined, or 0, is not drawn. A measurement outside the band is ringed.

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, or `compression` is missing.

    Examples
    --------
    >>> import xarray as xr
    >>> table = {"compression": ("layer", [1.0, 0.5]), "certified_lower": ("layer", [1.0, 0.4])}
    >>> certificate(xr.Dataset(table | {"certified_upper": ("layer", [1.0, 0.6])})).get_yscale()
    'log'
    """
    if not isinstance(dataset, xr.Dataset):
        raise TypeError(
            f"`dataset` must be an xarray.Dataset, got {type(dataset).__name__}; pass verification.to_dataset()"
        )
    with panel(ax, width) as ax:
        legend_above(ax, certified_curves(dataset, ax=ax))
    return ax


def certified_curves(dataset: xr.Dataset, *, ax: Axes) -> list[tuple[Artist, str]]:
    """Draw the certificate into axes, and return the entries of its legend."""
    measured = per_layer(dataset, "compression")
    low, high = (_values(dataset, f"certified_{side}", measured.size) for side in ("lower", "upper"))
    curves = {name: _values(dataset, name, measured.size) for name, *_ in CURVES}
    # A floor of 1e-30 is rounding, and would leave no room for the rest.
    least = SHOWN * np.min(measured[measured > 0], initial=np.inf)
    log_scale(ax, [measured, low, high, *(np.where(one >= least, one, np.nan) for one in curves.values())])
    bottom, top = ax.get_ylim()
    place, entries = np.arange(measured.size, dtype=np.float64), _measured(ax, measured)
    known = np.isfinite(low) & ~np.isnan(high)
    if known.any():
        edges = np.clip(low[known], bottom, top), np.clip(high[known], bottom, top)
        band = ax.fill_between(place[known], *edges, color=BLUE, alpha=0.25, linewidth=0)
        entries.append((band, "certified from input, output and weights"))
    for name, words, ink, line in CURVES:
        if np.isfinite(curves[name]).any():
            (drawn,) = ax.plot(place, curves[name], color=ink, linestyle=line, linewidth=1.4)
            entries.append((drawn, words))
    missed = known & ((measured > high * (1 + OUTSIDE)) | (measured < low * (1 - OUTSIDE)))
    if missed.any():
        ring = {"linestyle": "none", "marker": "o", "markersize": 12, "markerfacecolor": "none"}
        (rings,) = ax.plot(place[missed], measured[missed], markeredgecolor=VERMILLION, **ring)  # type: ignore[arg-type]
        entries.append((rings, "outside the band"))
    ax.set_ylim(bottom, top)
    ax.set_ylabel(axis_label(dataset, "compression"))
    name_ticks(ax, place, layer_names(dataset))
    ax.set_xlabel(r"layer $\ell$ (0 is what enters the tail)")
    return entries


def _values(dataset: xr.Dataset, name: str, size: int) -> np.ndarray:
    """A variable along `layer`; NaN where the dataset has none, as for a tail that is too narrow."""
    return per_layer(dataset, name) if name in dataset.data_vars else np.full(size, np.nan)


def _measured(ax: Axes, measured: np.ndarray) -> list[tuple[Artist, str]]:
    """The measurement in front of everything."""
    (line,) = ax.plot(np.arange(measured.size), measured, color=BLACK, marker="o", linewidth=1.4, zorder=5)
    return [(line, "measured D")]

"""Singular values or eigenvalues of layers, one curve each."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from neurocollapse.plots.frames import columns_that_fit, panel
from neurocollapse.plots.networks import MOST_APART
from neurocollapse.plots.scales import legend_above, ramp_handle
from neurocollapse.plots.style import Width, colour, literal, marker, ramp, shortened
from neurocollapse.support.dataset import APART

_FAR_APART = 50.0
"""Ratio of the largest to the smallest positive value above which the axis is logarithmic."""


def spectra(
    values: Mapping[str, Any] | xr.DataArray,
    *,
    relative: bool = False,
    ax: Axes | None = None,
    width: Width | None = None,
) -> Axes:
    """Draw spectra against the component's index, from the largest value down, one line per layer or step.

    Parameters
    ----------
    values
        Layer name to array of shape (components,), as of `torch.linalg.svdvals`; or a DataArray with the dimension
        ``component`` and one other. Along a dimension such as step or epoch, curves go from light to dark, and so do
        more than eight of any kind.
    relative : bool, default False
        Divide each spectrum by its largest value.
    ax
        Axes to draw in; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 or 6.9 inches, with letters to read at that size.

    Returns
    -------
    matplotlib.axes.Axes
        Logarithmic where values lie far apart.

    Raises
    ------
    TypeError, ValueError
        If a spectrum is not one-dimensional, negative or not finite, or there is none.

    Examples
    --------
    >>> spectra({"fc1": [3.0, 1.0], "fc2": [2.0, 0.5]}).get_xlabel()
    'component'
    """
    found = {name: _sorted(name, spectrum) for name, spectrum in _named(values).items()}
    if not found:
        raise ValueError("`values` holds no spectrum; give at least one")
    shown = {name: _relative(spectrum) if relative else spectrum for name, spectrum in found.items()}
    with panel(ax, width) as ax:
        inks = _inks(values, len(shown))
        few = len(shown) <= MOST_APART
        lines = [_line(ax, index, one, inks[index], few=few) for index, one in enumerate(shown.values())]
        positive = np.concatenate([spectrum[spectrum > 0] for spectrum in shown.values()])
        if positive.size and positive.max() > _FAR_APART * positive.min():
            ax.set_yscale("log", nonpositive="mask")
        ax.set(xlabel="component", ylabel="value / largest value" if relative else "singular value")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        names = [literal(shortened(name)) for name in shown]
        entries: list[tuple[Any, str]] = list(zip(lines, names, strict=True))
        if len(entries) > MOST_APART:
            entries = [(ramp_handle(inks), f"{names[0]} to {names[-1]}, {len(names)} spectra")]
        legend_above(
            ax, entries, columns=columns_that_fit(names, ax.bbox.width / ax.figure.dpi) if len(names) > 3 else 1
        )
    return ax


def _inks(values: Mapping[str, Any] | xr.DataArray, count: int) -> list[str]:
    """A colour for each spectrum: of layers and networks one of its own, of steps one of a ramp."""
    apart = not isinstance(values, xr.DataArray) or not {"layer", *APART}.isdisjoint(map(str, values.dims))
    return [colour(index) for index in range(count)] if apart and count <= MOST_APART else ramp(count)


def _line(ax: Axes, index: int, spectrum: np.ndarray, ink: str, *, few: bool) -> Line2D:
    """One spectrum in its colour, with a marker of its own where there are few."""
    style: dict[str, Any] = {"color": ink, "marker": marker(index)} if few else {"color": ink, "linewidth": 1.0}
    every = max(1, spectrum.size // 12)
    return ax.plot(np.arange(1, spectrum.size + 1), spectrum, markevery=every, **style)[0]


def _relative(spectrum: np.ndarray) -> np.ndarray:
    """A spectrum over its largest value, where that is not zero."""
    return spectrum / spectrum[0] if spectrum.size and spectrum[0] > 0 else spectrum


def _named(values: Mapping[str, Any] | xr.DataArray) -> dict[str, Any]:
    """Spectra by name, from a mapping or from the rows of a DataArray."""
    if isinstance(values, xr.DataArray):
        others = [str(name) for name in values.dims if name != "component"]
        if "component" not in values.dims or len(others) != 1:
            raise ValueError(
                f"`values` needs the dimension component and one other, got {', '.join(map(str, values.dims))}"
            )
        labels = values[others[0]].values
        return {f"{others[0]} {label}": values.isel({others[0]: row}).values for row, label in enumerate(labels)}
    if not isinstance(values, Mapping):
        raise TypeError(f"`values` must be a mapping of names to spectra or a DataArray, got {type(values).__name__}")
    return {str(name): spectrum for name, spectrum in values.items()}


def _sorted(name: str, spectrum: Any) -> np.ndarray:
    """One spectrum in descending order, without the NaN that pads shorter ones."""
    array = np.asarray(spectrum.detach().cpu() if hasattr(spectrum, "detach") else spectrum, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"the spectrum of {name!r} must have shape (components,), got {array.shape}")
    array = array[~np.isnan(array)]
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"the spectrum of {name!r} must be finite and not negative; take singular values")
    return np.sort(array)[::-1]

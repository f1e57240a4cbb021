"""How every figure of the library looks: one palette, one set of sizes, no global state touched."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias
from weakref import WeakSet

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.support.choices import check_choice

# Okabe & Ito (2008), without the yellow that vanishes on white paper; the last three extend it for ten classes.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
GREY = "#6B6B6B"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, "#999933", "#882255", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
LINES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (3, 1, 1, 1)), (0, (1, 1)))

PANEL = (4.4, 3.5)
"""Width and height of one panel in inches: 10 pt text stays readable when it is set in a column or on a phone."""

Width: TypeAlias = Literal["column", "page"]
"""One column of a paper with two, or the whole page."""
WIDTHS = {"column": 3.3, "page": 6.9}
"""Widths of figures for papers, in inches."""
_HEIGHTS = {"column": 2.6, "page": 3.2}
"""Heights of a figure with one panel, in inches."""

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.labelsize": 10.0,
    "axes.titlesize": 10.0,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "mathtext.fontset": "dejavusans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "text.color": "black",
    "axes.labelcolor": "black",
    "axes.edgecolor": "#444444",
    "xtick.color": "#222222",
    "ytick.color": "#222222",
    "text.usetex": False,
    "figure.constrained_layout.use": True,
    "axes.formatter.use_mathtext": True,
    "axes.unicode_minus": True,
}


_PAPER: dict[Any, Any] = {
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
}
"""Settings for the width of a paper, where a figure is printed at its own size."""
_OWN: "WeakSet[Figure]" = WeakSet()
"""Figures that the library made, whose size it may choose."""


@contextmanager
def context(width: Width | None = None) -> Iterator[None]:
    """Apply the library's look inside a `with` block and leave the caller's rcParams as they were.

    Only our own keys are put back: matplotlib's rc_context would also undo what a notebook's backend sets when the
    first figure starts it, and no later figure would be shown.

    Parameters
    ----------
    width : {"column", "page"}, optional
        Width of a figure for a paper, which has smaller letters. Default: none, for screens.
    """
    before = {key: mpl.rcParams[key] for key in _RC}
    mpl.rcParams.update(_RC | (_PAPER if width else {}))
    try:
        yield
    finally:
        mpl.rcParams.update(before)


def axes(ax: Axes | None, *, size: tuple[float, float] | None = None, width: Width | None = None) -> Axes:
    """The caller's Axes, checked, or the Axes of a new pyplot figure, which a notebook displays by itself.

    Raises
    ------
    TypeError
        If ``ax`` is something else than an Axes.
    ValueError
        If there is no such width, or one for a figure that there is already.
    """
    check_width(ax, width)
    if ax is None:
        figure, made = plt.subplots(figsize=size or ((WIDTHS[width], _HEIGHTS[width]) if width else PANEL))
        _OWN.add(figure)
        return made
    if isinstance(ax, Axes):
        return ax
    hint = "pass one of its axes, e.g. ax=figure.gca()" if isinstance(ax, Figure) else "make one with plt.subplots()"
    raise TypeError(f"`ax` must be a matplotlib Axes, got {type(ax).__name__}; {hint}")


def check_width(ax: Any, width: Width | None) -> None:
    """Raise unless a width is one there is, for a new figure."""
    if width is None:
        return
    check_choice("width", width, Width)
    if ax is not None:
        raise ValueError("`width` is that of a new figure; leave it out where `ax` is given")


def axes_grid(ax: Any, count: int) -> tuple[Figure, list[Axes]]:
    """The caller's Axes for a figure of several panels, checked, and the figure they belong to.

    Raises
    ------
    TypeError, ValueError
        If ``ax`` is not a sequence or array of exactly ``count`` Axes.
    """
    panels = list(np.ravel(np.asarray(ax, dtype=object)))
    for panel in panels:
        axes(panel)
    if len(panels) != count:
        raise ValueError(f"`ax` must hold {count} Axes, one per panel, got {len(panels)}")
    figure = panels[0].get_figure(root=True)
    return figure, panels


def own(figure: Figure) -> bool:
    """Whether a figure was made here, so that it may grow with what is drawn."""
    return figure in _OWN


def grid_of_axes(count: int, columns: int, *, width: Width | None = None) -> tuple[Figure, np.ndarray]:
    """A new figure of equal panels in rows, the unused places of the last row removed: (rows, columns) of Axes.

    One below the other in a column of a paper.
    """
    columns = 1 if width == "column" else min(columns, count)
    rows = -(-count // columns)
    panel = (WIDTHS[width] / columns, _HEIGHTS["column"]) if width else PANEL
    figure, grid = plt.subplots(rows, columns, figsize=(columns * panel[0], rows * panel[1]), squeeze=False)
    _OWN.add(figure)
    for spare in grid.flat[count:]:
        spare.remove()
    return figure, grid


def close(figure: Figure) -> None:
    """Let pyplot forget a figure that is no longer needed.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        It stays usable; pyplot no longer keeps it.
    """
    plt.close(figure)


def offscreen_axes(*, size: tuple[float, float] = PANEL) -> Axes:
    """The Axes of a new figure not registered with pyplot: nothing to close, safe in servers and threads.

    Parameters
    ----------
    size : (float, float), default (4.4, 3.5)
        Width and height in inches.
    """
    with context():
        figure = Figure(figsize=size)
        _OWN.add(figure)
        return figure.subplots()


def colour(index: int) -> str:
    """Colour number ``index``, the same for the same network or class in every figure."""
    return PALETTE[index % len(PALETTE)]


def ramp(count: int) -> list[str]:
    """A number of colours from light to dark, for things in sequence."""
    return [mpl.colors.to_hex(ink) for ink in mpl.colormaps["viridis"](np.linspace(0.84, 0.0, count))]


def marker(index: int) -> str:
    """Marker number ``index``; 10 colours and 11 markers repeat together only after 110."""
    return MARKERS[index % len(MARKERS)]


def literal(text: object) -> str:
    """The text with its dollar signs shown as such, because names of layers and classes are not formulas."""
    return str(text).replace("$", r"\$")


def shortened(text: object, limit: int = 24) -> str:
    """The text cut in its middle to at most ``limit`` characters, because names differ at both ends."""
    full = str(text)
    if len(full) <= limit:
        return full
    head = (limit - 1) // 2
    return f"{full[:head]}…{full[len(full) - (limit - 1 - head) :]}"

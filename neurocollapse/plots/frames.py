"""Room for what is drawn: figures that grow with their legends, and one legend for several panels."""

import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerTuple
from matplotlib.transforms import ScaledTranslation

from neurocollapse.plots.style import Width, axes, context, own

_LEAST, _LEAST_IN_PAPERS = 2.0, 1.5
"""Height that legends and names leave to the axes, in inches."""
PADDING = 0.12
"""Around every row of axes, in inches."""
_HINTED = 1.05
"""How much wider a text may be at another resolution, where letters are set to other pixels."""
LETTER = 0.54
"""Mean width of a letter, as a part of the size of its font."""


@contextmanager
def measuring() -> Iterator[None]:
    """Without complaints about shapes that the font lacks: whoever draws the figure complains, or has another font."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@contextmanager
def panel(ax: Axes | None, width: Width | None = None) -> Iterator[Axes]:
    """The library's look around the caller's Axes, or around new ones, whose figure is closed if drawing fails."""
    with context(width):
        drawn = axes(ax, width=width)
        figure: Any = drawn.get_figure(root=True)
        try:
            yield drawn
            if own(figure):
                give_room(figure, [[drawn]], sum(_height(legend) for legend in figure.legends))
        except Exception:
            if ax is None:
                plt.close(figure)
            raise


@measuring()
def give_room(figure: Figure, rows: Sequence[Sequence[Axes]], above: float = 0.0) -> None:
    """Make a figure as high as its axes need beside legends, labels, and what stands above all."""
    for one in (ax for row in rows for ax in row):
        size_ticks(one)
        one.set_xlabel(wrapped(one.get_xlabel(), letters_that_fit(one, mpl.rcParams["axes.labelsize"])))
    around = sum(max(height_around(ax) for ax in row) + PADDING for row in rows)
    least = _LEAST if mpl.rcParams["font.size"] > 9 else _LEAST_IN_PAPERS
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, max(height + above, around + len(rows) * least + above))
    inner = (float(figure.get_size_inches()[1]) - around - above) / len(rows)
    for one in (ax for row in rows for ax in row):
        letters = int(inner * 72 / (LETTER * mpl.rcParams["axes.labelsize"]))
        one.set_ylabel(wrapped(one.get_ylabel(), letters))
        keep_inside(one, float(figure.bbox.width) / max(map(len, rows)))


def size_ticks(ax: Axes) -> None:
    """Set the sizes of ticks that are made when the figure is drawn, by the caller's settings if by none of ours."""
    ax.tick_params(axis="x", labelsize=mpl.rcParams["xtick.labelsize"])
    ax.tick_params(axis="y", labelsize=mpl.rcParams["ytick.labelsize"])


def keep_inside(ax: Axes, room: float) -> None:
    """Move a legend to the left, above the labels of the axis, where it would end beyond the room of its axes."""
    legend = ax.get_legend()
    box = ax.get_tightbbox() if legend else None
    if legend is None or box is None:
        return
    labels = float(ax.bbox.x0 - box.x0)
    beyond = labels + _HINTED * float(legend.get_window_extent().width) + PADDING * ax.figure.dpi - room
    if beyond > 0:
        moved = ScaledTranslation(-min(beyond, labels) / ax.figure.dpi, 0.0, ax.figure.dpi_scale_trans)
        legend.set_bbox_to_anchor((0.0, 1.01), transform=ax.transAxes + moved)


def wrapped(label: str, letters: int) -> str:
    """A label in lines that are no longer than the axis; its formula stays whole."""
    if len(re.sub(r"\$[^$]*\$", "formula", label)) <= letters:
        return label
    lines = [line for part in label.split("  ") for line in part.split("\n")]
    words = " ".join(line for line in lines if "$" not in line)
    return "\n".join(filter(None, [textwrap.fill(words, max(letters, 12)), *(line for line in lines if "$" in line)]))


def height_around(ax: Axes) -> float:
    """Height of everything above and below the axes, in inches."""
    box = ax.get_tightbbox()
    return 0.0 if box is None else float(box.height - ax.bbox.height) / ax.figure.dpi


def shared_legend(figure: Figure, entries: Sequence[tuple[Any, str]]) -> float:
    """One legend above all panels, in as many columns as fit; returns its height in inches."""
    if not entries:
        return 0.0
    texts = [text for _, text in entries]
    legend = fitted(
        lambda columns: figure.legend(
            [handle for handle, _ in entries],
            texts,
            loc="outside upper left",
            ncols=columns,
            columnspacing=1.2,
            labelspacing=0.3,
            handler_map={tuple: HandlerTuple(ndivide=None, pad=0.0)},
        ),
        room=0.97 * float(figure.bbox.width),
        most=columns_that_fit(texts, float(figure.get_size_inches()[0])),
    )
    return _height(legend)


def _height(legend: Legend) -> float:
    """Height of a legend above all panels, in inches."""
    return float(legend.get_window_extent().height) / legend.figure.dpi + PADDING


@measuring()
def fitted(make: Callable[[int], Legend], *, room: float, most: int) -> Legend:
    """A legend in as many columns as fit into some pixels, at most so many."""
    for columns in range(most, 0, -1):
        legend = make(columns)
        if columns == 1 or legend.get_window_extent().width <= room:
            break
        legend.remove()
    return legend


def columns_that_fit(texts: Sequence[str], width: float) -> int:
    """How many columns of a legend can fit into a width in inches, if letters are narrow."""
    size = mpl.rcParams["legend.fontsize"] / 72
    longest = max(map(len, texts)) * 0.5 * size + (mpl.rcParams["legend.handlelength"] + 1.0) * size
    return max(1, min(len(texts), int(width / longest)))


def letters_that_fit(ax: Axes | Figure, size: float | None = None, *, handle: float = 0.0) -> int:
    """How many letters of a size (by default of legends) fit above or below axes or figures, beside a handle."""
    size = size or float(mpl.rcParams["legend.fontsize"])
    points = 72 * float(ax.bbox.width) / ax.figure.dpi
    return max(20, int((points / size - handle) / LETTER))

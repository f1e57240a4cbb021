"""Small multiples: a cell for each of many networks, with the same axes, one legend, and labels at the edges only."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.frames import (
    LETTER,
    PADDING,
    height_around,
    keep_inside,
    letters_that_fit,
    measuring,
    shared_legend,
    size_ticks,
    wrapped,
)
from neurocollapse.plots.networks import Network
from neurocollapse.plots.panels import Panel
from neurocollapse.plots.scales import legend_above
from neurocollapse.plots.style import WIDTHS, Width, axes, context, shortened

CELL_WIDTH = 2.2
"""Width of a cell with its labels, in inches."""
_HEIGHT, _HEIGHT_IN_PAPERS = 1.15, 0.8
"""Height of a cell's axes, in inches."""
_COLUMNS: dict[Width | None, tuple[int, int]] = {None: (4, 4), "page": (4, 4), "column": (3, 2)}
"""Cells beside each other, of one part and of several."""


def small_multiples(
    draw: Sequence[Callable[[Sequence[Axes], list[Network]], Panel]],
    drawn: Sequence[list[Network]],
    ax: Axes | None,
    width: Width | None,
) -> Figure:
    """One or several parts, each with a cell for every network.

    The cells of one part fill rows. Several parts stand beside each other, with a row for every network; parts that do
    not fit beside the others follow below.

    Parameters
    ----------
    draw
        Draws a part into its cells.
    drawn
        The networks of each part.
    ax
        Axes of a figure of ours, which become the first cell; a new figure by default.
    width
        Width of a figure for a paper.
    """
    with context(width):
        first = axes(ax, width=width)
        figure: Any = first.get_figure(root=True)
        try:
            height = _HEIGHT_IN_PAPERS if width else _HEIGHT
            cells = _cells(first, len(draw), len(drawn[0]), width, height)
            panels = [one(its, networks) for one, its, networks in zip(draw, cells, drawn, strict=True)]
            above = _label_one(panels[0]) if len(panels) == 1 else _label_several(panels)
            _give_room(figure, above, height)
        except Exception:
            if ax is None:
                plt.close(figure)  # a figure nobody gets must not stay in pyplot's registry
            raise
    return figure


def _cells(first: Axes, parts: int, count: int, width: Width | None, height: float) -> list[list[Axes]]:
    """For each part a cell for each network, the axes that there are among them."""
    most = _COLUMNS[width][parts > 1]
    places = [[divmod(at, most) for at in range(count)]]
    if parts > 1:
        places = [[(part // most * count + at, part % most) for at in range(count)] for part in range(parts)]
    rows, columns = (1 + max(place[along] for row in places for place in row) for along in (0, 1))
    figure: Any = first.get_figure(root=True)
    figure.set_size_inches(WIDTHS[width] if width else columns * CELL_WIDTH, 1.5 * rows * height)
    grid = figure.add_gridspec(rows, columns)
    first.set_subplotspec(grid[0, 0])
    return [[first if place == (0, 0) else figure.add_subplot(grid[place]) for place in row] for row in places]


def _row(cell: Any) -> int:
    """The row of the figure in which a cell stands."""
    return int(cell.get_subplotspec().rowspan.start)


def _column(cell: Any) -> int:
    """The column of the figure in which a cell stands."""
    return int(cell.get_subplotspec().colspan.start)


def _label_one(made: Panel) -> float:
    """Names above the cells, and one label at each axis; returns the height of what stands around all, in inches."""
    figure: Any = made.cells[0].get_figure(root=True)
    room = 72 * 0.75 * float(figure.get_size_inches()[0]) / (1 + max(map(_column, made.cells)))
    letters = int(room / (LETTER * mpl.rcParams["font.size"]))
    for one, cell in zip(made.drawn, made.cells, strict=True):
        cell.set_title(shortened(one.title(""), letters), loc="left", fontsize="medium")
        if _column(cell):
            cell.tick_params(labelleft=False)
    below, size = _scaled(made), mpl.rcParams["axes.labelsize"]
    figure.supylabel(made.label, fontsize=size)
    figure.supxlabel(below, fontsize=size)
    return shared_legend(figure, made.entries) + 2 * size / 72


def _label_several(panels: Sequence[Panel]) -> float:
    """A legend above each column, and names at the right of the rows; returns the height of what is below all."""
    figure: Any = panels[0].cells[0].get_figure(root=True)
    last = max(_column(made.cells[0]) for made in panels)
    size = mpl.rcParams["axes.labelsize"]
    for made in panels:
        below, top = _scaled(made), made.cells[0]
        head = wrapped(made.title or made.label, letters_that_fit(top))
        legend = legend_above(top, made.entries)
        if legend is None:
            top.set_title(head, loc="left")
        else:
            legend.set_title(head)
            legend.set_alignment("left")
        for one, cell in zip(made.drawn, made.cells, strict=True):
            if _column(cell) == last:
                name = shortened(one.title(""), 18)
                cell.annotate(name, (1.07, 0.5), xycoords="axes fraction", rotation=270, va="center", fontsize="small")
    figure.supxlabel(below, fontsize=size)
    return 1.5 * size / 72


def _scaled(made: Panel) -> str:
    """Give all cells the same axes, with names of layers or steps under the lowest only; returns the axis' label."""
    made.scale()
    label = made.cells[0].get_xlabel()
    places = {(_row(cell), _column(cell)) for cell in made.cells}
    for cell in made.cells:
        cell.set_xlabel("")
        if (_row(cell) + 1, _column(cell)) in places:
            cell.tick_params(labelbottom=False)
    return label


@measuring()
def _give_room(figure: Any, above: float, height: float) -> None:
    """Make the figure as high as its cells need; only those that differ from others are measured, which takes long."""
    around: dict[int, float] = {}
    plain: float | None = None
    for cell in figure.axes:
        size_ticks(cell)
        if cell.get_legend() or cell.xaxis.get_tick_params()["labelbottom"]:
            needed = height_around(cell)
        else:
            needed = plain = height_around(cell) if plain is None else plain
        around[_row(cell)] = max(needed, around.get(_row(cell), 0.0))
    width, _ = figure.get_size_inches()
    figure.set_size_inches(width, sum(around.values()) + len(around) * (PADDING + height) + above)
    for cell in figure.axes:
        keep_inside(cell, float(figure.bbox.width) / (1 + max(map(_column, figure.axes))))

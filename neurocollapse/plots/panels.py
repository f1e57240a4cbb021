"""The parts of a figure over layers or steps: a curve for each network, the legend, the panel, several panels."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neurocollapse.plots.datasets import axis_label
from neurocollapse.plots.frames import columns_that_fit, give_room, shared_legend
from neurocollapse.plots.networks import Network, crowded
from neurocollapse.plots.scales import (
    layer_axis,
    legend_above,
    linear_line,
    log_line,
    log_scale,
    mark_limits,
    ramp_handle,
    step_axis,
)
from neurocollapse.plots.style import (
    BLACK,
    LINES,
    Width,
    axes_grid,
    check_width,
    context,
    grid_of_axes,
    literal,
    marker,
)

_MOST_TOLD = 4
"""Most networks about which a legend says more than the name."""
_MOST_TICKS = 4
"""Most layers or steps that are named under a cell of small multiples."""
_MOST_NAMED = 40
"""Most networks that a legend names one by one."""


class Panel:
    """One axes in which every variable is a curve of each network, or small multiples: a cell for each network.

    A network alone has a colour a variable, and so has each in a cell of its own. With several networks in one axes,
    colour and marker name the network, or the colour of a ramp its step, and line and filling name the variable.
    """

    def __init__(self, cells: Sequence[Axes], drawn: list[Network], *, log: bool) -> None:
        self.cells = cells
        self.drawn = drawn
        self.log = log
        self.label = ""
        self.below = ""
        self.title = ""
        self.columns = 1
        self.apart = len(cells) > 1
        self.alone = len(drawn) == 1 or self.apart
        self.stepwise = drawn[0].step is not None
        self.entries: list[tuple[Any, str]] = []
        self._variables: list[tuple[Artist, str]] = []
        self._notes: dict[str, tuple[Artist, str]] = {}
        self._series: list[np.ndarray] = []
        self._told: set[str] = set()
        self._rows = 0

    @property
    def summarised(self) -> list[Network]:
        """The networks about which a legend has room for more than a name: all, or the last step."""
        return self.drawn[-1:] if self.stepwise else self.drawn

    @property
    def crowded(self) -> bool:
        """Whether networks are too many for a line, a band or a note of each beside its curve."""
        return crowded(self.drawn) and not self.apart

    def of(self, one: Network) -> Axes:
        """The axes in which a network is drawn."""
        return self.cells[self.drawn.index(one) if self.apart else 0]

    @property
    def told(self) -> bool:
        """Whether a legend says more of each network than its name."""
        return self.stepwise or len(self.drawn) <= _MOST_TOLD

    def curves(
        self,
        name: str,
        words: str,
        *,
        index: int = 0,
        ink: str = "",
        hollow: bool | None = None,
        limits: tuple[str, str] = ("", ""),
        **style: Any,
    ) -> None:
        """A variable of each network as a curve, the `index`-th of its axes; no words, no entry in the legend.

        Line and filling tell eight variables apart, unless `hollow` means something else. Where `limits` has words,
        exact zeros of a logarithmic axis, and infinities, are marked at its edges.
        """
        is_hollow = (index + index // len(LINES)) % 2 if hollow is None else hollow
        fill = {"markerfacecolor": "white"} if is_hollow else {}
        key = {"linestyle": LINES[index % len(LINES)], **fill, **style}
        for one in self.drawn:
            values = one.values(name)
            look = {"color": ink or one.colour, "marker": marker(index)} if self.alone else {}
            line = self.curve(one, values, **{**key, **look})
            if any(limits):
                self.mark(one, values if self.log else np.where(values == 0, np.nan, values), limits, line.get_color())
            if self.alone and words and one is self.drawn[0]:
                self.add(line, f"{one.title('')}: {words}" if one.name and not self.apart else words)
        if words:
            shape = "o" if hollow is None else ""
            self._variables.append((Line2D([], [], color=BLACK, marker=shape, **key), words))
        self.label = self.label or axis_label(self.drawn[0].dataset, name)

    def curve(self, one: Network, values: np.ndarray, **style: Any) -> Line2D:
        """One curve of one network; steps before the last are thin and have no markers."""
        look: dict[str, Any] = {"color": one.colour, "marker": one.marker}
        if self.stepwise and one is not self.drawn[-1]:
            look |= {"marker": "", "linewidth": 1.0}
            style.pop("linewidth", None)
        if self.crowded:
            look["linewidth"] = 1.0
            style.pop("linewidth", None)
        self._series.append(values)
        return (log_line if self.log else linear_line)(self.of(one), one.where, values, **{**look, **style})

    def bars(self, one: Network, lower: np.ndarray, upper: np.ndarray, words: str = "") -> None:
        """Intervals of one network as pale bars; none where an end is not finite."""
        known = np.isfinite(lower) & np.isfinite(upper)
        if not known.any():
            return
        self._series += [lower[known], upper[known]]
        width = 5.0 if self.apart or len(self.summarised) <= _MOST_TOLD else 1.5
        ends = one.where[known], lower[known], upper[known]
        lines = self.of(one).vlines(*ends, color=one.colour, alpha=0.35, linewidth=width)
        if words:
            self.add(lines, words)

    def band(self, one: Network, lower: np.ndarray, upper: np.ndarray) -> None:
        """A pale band of one network, which the axis has room for."""
        self._series += [lower, upper]
        self.of(one).fill_between(one.where, lower, upper, color=one.colour, alpha=0.18, linewidth=0)

    def mark(self, one: Network, values: np.ndarray, words: tuple[str, str], ink: Any = None) -> None:
        """Exact zeros at the bottom edge and infinities at the top edge, which a scale has no place for."""
        found = bool((values == 0).any()), bool(np.isposinf(values).any())
        row = 0 if self.stepwise or self.apart else self._rows
        low, high = ("" if word in self._told else word for word in words)
        mark_limits(self.of(one), one.where, values, colour=ink or one.colour, words=(low, high), row=row)
        self._told |= {word for word, there in zip(words, found, strict=True) if there}
        self._rows += any(found)

    def level(self, height: float, words: str = "", **style: Any) -> None:
        """A horizontal line that belongs to no network."""
        self._series.append(np.array([height]))
        lines = [cell.axhline(height, **style) for cell in self.cells]
        if words:
            self.add(lines[0], words)

    def add(self, handle: Any, words: str) -> None:
        """One more entry of the legend, behind those of the networks."""
        self.entries.append((handle, words))

    def note(self, one: Network, handle: Artist, words: str) -> None:
        """What the legend says of one network: beside its name where there are several, else an entry.

        Nothing where there are many.
        """
        if self.stepwise or len(self.drawn) == 1:
            self.add(handle, f"{words}, {one.title('')}" if self.stepwise else words)
        elif self.told:
            self._notes[one.name] = handle, words

    def finish(self, *, named: bool = True) -> None:
        """Scale, axis labels and legend, once everything is drawn; without the names that stand above all panels."""
        self.scale()
        (ax,) = self.cells
        ax.set_ylabel(self.label)
        least = 1 if self.title and not named else 2
        variables = self._variables if len(self._variables) >= least and not self.alone else []
        entries = [*(self.names(notes=True) if named else self._notes.values()), *variables, *self.entries]
        legend = legend_above(ax, entries, columns=self._columns([words for _, words in entries]))
        if self.title and legend:
            legend.set_title(self.title)
            legend.set_alignment("left")
        elif self.title:
            ax.set_title(self.title, loc="left")

    def scale(self) -> None:
        """Give every cell the same axes."""
        datasets, over = [one.dataset for one in self.drawn], self.drawn[0].over
        most = {"most": _MOST_TICKS} if self.apart else {}
        for cell in self.cells:
            if self.log:
                log_scale(cell, self._series)
            if over == "layer":
                under = self.cells[0].get_figure(root=True) if self.apart else None  # one label for all cells
                layer_axis(cell, datasets, relative=self.drawn[0].relative, under=under, **most)
            else:
                step_axis(cell, datasets, over, **most)
            if self.below:
                cell.set_xlabel(self.below, parse_math=False)
        limits = [cell.get_ylim() for cell in self.cells]
        for cell in self.cells if self.apart else ():
            cell.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))

    def _columns(self, texts: Sequence[str]) -> int:
        """Columns of the legend: as asked for, or as many as fit where networks are many."""
        if self.told or not texts:
            return self.columns
        names = [one.title("") for one in self.drawn]
        room = self.cells[0].bbox.width / self.cells[0].figure.dpi
        return columns_that_fit(names if len(names) <= _MOST_NAMED else texts, room)

    def names(self, *, notes: bool = False) -> list[tuple[Any, str]]:
        """Entries for the networks, with what is told of each, or one for the ramp of all steps."""
        if self.stepwise:
            words = f"{self.drawn[0].name} to {self.drawn[-1].step}, {len(self.drawn)} curves"
            return [(ramp_handle([one.colour for one in self.drawn]), literal(words))]
        if self.alone:
            return []
        if len(self.drawn) > _MOST_NAMED:
            ends = f"{self.drawn[0].title('')} to {self.drawn[-1].title('')}"
            return [(ramp_handle([one.colour for one in self.drawn]), f"{ends}, {len(self.drawn)} networks")]
        told = self._notes if notes else {}
        return [
            (
                Line2D([], [], color=one.colour, marker=one.marker),
                one.title("") + (f"; {told[one.name][1]}" if one.name in told else ""),
            )
            for one in self.drawn
        ]


def panel_grid(
    draw: Sequence[Callable[..., Any]],
    ax: Any,
    *,
    columns: int = 2,
    width: Width | None = None,
    shared: Callable[[], Sequence[tuple[Any, str]]] = list,
) -> Figure:
    """Several equal panels in the caller's Axes, or in a new figure, which is closed if drawing fails.

    What is `shared` stands in one legend above all panels, and is asked for once they are drawn.
    """
    check_width(ax, width)
    with context(width):
        if ax is not None:
            figure, panels = axes_grid(ax, len(draw))
            for one, axes in zip(draw, panels, strict=True):
                one(ax=axes)
            return figure
        figure, grid = grid_of_axes(len(draw), columns, width=width)
        try:
            panels = list(grid.flat[: len(draw)])
            for one, axes in zip(draw, panels, strict=True):
                one(ax=axes)
            above = shared_legend(figure, shared())
            rows = [panels[start : start + grid.shape[1]] for start in range(0, len(panels), grid.shape[1])]
            give_room(figure, rows, above)
        except Exception:
            plt.close(figure)  # a figure nobody gets must not stay in pyplot's registry
            raise
    return figure

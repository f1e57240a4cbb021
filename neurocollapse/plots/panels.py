"""The parts of a figure over layers or steps: a curve for each network, the legend, the panel, several panels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neurocollapse.plots.datasets import Datasets, axis_label
from neurocollapse.plots.networks import Network, networks
from neurocollapse.plots.scales import (
    layer_axis,
    legend_above,
    linear_line,
    log_line,
    log_scale,
    mark_limits,
    step_axis,
)
from neurocollapse.plots.style import BLACK, LINES, PANEL, axes_grid, context, literal, marker, panel

_MOST_IN_RAMP = 12


class Panel:
    """One axes in which every variable is a curve of each network.

    A network alone has a colour a variable. With several networks, colour and marker name the network, or the colour of
    a ramp its step, and line and filling name the variable.
    """

    def __init__(self, ax: Axes, drawn: list[Network], *, log: bool) -> None:
        self.ax = ax
        self.drawn = drawn
        self.log = log
        self.label = ""
        self.columns = 1
        self.alone = len(drawn) == 1
        self.stepwise = drawn[0].step is not None
        self._entries: list[tuple[Any, str]] = []
        self._variables: list[tuple[Artist, str]] = []
        self._notes: dict[str, str] = {}
        self._series: list[np.ndarray] = []
        self._told: set[str] = set()
        self._rows = 0

    @property
    def summarised(self) -> list[Network]:
        """The networks about which a legend has room for more than a name: all, or the last step."""
        return self.drawn[-1:] if self.stepwise else self.drawn

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
            if self.alone and words:
                self.add(line, f"{one.title('')}: {words}" if one.name else words)
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
        self._series.append(values)
        return (log_line if self.log else linear_line)(self.ax, one.where, values, **{**look, **style})

    def bars(self, one: Network, lower: np.ndarray, upper: np.ndarray, words: str = "") -> None:
        """Intervals of one network as pale bars; none where an end is not finite."""
        known = np.isfinite(lower) & np.isfinite(upper)
        if not known.any():
            return
        self._series += [lower[known], upper[known]]
        lines = self.ax.vlines(one.where[known], lower[known], upper[known], color=one.colour, alpha=0.35, linewidth=5)
        if words:
            self.add(lines, words)

    def mark(self, one: Network, values: np.ndarray, words: tuple[str, str], ink: Any = None) -> None:
        """Exact zeros at the bottom edge and infinities at the top edge, which a scale has no place for."""
        found = bool((values == 0).any()), bool(np.isposinf(values).any())
        row = 0 if self.stepwise else self._rows
        low, high = ("" if word in self._told else word for word in words)
        mark_limits(self.ax, one.where, values, colour=ink or one.colour, words=(low, high), row=row)
        self._told |= {word for word, there in zip(words, found, strict=True) if there}
        self._rows += any(found)

    def level(self, height: float, words: str = "", **style: Any) -> Line2D:
        """A horizontal line that belongs to no network."""
        self._series.append(np.array([height]))
        line = self.ax.axhline(height, **style)
        if words:
            self.add(line, words)
        return line

    def add(self, handle: Any, words: str) -> None:
        """One more entry of the legend, behind those of the networks."""
        self._entries.append((handle, words))

    def note(self, one: Network, handle: Artist, words: str) -> None:
        """What the legend says of one network: beside its name where there are several, else an entry."""
        if self.alone or self.stepwise:
            self.add(handle, f"{words}, {one.title('')}" if self.stepwise else words)
        else:
            self._notes[one.name] = words

    def finish(self) -> None:
        """Scale, axis labels and legend, once everything is drawn."""
        if self.log:
            log_scale(self.ax, self._series)
        self.ax.set_ylabel(self.label)
        datasets, over = [one.dataset for one in self.drawn], self.drawn[0].over
        if over == "layer":
            layer_axis(self.ax, datasets)
        else:
            step_axis(self.ax, datasets, over)
        variables = self._variables if len(self._variables) > 1 and not self.alone else []
        legend_above(self.ax, [*self._names(), *variables, *self._entries], columns=self.columns)

    def _names(self) -> list[tuple[Any, str]]:
        """Entries for the networks, or one for the ramp of all steps."""
        if self.stepwise:
            shown = self.drawn[:: -(-len(self.drawn) // _MOST_IN_RAMP)]
            ramp = tuple(Line2D([], [], color=one.colour, linewidth=4.0) for one in shown)
            return [(ramp, literal(f"{self.drawn[0].name} to {self.drawn[-1].step}, {len(self.drawn)} curves"))]
        if self.alone:
            return []
        return [
            (
                Line2D([], [], color=one.colour, marker=one.marker),
                one.title("") + (f"; {self._notes[one.name]}" if one.name in self._notes else ""),
            )
            for one in self.drawn
        ]


@contextmanager
def network_panel(
    dataset: Datasets, ax: Axes | None, alone: str, *, over: str = "layer", log: bool = False
) -> Iterator[Panel]:
    """A panel over the layers, or over the steps of the last layer, in the caller's Axes or in new ones."""
    with panel(ax) as axes:
        built = Panel(axes, networks(dataset, alone, over), log=log)
        yield built
        built.finish()


def panel_grid(draw: Sequence[Callable[..., Any]], ax: Any, *, columns: int = 2) -> Figure:
    """Several panels in the caller's Axes, or in a new figure, which is closed if drawing fails."""
    with context():
        if ax is not None:
            figure, panels = axes_grid(ax, len(draw))
        else:
            columns = min(columns, len(draw))
            rows = -(-len(draw) // columns)
            figure, grid = plt.subplots(rows, columns, figsize=(columns * PANEL[0], rows * PANEL[1]), squeeze=False)
            panels = list(grid.flat[: len(draw)])
            for spare in grid.flat[len(draw) :]:
                spare.remove()
        try:
            for one, axes in zip(draw, panels, strict=True):
                one(ax=axes)
        except Exception:
            if ax is None:
                plt.close(figure)  # a figure nobody gets must not stay in pyplot's registry
            raise
    return figure

"""Parts of figures: what a panel shows, in the caller's axes, in a panel of a figure, or in small multiples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.datasets import Datasets
from neurocollapse.plots.frames import panel, shared_legend
from neurocollapse.plots.multiples import small_multiples
from neurocollapse.plots.networks import Network, crowded, networks
from neurocollapse.plots.panels import Panel, panel_grid
from neurocollapse.plots.style import Width, marker, own


@dataclass(frozen=True)
class Part:
    """What a panel shows: the function that draws it, the colour of a network alone, and its axes."""

    draw: Callable[[Panel], None]
    ink: str
    log: bool = False
    over: str = "layer"
    title: str = ""

    def networks(self, dataset: Datasets) -> list[Network]:
        """What is drawn, in its colours."""
        return networks(dataset, self.ink, self.over)

    def on(self, cells: Sequence[Axes], drawn: list[Network]) -> Panel:
        """The part drawn into axes, or into a cell for each network; not yet scaled."""
        if len(cells) > 1:
            drawn = [replace(one, colour=self.ink, marker=marker(0)) for one in drawn]
        made = Panel(cells, drawn, log=self.log)
        made.title = self.title
        self.draw(made)
        return made


def network_panel(part: Part, dataset: Datasets, ax: Axes | None, width: Width | None = None) -> Axes:
    """One part, over the layers or over the steps of the last layer, in the caller's Axes or in new ones.

    Networks that are too many to tell apart are small multiples, where the figure is ours; the first cell is returned.
    """
    drawn = part.networks(dataset)
    if crowded(drawn) and (ax is None or _is_ours(ax)):
        return small_multiples([part.on], [drawn], ax, width).axes[0]
    with panel(ax, width) as axes:
        figure: Any = axes.get_figure(root=True)
        is_ours, made = _is_ours(axes), part.on([axes], drawn)
        made.finish(named=made.told or not is_ours)
        if is_ours and not made.told:
            shared_legend(figure, made.names())
    return axes


def _is_ours(ax: Any) -> bool:
    """Whether axes have a figure for themselves that was made here."""
    figure = ax.get_figure(root=True) if isinstance(ax, Axes) else None
    return figure is not None and own(figure) and len(figure.axes) == 1


def network_grid(parts: Sequence[Part], dataset: Datasets, ax: Any, width: Width | None = None) -> Figure:
    """Several parts with the same networks; a new figure has one legend of their names, above all panels.

    Networks that are too many to tell apart have a row of cells each.
    """
    drawn = [part.networks(dataset) for part in parts]
    if crowded(drawn[0]) and ax is None:
        return small_multiples([part.on for part in parts], drawn, None, width)
    made: list[Panel] = []

    def draw(index: int, *, ax: Axes) -> None:
        made.append(parts[index].on([ax], drawn[index]))
        made[-1].finish(named=is_given)

    is_given = ax is not None
    each = [partial(draw, index) for index in range(len(parts))]
    return panel_grid(each, ax, width=width, shared=lambda: made[0].names())

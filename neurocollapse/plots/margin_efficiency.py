"""How much of the margin that its norms allow a head realises: one bar a network, or four curves over training."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from neurocollapse.plots.datasets import Datasets, common_steps, named, per_layer
from neurocollapse.plots.frames import panel
from neurocollapse.plots.panels import Panel
from neurocollapse.plots.parts import Part, network_panel
from neurocollapse.plots.scales import legend_above
from neurocollapse.plots.style import BLUE, GREEN, GREY, ORANGE, SKY, VERMILLION, Width, colour, literal, own, shortened
from neurocollapse.support.dataset import last, last_defined
from neurocollapse.support.numbers import short

FACTORS = {
    "margin_spread": "spread within classes",
    "margin_duality": "direction of the head",
    "margin_samples": "unequal samples",
    "margin_classes": "unequal wrong classes",
}
"""The four factors in the order in which they are lost, and what they are lost to."""
_INKS = (VERMILLION, ORANGE, GREEN, SKY)
_AREA = "#DDDDDD"
_ROW, _AROUND = 0.28, 1.6
"""Height of a network's bar with its room, and of legend and labels, in inches."""
_NARROW = 0.07
"""Share of the bar below which a number does not fit into its part."""


def margin_efficiency(dataset: Datasets, *, ax: Axes | None = None, width: Width | None = None) -> Axes:
    """Draw the share of its largest possible margin that a head realises, and what the rest is lost to.

    The bar of each network is the largest margin that its norms allow. It is cut into the part that is realised and
    what is lost, one after the other, to spread within classes, to a head that points elsewhere than the class means,
    to unequal samples, and to unequal wrong classes. Where the dataset has a leading dimension (step, epoch,
    checkpoint), the four factors are drawn against it instead; the area below them is their product.

    Parameters
    ----------
    dataset
        Result of ``nc.analyze(…, layers="penultimate", quantities="margin")``, also with other layers, of which the
        last with a margin is drawn; or a mapping of names to such datasets.
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
        If a dataset lacks the margin efficiency or a factor, or has them at no layer.

    Examples
    --------
    >>> import xarray as xr
    >>> names = ("margin_efficiency", *FACTORS)
    >>> head = xr.Dataset({name: ("layer", [share]) for name, share in zip(names, (0.36, 0.9, 1.0, 0.8, 0.5))})
    >>> [round(float(part.get_width()), 2) for part in margin_efficiency(head).patches]
    [0.36, 0.36, 0.18, 0.0, 0.1]
    """
    networks = named(dataset)
    heads = {name: _head(one, name) for name, one in networks.items()}
    over = common_steps(networks)
    if over != "layer":
        return network_panel(Part(_draw_curves, BLUE, over=over), heads, ax, width)
    with panel(ax, width) as axes:
        _bars({name: last(one)[0] for name, one in heads.items()}, axes)
    return axes


def _head(dataset: xr.Dataset, name: str) -> xr.Dataset:
    """The last layer with a margin."""
    found = last_defined(dataset, "margin_spread")
    if found is None or not {"margin_efficiency", *FACTORS} <= set(found.data_vars):
        raise ValueError(
            f"{f'`dataset[{name!r}]`' if name else '`dataset`'} has no margin efficiency; measure it with "
            "nc.analyze(model, loader, layers='penultimate', quantities='margin')"
        )
    return found


def _draw_curves(panel: Panel) -> None:
    """The factors over the steps."""
    for index, (name, words) in enumerate(FACTORS.items()):
        panel.curves(name, words, index=index, ink=colour(index))
    for one in panel.drawn if panel.alone else ():
        area = panel.of(one).fill_between(one.where, 0.0, one.values("margin_efficiency"), color=_AREA, zorder=0)
        if one is panel.drawn[0]:
            panel.add(area, "their product, the margin efficiency")
    panel.label = "share of the margin that is left"


def _bars(heads: Mapping[str, xr.Dataset], ax: Axes) -> None:
    """One bar a network, and its factors in the legend where it is alone."""
    for row, one in enumerate(heads.values()):
        factors = [float(per_layer(one, name)[0]) for name in FACTORS]
        if not all(map(math.isfinite, factors)):
            ax.text(0.5, row, "undefined: the mean margin is not positive", ha="center", va="center", color=GREY)
            continue
        left = np.cumprod([1.0, *factors])  # after none, one, … four of the factors
        _part(ax, row, 0.0, left[-1], BLUE, "white")
        for start, end, ink in reversed(list(zip(left[1:], left[:-1], _INKS, strict=True))):
            _part(ax, row, start, end, ink, "black")
    figure: Any = ax.get_figure(root=True)
    if own(figure) and len(figure.axes) == 1:
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, max(height, _ROW * len(heads) + _AROUND))
    words = [f"lost to {text}" for text in FACTORS.values()]
    if len(heads) == 1:
        words = [f"{text} (× {short(factor, 3)})" for text, factor in zip(words, factors, strict=True)]
    parts = [(Patch(color=ink), text) for ink, text in zip(_INKS, words, strict=True)]
    legend_above(ax, [(Patch(color=BLUE), "realised"), *reversed(parts)])
    ax.set_yticks(range(len(heads)), [literal(shortened(name, 18)) for name in heads])
    ax.set(xlabel="share of the largest margin that the norms allow", ylim=(len(heads) - 0.4, -0.6))
    ax.set_xlim(min(0.0, *ax.get_xlim()), 1.0)
    ax.tick_params(axis="y", length=0)
    ax.grid(False)


def _part(ax: Axes, row: int, start: float, end: float, ink: str, text: str) -> None:
    """A piece of a bar, with its share where that fits."""
    ax.barh(row, end - start, left=start, height=0.6, color=ink, edgecolor="white", linewidth=0.8)
    if end - start > _NARROW:
        ax.text((start + end) / 2, row, f"{end - start:.0%}", ha="center", va="center", color=text, fontsize="small")

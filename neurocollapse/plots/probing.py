"""How well the classes can be read from each layer, and how many directions its features use."""

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from neurocollapse.plots.datasets import Datasets, num_classes, per_layer
from neurocollapse.plots.networks import Network, finish, networks
from neurocollapse.plots.scales import linear_line, log_line, log_scale, mark_limits
from neurocollapse.plots.style import BLACK, BLUE, GREY, LINES, ORANGE, VERMILLION, panel

_READERS = {"probe_accuracy": "linear probe", "ncm_accuracy": "nearest mean"}
_RANKS = {"numerical_rank": "numerical rank (95 %)", "effective_rank": "effective rank"}


def probes(dataset: Datasets, *, ax: Axes | None = None) -> Axes:
    """Accuracy of the linear probe and of the nearest class mean against the layer, on training and held-out samples.

    Where the probe's curve flattens, the classes are separable; where the nearest mean's joins it, they are also
    compressed. Filled markers are held-out samples, hollow ones those that the classifier was fitted on.

    Parameters
    ----------
    dataset
        Result of `nc.analyze` with ``probes``, or a mapping of names to such results to compare networks.
    ax
        Axes to draw in; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, or a variable is missing.

    Examples
    --------
    >>> import xarray as xr
    >>> names = [f"{reader}_accuracy_{part}" for reader in ("probe", "ncm") for part in ("train", "test")]
    >>> probes(xr.Dataset({name: ("layer", [0.6, 0.9]) for name in names})).get_ylabel()
    'accuracy'
    """
    with panel(ax) as ax:
        drawn = networks(dataset, BLUE)
        alone = len(drawn) == 1
        entries: list[tuple[Artist, str]] = []
        for one in drawn:
            for index, (name, words) in enumerate(_READERS.items()):
                ink = (BLUE, VERMILLION)[index] if alone else one.colour
                style = {"color": ink, "marker": ("o", "s")[index] if alone else one.marker, "linestyle": LINES[index]}
                held = linear_line(ax, one.where, per_layer(one.dataset, f"{name}_test"), **style)
                fitted = per_layer(one.dataset, f"{name}_train")
                train = linear_line(
                    ax, one.where, fitted, **style, linewidth=0.8, markersize=4, markerfacecolor="white"
                )
                if alone:
                    entries += [(held, f"{words}, held out"), (train, f"{words}, train")]
            if not alone:
                entries.append((Line2D([], [], color=one.colour, marker=one.marker), one.title("")))
        if not alone:
            entries += _keys(list(_READERS.values()))
            entries += [(Line2D([], [], color=BLACK, linestyle="", marker="o"), "filled: held out, hollow: train")]
        ax.set_ylim(top=1.0 + 0.04 * (1.0 - ax.get_ylim()[0]))  # a curve at 1 keeps its markers whole
        return finish(ax, drawn, entries, "accuracy", columns=2)


def ranks(dataset: Datasets, *, ax: Axes | None = None) -> Axes:
    """Numerical and effective rank of the features against the layer, on a log axis.

    The dotted line is the number of classes, which neither exceeds at full collapse. Layers whose features are all
    zero have rank 0 and are marked at the lower edge.

    Parameters
    ----------
    dataset
        Result of `nc.analyze` with ``probes``, or a mapping of names to such results to compare networks.
    ax
        Axes to draw in; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, or a variable is missing.

    Examples
    --------
    >>> import xarray as xr
    >>> ranks(xr.Dataset({name: ("layer", [40.0, 10.0]) for name in ("numerical_rank", "effective_rank")})).get_yscale()
    'log'
    """
    with panel(ax) as ax:
        drawn = networks(dataset, BLUE)
        alone = len(drawn) == 1
        entries: list[tuple[Artist, str]] = []
        shown: list[np.ndarray] = []
        for row, one in enumerate(drawn):
            lines = [_rank_line(ax, one, index, alone=alone) for index in range(len(_RANKS))]
            shown += [per_layer(one.dataset, name) for name in _RANKS]
            numerical = per_layer(one.dataset, "numerical_rank")  # the effective rank of zero features is undefined
            mark_limits(ax, one.where, numerical, colour=one.colour, words=("rank 0", ""), row=row)
            entries += (
                list(zip(lines, _RANKS.values(), strict=True))
                if alone
                else [(Line2D([], [], color=one.colour, marker=one.marker), one.title(""))]
            )
        if not alone:
            entries += _keys(list(_RANKS.values()))
        counts = {num_classes(one.dataset) for one in drawn}
        if len(counts) == 1 and (count := counts.pop()):
            classes = ax.axhline(count, color=GREY, linestyle=LINES[3], linewidth=1.0)
            entries.append((classes, f"number of classes: {count}"))
            shown.append(np.array([float(count)]))
        log_scale(ax, shown)
        return finish(ax, drawn, entries, "rank of the features", columns=2)


def _rank_line(ax: Axes, one: Network, index: int, *, alone: bool) -> Line2D:
    """One of the two ranks: solid and filled, or dashed and hollow."""
    ink = (BLUE, ORANGE)[index] if alone else one.colour
    values = per_layer(one.dataset, list(_RANKS)[index])
    fill = ink if index == 0 else "white"
    return log_line(ax, one.where, values, color=ink, marker=one.marker, markerfacecolor=fill, linestyle=LINES[index])


def _keys(words: list[str]) -> list[tuple[Artist, str]]:
    """What the line styles mean, where colours name the networks."""
    return [(Line2D([], [], color=BLACK, linestyle=line), text) for line, text in zip(LINES, words, strict=False)]

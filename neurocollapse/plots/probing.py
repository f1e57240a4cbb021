"""How well the classes can be read from each layer, and how many directions its features use."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from neurocollapse.plots.datasets import Datasets
from neurocollapse.plots.panels import Panel
from neurocollapse.plots.parts import Part, network_panel
from neurocollapse.plots.style import BLACK, BLUE, GREY, LINES, ORANGE, VERMILLION, Width
from neurocollapse.support.dataset import num_classes

_READERS = {"probe_accuracy": "linear probe", "ncm_accuracy": "nearest mean"}
_RANKS = {"numerical_rank": "numerical rank (95 %)", "effective_rank": "effective rank"}


def probes(dataset: Datasets, *, ax: Axes | None = None, width: Width | None = None) -> Axes:
    """Draw the accuracy of the linear probe and of the nearest class mean against the layer.

    Where the probe's curve flattens, the classes are separable; where the nearest mean's joins it, they are also
    compressed. Filled markers are held-out samples, hollow ones those that the classifier was fitted on.

    Parameters
    ----------
    dataset
        Result of `nc.analyze` with ``probes``, or a mapping of names to such results. With several steps only
        the accuracy on held-out samples is drawn.
    ax
        Axes to draw in; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 or 6.9 inches, with letters to read at that size.

    Returns
    -------
    matplotlib.axes.Axes
        With a vertical axis that ends at 1.

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, or no probes were asked for.

    Examples
    --------
    >>> import xarray as xr
    >>> names = [f"{reader}_accuracy_{part}" for reader in ("probe", "ncm") for part in ("train", "test")]
    >>> probes(xr.Dataset({name: ("layer", [0.6, 0.9]) for name in names})).get_ylabel()
    'accuracy'
    """
    return network_panel(Part(_draw_probes, BLUE), dataset, ax, width)


def _draw_probes(panel: Panel) -> None:
    """Both readers, on both parts of the samples."""
    for index, (name, words) in enumerate(_READERS.items()):
        style: dict[str, Any] = {"index": index, "ink": (BLUE, VERMILLION)[index]}
        panel.curves(f"{name}_test", f"{words}, held out" if panel.alone else words, hollow=False, **style)
        if not panel.stepwise:
            style |= {"hollow": True, "linewidth": 0.8, "markersize": 4}
            panel.curves(f"{name}_train", f"{words}, train" if panel.alone else "", **style)
    if not panel.alone:
        words = "held-out samples" if panel.stepwise else "filled: held out, hollow: train"
        panel.add(Line2D([], [], color=BLACK, linestyle="", marker="o"), words)
    for ax in panel.cells:
        ax.set_ylim(top=1.0 + 0.04 * (1.0 - ax.get_ylim()[0]))  # a curve at 1 keeps its markers whole
    panel.label, panel.columns = "accuracy", 2


def ranks(dataset: Datasets, *, ax: Axes | None = None, width: Width | None = None) -> Axes:
    """Draw the numerical and the effective rank of the features against the layer, on a log axis.

    The dotted line is the number of classes, which neither exceeds at full collapse. Layers whose features are all
    zero have rank 0 and are marked at the lower edge.

    Parameters
    ----------
    dataset
        Result of `nc.analyze` with ``probes``, of one or several steps, or of several networks in a mapping.
    ax
        Axes to draw in; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 or 6.9 inches, with letters to read at that size.

    Returns
    -------
    matplotlib.axes.Axes
        With both ranks of every network. See `compression` for many networks.

    Raises
    ------
    TypeError, ValueError
        If ``dataset`` or ``ax`` is of another kind, or no ranks were measured.

    Examples
    --------
    >>> import xarray as xr
    >>> ranks(xr.Dataset({name: ("layer", [40.0, 10.0]) for name in ("numerical_rank", "effective_rank")})).get_yscale()
    'log'
    """
    return network_panel(Part(_draw_ranks, BLUE, log=True), dataset, ax, width)


def _draw_ranks(panel: Panel) -> None:
    """Both ranks, and the number of classes."""
    for index, (name, words) in enumerate(_RANKS.items()):
        zero = "" if index else "rank 0"  # the effective rank of zero features is undefined
        panel.curves(name, words, index=index, ink=(BLUE, ORANGE)[index], limits=(zero, ""))
    counts = {num_classes(one.dataset) for one in panel.drawn}
    if len(counts) == 1 and (count := counts.pop()):
        panel.level(count, f"number of classes: {count}", color=GREY, linestyle=LINES[3], linewidth=1.0)
    panel.label, panel.columns = "rank of the features", 2

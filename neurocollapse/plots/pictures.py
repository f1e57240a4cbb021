"""Two-dimensional pictures of the features of chosen layers, coloured by class."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.datasets import as_array
from neurocollapse.plots.embedding import embedder
from neurocollapse.plots.frames import letters_that_fit, shared_legend
from neurocollapse.plots.style import (
    WIDTHS,
    Width,
    axes_grid,
    check_width,
    colour,
    context,
    literal,
    marker,
    shortened,
)
from neurocollapse.support.names import did_you_mean

_MAX_NAMED_CLASSES = 12
_TITLE = 0.9
"""Size of a picture's title, in that of other texts."""


def features(
    features: Mapping[str, Any],
    labels: Any,
    *,
    method: str = "pca",
    layers: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    max_samples: int = 2000,
    columns: int = 4,
    ax: Any = None,
    width: Width | None = None,
) -> Figure:
    """Draw the features of each layer in two dimensions, one picture per layer, one colour and marker per class.

    Every picture has the scale of its own layer, so it shows how classes lie to each other, not how large features
    are; the share of variance in a PCA title says how much of the layer the picture holds.

    Parameters
    ----------
    features
        Layer name to array or tensor of shape (samples, features); `nc.capture` yields such a mapping.
    labels
        Class indices of shape (samples,).
    method : str, default "pca"
        ``"pca"``; ``"tsne"``, after a PCA to 50 dimensions; or ``"umap"``, which needs ``neurocollapse[umap]``.
    layers
        Names of the layers to show, in this order; all of them by default.
    classes
        Names of classes 0, 1, …; their numbers by default.
    seed : int, default 0
        Seed of the choice of samples and of the method.
    max_samples : int, default 2000
        At most so many samples are drawn, the same ones in every layer.
    columns : int, default 4
        Pictures in one row.
    ax
        Axes to draw in, one per layer; a new figure by default.
    width : {"column", "page"}, optional
        Width of a figure for a paper: 3.3 inches with at most two pictures in a row, or 6.9 inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind or shape, a layer or method is unknown, or features are not finite.
    ImportError
        If ``method="umap"`` and UMAP is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> samples = np.random.default_rng(0).normal(size=(30, 5))
    >>> figure = features({"a": samples, "b": samples**2}, np.arange(30) % 3, columns=2)
    >>> [axes.get_title().split(",")[0] for axes in figure.axes]
    ['a', 'b']
    """
    embed = embedder(method)
    chosen = _chosen(features, layers)
    index = _check_labels(labels)
    names = _class_names(classes, index)
    for name, value in chosen.items():
        _check_features(name, value, index.size)
    generator = np.random.default_rng(seed)
    kept = np.sort(generator.permutation(index.size)[: _at_least("max_samples", max_samples, 1)])
    check_width(ax, width)
    columns = min(_at_least("columns", columns, 1), len(chosen), 2 if width == "column" else len(chosen))
    pictures = {name: embed(value[kept], seed) for name, value in chosen.items()}
    return picture_grid(pictures, index[kept], names, columns=columns, ax=ax, width=width)


def picture_grid(
    pictures: Mapping[str, tuple[np.ndarray, str]],
    labels: np.ndarray,
    names: list[str],
    *,
    columns: int,
    ax: Any,
    width: Width | None = None,
) -> Figure:
    """Points of shape (samples, 2) and a note for the title, picture by picture, with one legend above all."""
    if ax is not None:
        figure, panels = axes_grid(ax, len(pictures))
        with context():
            _draw(panels, pictures, labels, names)
        return figure
    rows = -(-len(pictures) // columns)
    side = WIDTHS[width] / columns if width else max(2.1, 3.2 / columns)
    with context(width):
        size = (side * columns, min(side, 2.25) * rows)
        figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False)
        _draw(list(grid.flat[: len(pictures)]), pictures, labels, names)
        for spare in grid.flat[len(pictures) :]:
            spare.remove()
        _add_legend(figure, np.unique(labels), names)
    return figure


def _draw(
    panels: list[Axes], pictures: Mapping[str, tuple[np.ndarray, str]], labels: np.ndarray, names: list[str]
) -> None:
    """One picture in each panel."""
    for ax, (name, (points, note)) in zip(panels, pictures.items(), strict=True):
        _draw_points(ax, points, labels, names, np.unique(labels))
        title = shortened(name, 22) + note
        if len(title) > letters_that_fit(ax, _TITLE * mpl.rcParams["font.size"]):
            title = f"{shortened(name, 22)}\n{note.removeprefix(', ')}"
        ax.set_title(title, fontsize=_TITLE * mpl.rcParams["font.size"], parse_math=False)


def _add_legend(figure: Figure, present: np.ndarray, names: list[str]) -> None:
    """One legend above all pictures, where there are few enough classes to tell apart."""
    if present.size > _MAX_NAMED_CLASSES:
        return
    handles = [plt.Line2D([], [], linestyle="none", marker=marker(k), color=colour(k), markersize=5) for k in present]
    texts = [literal(shortened(names[k], 14)) for k in present]
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + shared_legend(figure, list(zip(handles, texts, strict=True))))


def _draw_points(ax: Axes, points: np.ndarray, labels: np.ndarray, names: list[str], present: np.ndarray) -> None:
    """The samples as pixels, because thousands of vector markers make a file too large to mail."""
    many = present.size > _MAX_NAMED_CLASSES
    for k in present:
        own = points[labels == k]
        ink = plt.get_cmap("viridis")(k / max(len(names) - 1, 1)) if many else colour(int(k))
        ax.scatter(
            own[:, 0], own[:, 1], s=9, marker=marker(int(k)), color=ink, linewidths=0, alpha=0.75, rasterized=True
        )
    if not many:
        for k in present:
            _name_class(ax, np.median(points[labels == k], axis=0), shortened(names[k], 8), colour(int(k)))
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.margins(0.06)
    ax.spines[["top", "right"]].set_visible(True)


def _name_class(ax: Axes, where: np.ndarray, text: str, ink: str) -> None:
    """The class's name at its median, so that the picture reads without colour."""
    label = ax.text(
        where[0], where[1], text, fontsize=8, fontweight="bold", color=ink, ha="center", va="center", parse_math=False
    )
    label.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white")])


def _chosen(features: Mapping[str, Any], layers: Sequence[str] | None) -> dict[str, np.ndarray]:
    """The arrays of the chosen layers."""
    if not isinstance(features, Mapping) or not features:
        raise TypeError(
            "`features` must be a mapping of layer names to arrays of shape (samples, features) with at least one "
            f"entry, got {'an empty mapping' if isinstance(features, Mapping) else type(features).__name__}"
        )
    if isinstance(layers, str):
        raise TypeError(f"`layers` must be a sequence of names, got a str; pass layers=[{layers!r}]")
    wanted = list(features) if layers is None else list(layers)
    if not wanted:
        raise ValueError("`layers` must name at least one layer, got an empty sequence")
    for name in wanted:
        if name not in features:
            some = ", ".join(map(str, list(features)[:8]))
            raise ValueError(
                f"`layers` names {name!r}, which `features` lacks{did_you_mean(name, features)} (it has: {some})"
            )
    return {name: as_array(features[name]) for name in wanted}


def _check_features(name: str, value: np.ndarray, num_samples: int) -> None:
    """Refuse what no picture can be made of."""
    if value.ndim != 2 or value.shape[0] != num_samples or not value.shape[1]:
        raise ValueError(
            f"`features[{name!r}]` must have shape (samples, features) with {num_samples} samples as in `labels`, "
            f"got {value.shape}"
        )
    if not np.isfinite(value).all():
        raise ValueError(
            f"`features[{name!r}]` must be finite, got {int((~np.isfinite(value)).sum())} NaN or inf entries"
        )


def _check_labels(labels: Any) -> np.ndarray:
    """Class indices as integers."""
    index = as_array(labels)
    if index.ndim != 1 or not index.size:
        raise ValueError(f"`labels` must have shape (samples,) with at least one sample, got {index.shape}")
    whole = index.astype(np.int64)
    if (whole != index).any() or (whole < 0).any():
        raise ValueError("`labels` must hold class indices 0, 1, …; got negative or fractional values")
    return whole


def _class_names(classes: Sequence[str] | None, labels: np.ndarray) -> list[str]:
    """One name for each class index that occurs."""
    count = int(labels.max()) + 1
    names = [str(k) for k in range(count)] if classes is None else [str(name) for name in classes]
    if len(names) < count:
        raise ValueError(f"`classes` must name every class, got {len(names)} names for labels up to {count - 1}")
    return names


def _at_least(name: str, value: int, least: int) -> int:
    """An integer option within its range."""
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}")
    return int(value)

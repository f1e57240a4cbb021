"""Features of some layers in two dimensions, one row per method."""

from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from neurocollapse.plots.pictures import picture_grid
from neurocollapse.support.dataset import class_names

METHODS = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


def feature_pictures_figure(dataset: xr.Dataset, *, ax: Any = None) -> Figure:
    """Draw each layer's points, coloured by class, with its D; every picture has its own scale.

    Parameters
    ----------
    dataset
        Result of `feature-pictures`.
    ax
        As many Axes as there are pictures; a new figure by default.
    """
    pictures = {}
    for method in dataset["embedding"].values:
        for layer in dataset["layer"].values:
            one = dataset.sel(embedding=method, layer=layer)
            name = "input" if layer == 0 else f"layer {layer}"
            note = f", D = {float(one['compression']):.2g}"
            pictures[f"{METHODS[str(method)]}, {name}"] = (one["points"].values, note)
    labels = dataset["label"].values
    return picture_grid(pictures, labels, class_names(dataset), columns=dataset.sizes["layer"], ax=ax)

"""Class means and covariances of many layers, labelled: arrays whose size differs from layer to layer."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from neurocollapse.metrics.measure import checked_collection, provenance_of
from neurocollapse.metrics.variability import between_class_covariance, within_class_covariance
from neurocollapse.metrics.weighting import BETWEEN, Weighting, check_weighting
from neurocollapse.statistics import ClassMoments


def layer_tree(moments: Mapping[str, ClassMoments], *, weighting: Weighting = "equal") -> xr.DataTree:
    """Arrays whose size differs from layer to layer, with one node per layer.

    Parameters
    ----------
    moments : mapping of layer name to ClassMoments
        Class moments of every layer.
    weighting : {"equal", "frequency", "papers"}, default "equal"
        Weights of the classes in the between-class covariance; the within-class covariance has 1/N, whatever their
        sizes.

    Returns
    -------
    xarray.DataTree
        Each node holds `class_mean (class, feature)` and, where the moments were collected with covariance=True,
        `within_class_covariance` and `between_class_covariance (feature, feature_)`. A "/" in a layer's name is
        written as "|". The root carries the provenance.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1])
    >>> layer_tree({"fc": moments})["fc"]["class_mean"].values.tolist()
    [[1.0], [7.0]]
    """
    check_weighting(weighting)
    collection = checked_collection(moments)
    nodes = {"/": xr.Dataset(attrs=provenance_of(collection, weighting, []))}
    for name, value in collection.items():
        arrays = {"class_mean": (("class", "feature"), value.mean)}
        if value.within_scatter is not None:
            square = ("feature", "feature_")
            arrays["within_class_covariance"] = (square, within_class_covariance(value))
            arrays["between_class_covariance"] = (square, between_class_covariance(value, weighting=weighting))
        variables = {
            key: (dims, array.numpy(), _tree_attributes(key, weighting)) for key, (dims, array) in arrays.items()
        }
        nodes[name.replace("/", "|")] = xr.Dataset(variables, coords={"class": np.arange(value.num_classes)})
    return xr.DataTree.from_dict(nodes)


_PAPYAN = "Papyan, Han, Donoho, PNAS 117(40), 2020"


def _tree_attributes(name: str, weighting: Weighting) -> dict[str, str]:
    """What an array of a layer is called, how it is normalised and where it comes from."""
    long_name, symbol, convention, units = {
        "class_mean": ("class mean", r"\mu_k", "1/n_k, not centred; NaN for absent classes", "feature units"),
        "within_class_covariance": ("within-class covariance", r"\Sigma_W", "1/N over samples", _SQUARED),
        "between_class_covariance": ("between-class covariance", r"\Sigma_B", BETWEEN[weighting], _SQUARED),
    }[name]
    words = {"long_name": long_name, "units": units, "symbol": symbol, "convention": convention}
    return words | {"reference": _PAPYAN}


_SQUARED = "feature units squared"

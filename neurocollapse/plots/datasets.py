"""What the plots read from results: named datasets, their variables, and the labels their attributes carry."""

import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from matplotlib.mathtext import MathTextParser

from neurocollapse.support.dataset import layer_names as layer_names
from neurocollapse.support.dataset import layered, leading, networks
from neurocollapse.support.names import did_you_mean
from neurocollapse.support.text import listed

Datasets: TypeAlias = xr.Dataset | Mapping[str, xr.Dataset]

_LONGEST_LABEL = 36
"""Characters that fit beside one panel."""
_WIDEST_SYMBOL = 100.0
"""Points that are left for a symbol."""


def named(dataset: Datasets) -> dict[str, xr.Dataset]:
    """One dataset under the empty name, or several under their own, each with its dimension `layer`.

    Raises
    ------
    TypeError
        If ``dataset`` is neither a Dataset nor a mapping of names to Datasets.
    ValueError
        If the mapping is empty, or a dataset has no layers or several dimensions in front of them.
    """
    if isinstance(dataset, xr.Dataset):  # a Dataset is a Mapping too, so it is asked first
        return networks(layered(dataset))
    found: dict[str, xr.Dataset] = {}
    if not isinstance(dataset, Mapping):
        raise TypeError(
            f"`dataset` must be an xarray.Dataset or a mapping of names to Datasets, got {type(dataset).__name__}; "
            "pass the result of nc.measure or nc.analyze"
        )
    if not dataset:
        raise ValueError("`dataset` must name at least one Dataset, got an empty mapping")
    for name, value in dataset.items():
        if not isinstance(value, xr.Dataset):
            raise TypeError(f"`dataset[{name!r}]` must be an xarray.Dataset, got {type(value).__name__}")
        found |= networks(layered(value, f"`dataset[{name!r}]`"), str(name))
    return found


def common_steps(networks: Mapping[str, xr.Dataset]) -> str:
    """The leading dimension along which all networks have several steps, or "layer"."""
    fronts = {dim if (dim := leading(one)) and one.sizes[dim] > 1 else "layer" for one in networks.values()}
    return fronts.pop() if len(fronts) == 1 else "layer"


def variable(dataset: xr.Dataset, name: str, *dims: str) -> xr.DataArray:
    """The variable ``name`` with its axes in the order ``dims``.

    Raises
    ------
    TypeError
        If ``dataset`` is no Dataset.
    ValueError
        If the variable is missing or runs along other dimensions.
    """
    if not isinstance(dataset, xr.Dataset):
        raise TypeError(
            f"`dataset` must be an xarray.Dataset, got {type(dataset).__name__}; pass the result of a tracker"
        )
    if name not in dataset.data_vars:
        present = [str(variable) for variable in dataset.data_vars]
        shown = listed(present, most=5) or "none"
        raise ValueError(
            f"`dataset` has no variable {name!r} (it has: {shown}){did_you_mean(name, present)}; "
            "pass the result of nc.measure or nc.analyze"
        )
    found = dataset[name]
    if set(found.dims) != set(dims):
        raise ValueError(f"`dataset[{name!r}]` must have dimensions {dims}, got {tuple(map(str, found.dims))}")
    return found.transpose(*dims)


def per_layer(dataset: xr.Dataset, name: str) -> np.ndarray:
    """The values of a variable along `layer`, of shape (layers,), as float64."""
    return np.asarray(variable(dataset, name, "layer").values, dtype=np.float64)


def positions(dataset: xr.Dataset, dim: str = "layer") -> np.ndarray:
    """Where the entries along a dimension stand on the axis: at their numbers, or one after the other.

    Layers stand at their depth, so that a selection of them keeps its place and its fit.
    """
    found = dataset.coords.get("depth" if dim == "layer" else dim)
    if found is not None and found.dims == (dim,) and np.issubdtype(found.dtype, np.number):
        numbers = np.asarray(found.values, dtype=np.float64)
        if np.isfinite(numbers).all() and np.unique(numbers).size == numbers.size:
            return numbers
    return np.arange(dataset.sizes.get(dim, 0), dtype=np.float64)


def axis_label(dataset: xr.Dataset, name: str) -> str:
    """Long name, symbol and unit of a variable, as its attributes give them, on two lines where one is too long.

    A symbol that matplotlib cannot set, or that is a whole formula, is left to the report's definitions.
    """
    attrs = dataset[name].attrs
    words = textwrap.fill(str(attrs.get("long_name", name.replace("_", " "))), _LONGEST_LABEL).replace("$", r"\$")
    tex, units = str(attrs.get("symbol", "")), str(attrs.get("units", "1"))
    symbol = f"${tex}$" if tex and _width(tex) < _WIDEST_SYMBOL else ""
    parts = [part for part in (words, symbol, "" if units in ("", "1") else f"[{units}]") if part]
    length = sum(len(part) for part in parts if part is not symbol) + _width(tex) / 7 * bool(symbol)
    return ("  " if length <= _LONGEST_LABEL else "\n").join(parts)


@cache
def _width(tex: str) -> float:
    """Width of a formula in points at matplotlib's usual size, infinite if it cannot be set."""
    try:
        return float(MathTextParser("path").parse(f"${tex}$").width) if tex else 0.0
    except ValueError:
        return float("inf")


def symbol(dataset: xr.Dataset, name: str, default: str) -> str:
    """The symbol of a variable between dollar signs."""
    return f"${dataset[name].attrs.get('symbol', default)}$"


def as_array(value: Any) -> np.ndarray:
    """A tensor or array-like as a float64 array; tensors are recognised by their methods, torch is not imported."""
    if hasattr(value, "detach"):
        value = value.detach().to("cpu").double().numpy()
    return np.asarray(value, dtype=np.float64)

"""What the plots read from results: named datasets, their variables, and the labels their attributes carry."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from neurocollapse.support.names import did_you_mean

Datasets: TypeAlias = xr.Dataset | Mapping[str, xr.Dataset]


def named(dataset: Datasets) -> dict[str, xr.Dataset]:
    """One dataset under the empty name, or several under their own.

    Raises
    ------
    TypeError
        If ``dataset`` is neither a Dataset nor a mapping of names to Datasets.
    ValueError
        If the mapping is empty.
    """
    if isinstance(dataset, xr.Dataset):  # a Dataset is a Mapping too, so it is asked first
        return {"": dataset}
    networks: dict[str, xr.Dataset] = {}
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
        networks[str(name)] = value
    return networks


def variable(dataset: xr.Dataset, name: str, *dims: str) -> xr.DataArray:
    """The variable ``name`` with its axes in the order ``dims``.

    Raises
    ------
    ValueError
        If the variable is missing or runs along other dimensions.
    """
    if name not in dataset.data_vars:
        present = [str(variable) for variable in dataset.data_vars]
        shown = ", ".join(present[:5]) + (f" and {len(present) - 5} more" if len(present) > 5 else "") or "none"
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


def scalar(dataset: xr.Dataset, name: str) -> float:
    """A number of the dataset, NaN where it has none."""
    if name in dataset.data_vars and dataset[name].ndim == 0:
        return float(dataset[name])
    return float("nan")


def attribute(dataset: xr.Dataset, name: str, default: Any = None) -> Any:
    """One provenance entry of the dataset."""
    return dataset.attrs.get(name, default)


def num_classes(dataset: xr.Dataset) -> int | None:
    """The number of classes, from the dimension or the provenance."""
    if "class" in dataset.sizes:
        return int(dataset.sizes["class"])
    stated = attribute(dataset, "num_classes")
    return None if stated is None else int(stated)


def class_names(dataset: xr.Dataset) -> list[str]:
    """Names of the classes, or their numbers."""
    coordinate = "class_name" if "class_name" in dataset.coords else "class"
    if coordinate in dataset.coords:
        return [str(value) for value in dataset[coordinate].values]
    return [str(index) for index in range(num_classes(dataset) or 0)]


def layer_names(dataset: xr.Dataset) -> list[str]:
    """Names of the layers, or their positions."""
    if "layer" in dataset.coords:
        return [str(value) for value in dataset["layer"].values]
    return [str(index) for index in range(dataset.sizes.get("layer", 0))]


def positions(dataset: xr.Dataset) -> np.ndarray:
    """Where the layers stand on the axis: their depth, so that a selection of layers keeps its place and its fit."""
    if "depth" in dataset.coords and dataset["depth"].dims == ("layer",):
        depth = np.asarray(dataset["depth"].values, dtype=np.float64)
        if np.unique(depth).size == depth.size:
            return depth
    return np.arange(dataset.sizes.get("layer", 0), dtype=np.float64)


def axis_label(dataset: xr.Dataset, name: str) -> str:
    """Long name, symbol and unit of a variable, as its attributes give them."""
    attrs = dataset[name].attrs
    long_name = str(attrs.get("long_name", name.replace("_", " ")))
    label = long_name.replace("$", r"\$")
    if symbol := attrs.get("symbol"):
        label += f"  ${symbol}$"
    units = attrs.get("units", "1")
    return label if units in ("", "1") else f"{label}  [{units}]"


def symbol(dataset: xr.Dataset, name: str, default: str) -> str:
    """The symbol of a variable between dollar signs."""
    return f"${dataset[name].attrs.get('symbol', default)}$"


def as_array(value: Any) -> np.ndarray:
    """A tensor or array-like as a float64 array; tensors are recognised by their methods, torch is not imported."""
    if hasattr(value, "detach"):
        value = value.detach().to("cpu").double().numpy()
    return np.asarray(value, dtype=np.float64)

"""What a dataset of layers says of itself: its layers, the dimension in front of them, and what tables show."""

from typing import Any, Final

import numpy as np
import xarray as xr

from neurocollapse.support.text import visible

INNER: Final = frozenset(
    {"layer", "layer_", "class", "class_", "pair", "component", "feature", "side", "edge", "bound"}
)
"""Dimensions of a single measurement, never in front of its layers."""
ENDS: Final = ("lower", "upper")
"""Labels of both ends of an interval, along `bound`."""
LONGEST: Final = 10_000
"""Characters of a name that are kept."""
APART: Final = ("model", "run", "network")
"""Leading dimensions that are not an order in time, so that each entry is a network of its own."""


def layered(dataset: xr.Dataset, given: str = "`dataset`") -> xr.Dataset:
    """The dataset with its dimension `layer`, which a single layer lacks, and numbered steps in their order.

    Intervals of which one end was left out are left out whole.

    Raises
    ------
    ValueError
        If there is no layer or no step, layers are stacked with steps, or there is more than one dimension in front of
        the layers, beside one of networks.

    Examples
    --------
    >>> one = xr.Dataset({"compression": ("layer", [2.0, 1.0])}, {"layer": ["a", "b"]}).isel(layer=1)
    >>> layered(one)["compression"].dims
    ('layer',)
    """
    dataset = _with_whole_intervals(dataset)
    front = _in_front(dataset)
    if "layer" not in dataset.dims:
        if "layer" in dataset.coords and dataset["layer"].ndim:
            over = dataset["layer"].dims[0]
            raise ValueError(f"{given} has its layers along {over!r}; undo .stack() by .unstack({over!r})")
        one = "layer" if "layer" in dataset.coords else {"layer": ["–"]}
        dataset = dataset.expand_dims(one).transpose(*front, "layer", ...)
    apart = [dim for dim in front if dim in APART]
    if len(apart) > 1 or len(front) > 1 + len(apart):
        raise ValueError(
            f"{given} has {len(front)} dimensions in front of its layers ({', '.join(front)}); keep one of them, "
            f"such as by .isel({front[0]}=-1)"
        )
    for name in ("layer", *front):
        if dataset.sizes[name] == 0:
            raise ValueError(f"{given} has no {name}s: its dimension {name!r} is empty; measure at least one")
    numbered = [dim for dim in front if dim in dataset.coords and np.issubdtype(dataset[dim].dtype, np.number)]
    return dataset.sortby(numbered) if numbered else dataset


def leading(dataset: xr.Dataset) -> str | None:
    """The dimension in front of the layers, if there is one; of two, that of the networks."""
    front = _in_front(dataset)
    return next((dim for dim in front if dim in APART), front[0] if front else None)


def networks(dataset: xr.Dataset, name: str = "") -> dict[str, xr.Dataset]:
    """A dataset's networks by name: several where its leading dimension is `model`, `run` or `network`.

    Steps that a network lacks, which joining fills with NaN, are left out.

    Examples
    --------
    >>> both = xr.Dataset({"compression": (("model", "layer"), [[2.0], [1.0]])}, {"model": ["MLP", "hybrid"]})
    >>> list(networks(both))
    ['MLP', 'hybrid']
    """
    dim = leading(dataset)
    if dim not in APART:
        return {name: dataset}
    plain = _coordinate(dataset, dim).dtype.kind not in "iuf"
    words = [label if plain else f"{dim} {label}" for label in labels(dataset, dim)]
    entries = [_with_own_steps(dataset.isel({dim: at})) for at in range(len(words))]
    return {f"{name}, {word}" if name else word: one for word, one in zip(words, entries, strict=True)}


def _with_own_steps(network: xr.Dataset) -> xr.Dataset:
    """A network without the steps at which nothing of it is known."""
    dim = leading(network)
    numbers = (
        [] if dim is None else [one for one in network.data_vars.values() if dim in one.dims and one.dtype.kind == "f"]
    )
    if not numbers:
        return network
    known = np.any([one.notnull().any([other for other in one.dims if other != dim]) for one in numbers], axis=0)
    return network if known.all() or not known.any() else network.isel({dim: np.flatnonzero(known)})


def last(dataset: xr.Dataset) -> tuple[xr.Dataset, str]:
    """The last step and its name; the dataset itself and no name where it has no steps.

    Examples
    --------
    >>> run = xr.Dataset({"compression": (("epoch", "layer"), [[2.0], [1.0]])}, {"epoch": [0, 10]})
    >>> last(run)[1]
    'epoch 10'
    """
    dim = leading(dataset)
    return (dataset, "") if dim is None else (dataset.isel({dim: -1}), f"{dim} {labels(dataset, dim)[-1]}")


def last_defined(dataset: xr.Dataset, name: str) -> xr.Dataset | None:
    """The last layer at which a variable is defined, at any step; None where there is none.

    Examples
    --------
    >>> one = xr.Dataset({"margin": ("layer", [0.5, float("nan")])}, {"layer": ["fc@in", "fc"]})
    >>> last_defined(one, "margin")["layer"].values.tolist()
    ['fc@in']
    """
    if name not in dataset.data_vars or "layer" not in dataset[name].dims:
        return None
    known = dataset[name].notnull()
    found = np.flatnonzero(known.any([dim for dim in known.dims if dim != "layer"]).values)
    return dataset.isel(layer=found[-1:]) if found.size else None


def shown(dataset: xr.Dataset) -> list[str]:
    """The variables along `layer` that tables have a column for: those with a heading, or all where none has one."""
    numbers = [name for name, one in dataset.data_vars.items() if one.dims == ("layer",) and one.dtype.kind in "fiub"]
    headed = [str(name) for name in numbers if dataset[name].attrs.get("heading")]
    return headed or [str(name) for name in numbers if dataset[name].dtype.kind == "f"]


def tabulated(dataset: xr.Dataset) -> list[str]:
    """What tables have a column for: what is shown, and intervals with a heading, along `layer, bound`."""
    found = shown(dataset)
    return [
        str(name)
        for name, one in dataset.data_vars.items()
        if name in found or (one.dims == ("layer", "bound") and one.attrs.get("heading"))
    ]


def heading(dataset: xr.Dataset, name: str) -> str:
    """What a variable is called in tables."""
    return str(dataset[name].attrs.get("heading") or name)


def family(dataset: xr.Dataset, name: str) -> str:
    """What a variable is chosen with; nothing in older files."""
    return str(dataset[name].attrs.get("family", ""))


def limit(dataset: xr.Dataset, name: str) -> float:
    """The value of a variable at full collapse, NaN where none is known."""
    return float(dataset[name].attrs.get("at_collapse", np.nan))


def labels(dataset: xr.Dataset, dim: str) -> list[str]:
    """Names of the entries along a dimension, or their positions; what no font has a shape for is written out."""
    values = _coordinate(dataset, dim)
    return [f"{value:g}" if values.dtype.kind == "f" else visible(value, most=LONGEST) for value in values]


def layer_names(dataset: xr.Dataset) -> list[str]:
    """Names of the layers, or their positions."""
    return labels(dataset, "layer") if "layer" in dataset.dims else []


def class_names(dataset: xr.Dataset) -> list[str]:
    """Names of the classes, or their numbers."""
    if "class_name" in dataset.coords and dataset["class_name"].dims == ("class",):
        return [visible(value, most=LONGEST) for value in dataset["class_name"].values]
    return labels(dataset, "class") if "class" in dataset.dims else []


def num_classes(dataset: xr.Dataset) -> int | None:
    """The number of classes, from the dimension or the provenance."""
    stated: Any = dataset.sizes.get("class", dataset.attrs.get("num_classes"))
    return None if stated is None else int(stated)


def scalar(dataset: xr.Dataset, name: str) -> float:
    """A number of the whole network, NaN where the dataset has none."""
    if name in dataset.data_vars and dataset[name].size == 1:
        return float(dataset[name].item())
    return float("nan")


def ends_of(dataset: xr.Dataset, name: str) -> tuple[float, float]:
    """The ends of an interval that is of the whole network, NaN where the dataset has none."""
    if name in dataset.data_vars and dataset[name].dims == ("bound",):
        lower, upper = dataset[name].values.tolist()
        return lower, upper
    return float("nan"), float("nan")


def _with_whole_intervals(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with the intervals that have both ends, the lower one first."""
    known = dataset["bound"].values if "bound" in dataset.coords else ENDS[: dataset.sizes.get("bound", 0)]
    whole = sorted(np.atleast_1d(known).tolist()) == list(ENDS)
    broken = [
        name
        for name, one in dataset.data_vars.items()
        if ("bound" in one.dims and not whole) or ("bound" not in one.dims and str(name).endswith("_interval"))
    ]
    dataset = dataset.drop_vars(broken)
    return dataset.sel(bound=list(ENDS)) if whole and "bound" in dataset.indexes else dataset


def _in_front(dataset: xr.Dataset) -> list[str]:
    """The dimensions that stand before `layer`, or that most variables have, as those of joined datasets do."""
    all_dims = [variable.dims for variable in dataset.data_vars.values()]
    layered_dims = [dims for dims in all_dims if "layer" in dims]
    found = []
    for dim in dict.fromkeys(dim for dims in all_dims for dim in dims if dim not in INNER):
        is_before = any(dim in dims[: dims.index("layer")] for dims in layered_dims)
        is_common = 2 * sum(dim in dims for dims in all_dims) > len(all_dims) and (
            len(all_dims) > 1 or not layered_dims
        )
        if is_before or is_common:
            found.append(str(dim))
    return found


def _coordinate(dataset: xr.Dataset, dim: str) -> np.ndarray:
    """The labels along a dimension as they are, or positions."""
    return np.asarray(dataset[dim].values if dim in dataset.coords else np.arange(dataset.sizes[dim]))

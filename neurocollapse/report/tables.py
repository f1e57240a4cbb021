"""A dataset as a table: its layers as rows, and every number that has a heading as a column."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import xarray as xr

from neurocollapse.report.layer_table import Column, Table
from neurocollapse.support.choices import check_choice
from neurocollapse.support.dataset import (
    family,
    heading,
    labels,
    last,
    layer_names,
    layered,
    leading,
    networks,
    tabulated,
)
from neurocollapse.support.numbers import number, together

_DESCRIPTIONS = {"module_type": "type", "feature_dimension": "features", "pooling": "pooling"}
_STEPS = ("last", "all")


def table(dataset: xr.Dataset, *, steps: str = "last") -> Table:
    """The layers of a dataset as rows, with a column for every number that has a heading.

    Headings are what the variables say of themselves; where none has one, as in files of older versions, all numbers
    are shown under their names. Entries along `model`, `run` or `network` are shown one below the other.

    Parameters
    ----------
    dataset : xarray.Dataset
        Result of `nc.measure` or `nc.analyze`, also concatenated, or with one layer or step selected.
    steps : {"last", "all"}, default "last"
        Which steps of a run.

    Returns
    -------
    Table

    Raises
    ------
    TypeError
        If ``dataset`` is something else.
    ValueError
        If it holds no number along `layer`, or more than one dimension in front of the layers.

    Examples
    --------
    >>> values = ("layer", [2.0, 0.25], {"heading": "D"})
    >>> print(table(xr.Dataset({"compression": values}, {"layer": ["fc1", "fc2"]})))
    layer      D
    fc1    2.000
    fc2    0.250
    """
    if not isinstance(dataset, xr.Dataset):
        raise TypeError(f"`dataset` must be an xarray.Dataset, got {type(dataset).__name__}; pass one of nc.analyze")
    check_choice("steps", steps, _STEPS)
    whole = layered(dataset)
    parts = [part for name, one in networks(whole).items() for part in _parts(name, one, steps)]
    built = [_columns(part.dataset) for part in parts]
    columns = [one for pieces in zip(*built, strict=True) if set((one := _joined(pieces)).cells) != {"none"}]
    if len(columns) == 1:
        raise ValueError("`dataset` holds no number along `layer`; pass the result of nc.analyze or nc.measure")
    keys = [*_keys(parts, str(leading(whole))), columns[0]]
    totals = [
        (
            ", ".join(filter(None, (text, part.name if len(parts) > 1 else "", part.words if steps == "all" else ""))),
            value,
        )
        for part in parts
        for text, value in _totals(part.dataset)
    ]
    return Table(tuple(keys), tuple(columns[1:]), tuple(totals), parts[0].words if steps == "last" else "")


@dataclass(frozen=True)
class _Part:
    """The rows of one network at one step, and how the step is called."""

    name: str
    dataset: xr.Dataset
    dim: str = ""
    step: Any = None
    words: str = ""


def _parts(name: str, network: xr.Dataset, steps: str) -> list[_Part]:
    """A network at its last step, or at all."""
    dim = leading(network)
    if dim is None or steps == "last":
        one, words = last(network)
        return [_Part(name, one, words=words)]
    numbers = network[dim].values.tolist() if dim in network.coords else list(range(network.sizes[dim]))
    return [
        _Part(name, network.isel({dim: at}), dim, number, f"{dim} {text}")
        for at, (number, text) in enumerate(zip(numbers, labels(network, dim), strict=True))
    ]


def _keys(parts: Sequence[_Part], leads: str) -> list[Column]:
    """What names a row beside its layer: the network where there are several, and the step where it is asked for."""
    rows = [part for part in parts for _ in layer_names(part.dataset)]
    keys = []
    if len({part.name for part in parts}) > 1:
        keys.append(Column(leads, tuple(part.name for part in rows), is_number=False))
    if dim := next((part.dim for part in parts if part.dim), ""):
        steps = tuple(part.step for part in rows)
        numbers = steps if all(isinstance(step, int | float) for step in steps) else ()
        texts = tuple(part.words.removeprefix(f"{dim} ") for part in rows)
        keys.append(Column(dim, texts, is_number=bool(numbers), values=numbers))
    return keys


def _columns(dataset: xr.Dataset) -> list[Column]:
    """The layers' names, what they are, and every number of theirs."""
    names = tabulated(dataset)
    first = family(dataset, names[0]) if names else ""
    kinds = [name for name in _DESCRIPTIONS if name in dataset.coords and dataset[name].dims in ((), ("layer",))]
    return [
        Column("layer", tuple(layer_names(dataset)), is_number=False),
        *(Column(_DESCRIPTIONS[name], _described(dataset, name), first, *_counted(dataset, name)) for name in kinds),
        *(_column(dataset, name) for name in names),
    ]


def _column(dataset: xr.Dataset, name: str) -> Column:
    """A number of every layer, or an interval."""
    one = dataset[name]
    values, symbol = exact(one), str(one.attrs.get("symbol", ""))
    return Column(heading(dataset, name), cells(one), family(dataset, name), True, values, symbol, digits_of(one))


def _counted(dataset: xr.Dataset, name: str) -> tuple[bool, tuple[Any, ...]]:
    """Whether a coordinate counts something, and its numbers."""
    if name != "feature_dimension":
        return False, ()
    return True, tuple(np.broadcast_to(dataset[name].values, dataset.sizes["layer"]).tolist())


def cells(values: xr.DataArray) -> tuple[str, ...]:
    """Numbers as text with the same decimals, intervals as their two ends."""
    return texts(exact(values), digits_of(values))


def digits_of(values: xr.DataArray) -> int:
    """Four digits of a share, which is read near its ends, three of others."""
    return 4 if values.attrs.get("valid_min") == 0 and values.attrs.get("valid_max") == 1 else 3


def texts(values: Sequence[Any], digits: int) -> tuple[str, ...]:
    """Numbers, or pairs of numbers, as the cells of one column."""
    if not values or not isinstance(values[0], tuple):
        return together(values, digits)
    ends = iter(together(chain.from_iterable(values), digits))
    pairs = zip(values, zip(ends, ends, strict=True), strict=True)
    return tuple("–" if np.isnan(one).any() else " to ".join(both) for one, both in pairs)


def exact(values: xr.DataArray) -> tuple[Any, ...]:
    """The numbers themselves, an interval as its two ends."""
    if "bound" not in values.dims:
        return tuple(np.ravel(values.values).tolist())
    return tuple(map(tuple, values.transpose(..., "bound").values.reshape(-1, 2).tolist()))


def _described(dataset: xr.Dataset, name: str) -> tuple[str, ...]:
    """A coordinate of the layers as text: a selected layer has it as one value; a dash where it is not known."""
    values = np.broadcast_to(dataset[name].values, dataset.sizes["layer"]).tolist()
    return tuple(value if isinstance(value, str) else number(value) for value in values)


def _joined(pieces: Sequence[Column]) -> Column:
    """One column below the other, with the same decimals in both."""
    first, values = pieces[0], tuple(chain.from_iterable(piece.values for piece in pieces))
    cells = texts(values, first.digits) if values else chain.from_iterable(piece.cells for piece in pieces)
    return replace(first, cells=tuple(cells), values=values)


def _totals(dataset: xr.Dataset) -> list[tuple[str, str]]:
    """Numbers of the whole network that have a heading."""
    names = [
        str(name)
        for name, one in dataset.data_vars.items()
        if one.dims in ((), ("bound",)) and one.attrs.get("heading")
    ]
    return [(heading(dataset, name), cells(dataset[name])[0]) for name in names]

"""The table of what can be hooked in a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

from torch import nn

from neurocollapse.hooks import LayerInfo, inspect_layers
from neurocollapse.support.table import aligned, html_table

_HEADINGS = {
    "name": "layer",
    "module_type": "type",
    "shape": "shape",
    "num_features": "features",
    "num_parameters": "parameters",
    "num_calls": "calls",
}
_NUMBERS = [list(_HEADINGS).index(name) for name in ("num_features", "num_parameters", "num_calls")]


def layers(model: nn.Module, example: Any = None) -> "LayerTable":
    """List what can be hooked in a model: one row per module, in definition order.

    Parameters
    ----------
    model : torch.nn.Module
        The network to measure.
    example : Tensor, tuple or dict, optional
        Input of one forward pass, which shows shapes, feature dimensions and how often each module is called.

    Returns
    -------
    LayerTable

    Raises
    ------
    TypeError
        If `model` is not a torch.nn.Module.

    Examples
    --------
    >>> import torch
    >>> print(layers(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), torch.zeros(2, 4)))
    layer  type    shape  features  parameters  calls
    0      Linear  (8,)          8          40      1
    1      ReLU    (8,)          8           0      1
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
    return LayerTable(tuple(inspect_layers(model, example)))


@dataclass(frozen=True, repr=False)
class LayerTable(Sequence[LayerInfo]):
    """Rows of `LayerInfo`; a column by its name, ``table["num_features"]``; readable in a terminal and a notebook.

    Parameters
    ----------
    rows : tuple of LayerInfo
        One per layer, in the order of the model.
    """

    rows: tuple[LayerInfo, ...]

    @property
    def names(self) -> list[str]:
        """The names that `layers=` accepts."""
        return [row.name for row in self.rows]

    @overload
    def __getitem__(self, key: int) -> LayerInfo: ...
    @overload
    def __getitem__(self, key: slice) -> "LayerTable": ...
    @overload
    def __getitem__(self, key: str) -> list[Any]: ...
    def __getitem__(self, key: int | slice | str) -> "LayerInfo | LayerTable | list[Any]":
        if isinstance(key, slice):
            return LayerTable(self.rows[key])
        if isinstance(key, int):
            return self.rows[key]
        columns = [field.name for field in fields(LayerInfo)]
        if key not in columns:
            raise KeyError(f"no column {key!r}; there are {', '.join(columns)}")
        return [getattr(row, key) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[LayerInfo]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return aligned(list(_HEADINGS.values()), self._cells(), numbers=_NUMBERS)

    def _repr_html_(self) -> str:
        return str(html_table(list(_HEADINGS.values()), self._cells(), numbers=_NUMBERS))

    def _cells(self) -> list[list[str]]:
        """All rows as text."""
        return [[_cell(row, name) for name in _HEADINGS] for row in self.rows]


def _cell(row: LayerInfo, name: str) -> str:
    """One cell as text; a dash where nothing is known without an example."""
    value = getattr(row, name)
    if value is None:
        return "–"
    return f"{value:,}" if name == "num_parameters" else str(value)

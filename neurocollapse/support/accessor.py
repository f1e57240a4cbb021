"""Methods of the library at the dataset itself: `dataset.nc.table()`, `dataset.nc.plot.layers()`."""

from collections.abc import Callable
from functools import update_wrapper
from importlib import import_module
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any

import xarray as xr


class Accessor:
    """Tables, figures, checks and reports of a dataset, under its attribute `nc`.

    Every method is the function of the same name with the dataset as its first argument.

    Examples
    --------
    >>> dataset = xr.Dataset({"compression": ("layer", [2.0, 0.25], {"heading": "D"})}, {"layer": ["fc1", "fc2"]})
    >>> print(dataset.nc.table())
    layer      D
    fc1    2.000
    fc2    0.250
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def plot(self) -> "Figures":
        """The figures of `nc.plot` that draw a dataset, such as ``dataset.nc.plot.layers()``."""
        return Figures(self._dataset)

    def table(self, **options: Any) -> Any:
        """The layers as rows and the numbers as columns: `nc.table` of the dataset."""
        return _function("report", "table")(self._dataset, **options)

    def to_table(self, format: str = "pandas", *, steps: str = "all", **options: Any) -> Any:
        """The same rows and columns for another program, or for a paper.

        Parameters
        ----------
        format : {"pandas", "latex", "markdown", "text"}, default "pandas"
            A `pandas.DataFrame` of plain numbers, or text.
        steps : {"all", "last"}, default "all"
            Which steps of a run.
        **options
            As `Table.to_latex` and its siblings take them.

        Returns
        -------
        pandas.DataFrame or str

        Raises
        ------
        ValueError
            If there is no such format, or nothing to show.

        Examples
        --------
        >>> run = xr.Dataset({"compression": ("layer", [2.0, 0.25], {"heading": "D"})}, {"layer": ["fc1", "fc2"]})
        >>> print(run.nc.to_table("markdown"))
        | layer | D |
        | :--- | ---: |
        | fc1 | 2.00 |
        | fc2 | 0.25 |
        """
        return self.table(steps=steps).to(format, **options)

    def report(self, path: str | PathLike[str], **options: Any) -> Path:
        """Write the dataset as one HTML page: `nc.report`."""
        written: Path = _function("report", "report")(self._dataset, path, **options)
        return written

    def check(self, *expressions: str, **options: Any) -> Any:
        """Find where the dataset meets conditions that it should not meet: `nc.check`."""
        return _function("tracking", "check")(self._dataset, *expressions, **options)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the dataset to a NetCDF file that `nc.open` reads: `nc.save`."""
        written: Path = _function("support.files", "save")(self._dataset, path)
        return written

    def __repr__(self) -> str:
        return f"<dataset.nc: {', '.join(name for name in dir(self) if not name.startswith('_'))}>"


class Figure:
    """One function of `nc.plot`, as a method whose first argument is the dataset."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, figures: "Figures | None", owner: type) -> Callable[..., Any]:
        function = _function("plots", self._name)
        if figures is None:
            return function

        def draw(*arguments: Any, **options: Any) -> Any:
            return function(figures.dataset, *arguments, **options)

        update_wrapper(draw, function)
        _, *others = signature(function).parameters.values()
        draw.__signature__ = signature(function).replace(parameters=others)  # type: ignore[attr-defined]
        return draw


class Figures:
    """The functions of `nc.plot` that draw a dataset, with the dataset as their first argument.

    They are written out, so that completion finds them without running anything.

    Examples
    --------
    >>> figures = xr.Dataset({"compression": ("layer", [2.0, 0.25])}).nc.plot
    >>> figures.compression(fit=False).get_yscale()
    'log'
    """

    angles = Figure()
    bounds = Figure()
    certificate = Figure()
    class_spread = Figure()
    collapse = Figure()
    compression = Figure()
    decay = Figure()
    evolution = Figure()
    layers = Figure()
    margin_efficiency = Figure()
    probes = Figure()
    quantities = Figure()
    ranks = Figure()
    separation = Figure()
    similarity = Figure()
    trajectories = Figure()
    trajectory = Figure()

    def __init__(self, dataset: xr.Dataset) -> None:
        self.dataset = dataset

    def __dir__(self) -> list[str]:
        return [name for name, one in vars(Figures).items() if isinstance(one, Figure)]

    def __repr__(self) -> str:
        return f"<dataset.nc.plot: {', '.join(dir(self))}>"


def _function(module: str, name: str) -> Callable[..., Any]:
    """A function of the library, by name and when it is used: this module stands below all that it offers."""
    found: Callable[..., Any] = getattr(import_module(f"neurocollapse.{module}"), name)
    return found


def _register() -> None:
    """Give datasets the attribute `nc`, again where this module has been loaded again."""
    former = getattr(vars(xr.Dataset).get("nc"), "_accessor", None)
    if former is not None and former.__module__ == __name__:
        del xr.Dataset.nc  # type: ignore[attr-defined]  # or xarray would warn that it is there already
    xr.register_dataset_accessor("nc")(Accessor)


_register()

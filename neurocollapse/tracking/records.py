"""What was measured at each step of a run, as one dataset."""

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import xarray as xr

from neurocollapse.support.text import listed

PER_STEP = ("created", "elapsed_seconds", "command", "warnings")
"""Attributes of a measurement that are kept for each step; the dataset's own are those of the last one."""


class TrackingError(ValueError):
    """Records that do not belong to one run."""


class Records:
    """Datasets of single steps, in order of their steps, as one dataset along `step`.

    Attributes
    ----------
    steps : list of numbers
    """

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._rows: list[dict[str, Any]] = []
        self._first: xr.Dataset | None = None

    @property
    def last(self) -> float | None:
        """The last step, None without any."""
        return self.steps[-1] if self.steps else None

    def add(
        self,
        step: float,
        dataset: xr.Dataset,
        scalars: Mapping[str, float],
        about: Mapping[str, str],
        *,
        clashing: str = "",
    ) -> None:
        """Add what was measured at a step, behind all others, with numbers and texts that stand beside.

        A number under a name that is taken has `clashing` in front of its name.

        Raises
        ------
        TrackingError
            If it is of other layers, quantities or classes than the records before, or a scalar is named like a
            quantity, or like what is kept of every step, and `clashing` is empty.
        """
        texts = {name: dataset.attrs[name] for name in PER_STEP if name in dataset.attrs} | dict(about)
        scalars = _stored(scalars, {*map(str, dataset.variables), *PER_STEP, *about}, clashing)
        if self._first is None:
            self._first = dataset
        else:
            _check_alike(self._first, dataset, step)
        self.steps.append(step)
        values = {str(name): one.values for name, one in dataset.data_vars.items()}
        self._rows.append({"values": values, "about": texts, "scalars": scalars})

    def supplement(self, scalars: Mapping[str, float], *, clashing: str = "") -> None:
        """Put more numbers beside the last record.

        Raises
        ------
        TrackingError
            As `add`.
        """
        assert self._first is not None  # there is a record
        row = self._rows[-1]
        taken = {*map(str, self._first.variables), *PER_STEP, *row["about"]}
        row["scalars"] |= _stored(scalars, taken, clashing)

    def cut(self, step: float) -> None:
        """Drop the records at this step and later."""
        kept = int(np.searchsorted(self.steps, step))
        self.steps, self._rows = self.steps[:kept], self._rows[:kept]
        if not kept:
            self._first = None  # a run that starts over may be of other layers

    def dataset(self, last: int | None = None) -> xr.Dataset:
        """All records along `step`, or the last few.

        Raises
        ------
        ValueError
            If there is none.
        """
        if self._first is None or not self.steps:
            raise ValueError("nothing has been recorded yet; call record(step)")
        start = 0 if last is None else max(0, len(self.steps) - last)
        rows = self._rows[start:]
        first = self._first
        variables: dict[str, Any] = {
            str(name): (("step", *one.dims), np.stack([row["values"][name] for row in rows]), one.attrs)
            for name, one in first.data_vars.items()
        }
        for name in dict.fromkeys(name for row in rows for name in row["scalars"]):
            values = np.array([row["scalars"].get(name, np.nan) for row in rows])
            variables[name] = ("step", values, {"long_name": name.replace("_", " "), "units": "1"})
        about = {
            name: ("step", [row["about"].get(name, "") for row in rows])
            for name in dict.fromkeys(name for row in rows for name in row["about"])
        }
        attributes = {
            **first.attrs,
            **{name: rows[-1]["about"][name] for name in PER_STEP if name in rows[-1]["about"]},
        }
        found = xr.Dataset(variables, dict(first.coords) | about | {"step": self.steps[start:]}, attributes)
        found["step"].attrs["long_name"] = "step"
        return found

    @classmethod
    def of(cls, dataset: xr.Dataset) -> "Records":
        """The records that a dataset along `step` was made of."""
        found = cls()
        texts = [str(name) for name, one in dataset.coords.items() if one.dims == ("step",) and name != "step"]
        scalars = [
            str(name) for name, one in dataset.data_vars.items() if one.dims == ("step",) and not _is_quantity(one)
        ]
        for at, step in enumerate(dataset["step"].values.tolist()):
            row = dataset.isel(step=at).drop_vars("step")
            about = {name: row[name].item() for name in texts}
            numbers = {name: row[name].item() for name in scalars}
            measured = row.drop_vars([*texts, *scalars])
            found.add(step, measured, {name: value for name, value in numbers.items() if not np.isnan(value)}, about)
        return found


def _stored(scalars: Mapping[str, float], taken: Set[str], clashing: str) -> dict[str, float]:
    """Scalars under names that a file takes, where a slash would be a folder, and that nothing else has.

    Names that can stay as they are come first, so that they stay whatever the order.
    """
    found: dict[str, float] = {}
    for name in sorted(scalars, key=lambda name: "/" in name or name in taken):
        stored = name.replace("/", "_")
        while clashing and (stored in taken or stored in found):
            stored = f"{clashing}{stored}"
        if stored in taken:
            raise TrackingError(f"record(…, {name}=…): {stored!r} is recorded already; give the scalar another name")
        if stored in found:
            raise TrackingError(f"record(…, {name}=…): there is a {stored!r} already; give one of them another name")
        found[stored] = scalars[name]
    return found


def _is_quantity(variable: xr.DataArray) -> bool:
    """Whether a number along `step` was measured, and not handed over."""
    return "family" in variable.attrs


def _check_alike(first: xr.Dataset, other: xr.Dataset, step: float) -> None:
    """Raise unless two records have the same layers, quantities and sizes."""
    names = [[str(name) for name in one["layer"].values] for one in (first, other)]
    if names[0] != names[1]:
        new, gone = ([name for name in one if name not in two] for one, two in (names[::-1], names))
        words = [f"{word} {listed(some)}" for word, some in (("new:", new), ("missing:", gone)) if some]
        raise TrackingError(
            f"step {step:g} has other layers than the records before ({'; '.join(words) or 'reordered'})"
        )
    new, gone = (
        sorted(set(map(str, one.data_vars)) - set(map(str, two.data_vars)))
        for one, two in ((other, first), (first, other))
    )
    if new or gone:
        raise TrackingError(f"step {step:g} has other quantities than the records before: {listed([*new, *gone])}")
    for name, one in first.data_vars.items():
        if one.shape != other[name].shape:
            raise TrackingError(
                f"step {step:g}: {name} has shape {other[name].shape} after {one.shape}; pass num_classes= to keep "
                "the number of classes"
            )

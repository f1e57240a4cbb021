"""Outcomes of experiments at their small scale, kept as text: only what their claims read, as short as they allow.

python -m tests.experiments.kept FOLDER…   NetCDF files of `neurocollapse experiment` → tests/experiments/outcomes/
"""

import dataclasses
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import neurocollapse as nc
from neurocollapse.experiments import EXPERIMENTS, find
from neurocollapse.theory import Verdict

FOLDER = Path(__file__).parent / "outcomes"
POSITIONS = ([0, -1], [0, 1, 2, -1])
"""Along each dimension only the first of these is kept that leaves every claim about where it was."""
ABOUT = 0.1
"""By how much of itself a claim's number may change where positions are left out."""
DIGITS = (4, 6, 9, 12)
"""Numbers are cut to the first of these that leaves every claim's outcome as it was."""
PROVENANCE = ("command", "created", "status", "wall_seconds")


def opened(name: str) -> xr.Dataset:
    """The outcome of an experiment at its small scale."""
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    variables = {key: (tuple(dims), np.array(values)) for key, (dims, values) in content["variables"].items()}
    return xr.Dataset(variables, attrs=content["attributes"])


def keep(dataset: xr.Dataset) -> Path:
    """Write what the claims of an outcome read."""
    name = dataset.attrs["experiment"]
    small = _cut(_thinned(_read(dataset.load())))
    attributes = {key: _plain(value) for key, value in small.attrs.items() if not key.endswith("_version")}
    content = {
        "attributes": {key: value for key, value in attributes.items() if key not in PROVENANCE},
        "variables": {str(key): [list(one.dims), _plain(one.values)] for key, one in small.variables.items()},
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content["variables"].items()]
    head = json.dumps(content["attributes"], ensure_ascii=False)
    path = FOLDER / f"{name}.json"
    path.write_text(f'{{"attributes": {head},\n "variables": {{\n' + ",\n".join(lines) + "\n }}\n", encoding="utf-8")
    return path


def judged(dataset: xr.Dataset) -> list[Verdict]:
    """The claims of its experiment, held against a dataset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of logarithms and quotients of planted numbers
        return list(find(dataset.attrs["experiment"]).claims(dataset))


def _read(dataset: xr.Dataset) -> xr.Dataset:
    """Without the variables that no claim reads; labels stay, as claims may speak of them."""
    for name in list(dataset.data_vars):
        dataset = _if_same(dataset, dataset.drop_vars(name))
    return dataset


def _thinned(dataset: xr.Dataset) -> xr.Dataset:
    """Few positions along each dimension, where the claims need no more."""
    for name, size in dict(dataset.sizes).items():
        for positions in POSITIONS:
            if size > len(positions):
                dataset = _if_same(dataset, dataset.isel({name: positions}))
                size = dataset.sizes[name]
    return dataset


def _cut(dataset: xr.Dataset) -> xr.Dataset:
    """Numbers with as few digits as leave the outcomes alone."""
    for digits in DIGITS:
        cut = dataset.map(lambda one, digits=digits: _rounded(one, digits), keep_attrs=True).assign_attrs(dataset.attrs)
        if _if_same(dataset, cut) is cut:
            return cut
    return dataset


def _if_same(before: xr.Dataset, after: xr.Dataset) -> xr.Dataset:
    """The second dataset if every claim says about the same of it, else the first."""
    try:
        found = judged(after)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return before
    wanted = judged(before)
    same = len(found) == len(wanted) and all(map(_alike, found, wanted))
    return after if same else before


def _alike(one: Verdict, other: Verdict) -> bool:
    """Whether two verdicts have one outcome, and numbers that are about the same."""
    numbers = [[verdict.measured, verdict.lower, verdict.upper] for verdict in (one, other)]
    return one.outcome == other.outcome and np.allclose(*numbers, rtol=ABOUT, atol=1e-12, equal_nan=True)


def _rounded(values: xr.DataArray, digits: int) -> xr.DataArray:
    """Floating-point numbers with so many significant digits."""
    if values.dtype.kind != "f":
        return values
    return values.copy(data=np.vectorize(lambda one: float(f"{one:.{digits}g}"), otypes=[float])(values.values))


def _plain(value: Any) -> Any:
    """As JSON has it; NaN is written as Python writes it."""
    return value.tolist() if hasattr(value, "tolist") else value


def _small(folders: list[Path]) -> Iterator[xr.Dataset]:
    """Outcomes at the small scale."""
    for folder in folders:
        for path in sorted(folder.rglob("*.nc")):
            found = nc.open(path)
            name = found.attrs.get("experiment")
            if name in EXPERIMENTS and "status" in found.attrs:
                setting = json.loads(found.attrs["setting"])
                if setting == json.loads(json.dumps(dataclasses.asdict(EXPERIMENTS[name].small))):
                    yield found


if __name__ == "__main__":
    for outcome in _small([Path(name) for name in sys.argv[1:]]):
        print(keep(outcome))

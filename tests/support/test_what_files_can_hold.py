"""What is saved can be opened; what could not be is refused before anything is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import neurocollapse as nc
from neurocollapse.support import files


def levels() -> xr.Dataset:
    """A coordinate of two levels, made by hand."""
    index = pd.MultiIndex.from_tuples([(1, 2), (3, 4)], names=("p", "q"))
    return xr.Dataset({"a": ("x", [1.0, 2.0])}, coords=xr.Coordinates.from_pandas_multiindex(index, "x"))


def tree(depth: int) -> xr.DataTree:
    """One node inside another."""
    return xr.DataTree.from_dict({"/" + "/".join("n" * depth): xr.Dataset({"a": 1.0})})


def one(**attributes: Any) -> xr.Dataset:
    """A number with attributes."""
    return xr.Dataset({"a": 1.0}, attrs=attributes)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (levels(), r"have a MultiIndex along x, .* save results\.reset_index\('x'\), and set_index again"),
        (xr.Dataset({"a": (("x", "y"), np.ones((2, 2)))}).stack(z=("x", "y")), r"reset_index\('z'\)"),
        (xr.DataTree.from_dict({"/part": levels()}), r"reset_index\('x'\)"),
        (tree(files.MAX_DEPTH + 1), "it has more than 1000 groups, or groups more than 8 deep"),
        (xr.DataTree.from_dict({f"/n{index}": one() for index in range(files.MAX_GROUPS)}), "more than 1000 groups"),
        (xr.Dataset({"a": ("x", np.array([1, "x"], dtype=object))}), "cannot be kept in a NetCDF file"),
        (one(x={"y": 1}), "cannot be kept in a NetCDF file"),
        (one(x=None), "cannot be kept in a NetCDF file"),
        (one(x=True), "cannot be kept in a NetCDF file"),
        (xr.Dataset({"a/b": 1.0}), "cannot be kept in a NetCDF file"),
        (xr.Dataset({3: 1.0}), "cannot be kept in a NetCDF file"),
    ],
)
def test_what_a_file_cannot_hold_is_one_line_and_leaves_the_old_file(
    results: Any, message: str, tmp_path: Path
) -> None:
    target = nc.save(one(), tmp_path / "a.nc")
    before = target.read_bytes()
    with pytest.raises(nc.ResultFileError, match=message) as caught:
        nc.save(results, target)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"]


def test_more_bytes_than_are_read_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    with pytest.raises(nc.ResultFileError, match="its arrays would take"):
        nc.save(xr.Dataset({"a": ("x", np.ones(20))}), tmp_path / "a.nc")


@pytest.mark.parametrize("results", [tree(files.MAX_DEPTH), one(x="text"), levels().reset_index("x"), xr.Dataset()])
def test_what_is_at_the_limit_is_saved_and_opened(results: Any, tmp_path: Path) -> None:
    assert nc.open(nc.save(results, tmp_path / "a.nc")).identical(results)

"""Files with more groups or numbers than any results have are refused before anything in them is read."""

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

import neurocollapse as nc


def nested(file: h5py.File, depth: int) -> None:
    for level in range(depth):
        file = file.create_group(f"g{level}")


def circle(file: h5py.File) -> None:
    file.create_group("a")["b"] = file["/"]


def many(file: h5py.File) -> None:
    for number in range(1_001):
        file.create_group(f"g{number}")


def many_in_many(file: h5py.File) -> None:
    for number in range(40):
        for inner in range(40):
            file.create_group(f"g{number}/h{inner}")


def large(file: h5py.File) -> None:
    file.create_dataset("x", (2**40,), "f4", chunks=(2**20,), fillvalue=0)


def large_together(file: h5py.File) -> None:
    for number in range(9):
        file.create_dataset(f"g/x{number}", (2**27,), "f8", chunks=(2**20,))


def soft_link(file: h5py.File) -> None:
    file["here"] = h5py.SoftLink("/there")


def external_link(file: h5py.File) -> None:
    file["here"] = h5py.ExternalLink("/etc/passwd", "/")


REFUSED = {
    "400 nested groups": (lambda file: nested(file, 400), "groups more than 8 deep"),
    "9 nested groups": (lambda file: nested(file, 9), "groups more than 8 deep"),
    "a group inside itself": (circle, "groups more than 8 deep"),
    "many groups": (many, "more than 1000 groups"),
    "many groups in many": (many_in_many, "more than 1000 groups"),
    "an array of terabytes": (large, r"would take 4096.0 GiB, at most 8 are read"),
    "arrays of gigabytes": (large_together, r"would take 9.0 GiB, at most 8 are read"),
    "a link inside": (soft_link, "'here' in it is a link"),
    "a link to another file": (external_link, "'here' in it is a link"),
}


@pytest.mark.parametrize(("fill", "message"), REFUSED.values(), ids=REFUSED)
def test_more_than_results_have_is_refused_at_once(
    tmp_path: Path, fill: Callable[[h5py.File], None], message: str
) -> None:
    with h5py.File(tmp_path / "own.nc", "w") as file:
        fill(file)
    tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(ValueError, match=rf"own.nc is not a NetCDF file of results: .*{message}") as caught:
        nc.open(tmp_path / "own.nc")
    assert time.monotonic() - start < 20  # reading 400 nested groups takes minutes
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:The 'phony_dims' kwarg:UserWarning")  # of a file that h5py wrote
def test_empty_arrays_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "own.nc", "w") as file:
        file.create_dataset("x", data=np.zeros((0, 3)))
    assert nc.open(tmp_path / "own.nc")["x"].shape == (0, 3)


def test_results_of_many_layers_are_read(tmp_path: Path) -> None:
    layers = {f"model/{number}": xr.Dataset({"x": ("layer", [1.0, 2.0])}) for number in range(30)}
    nc.save(xr.DataTree.from_dict(layers), tmp_path / "own.nc")
    assert len(nc.open(tmp_path / "own.nc")["model"].children) == 30

"""Labelled results on disk: NetCDF files that anybody's tools open."""

import hashlib
import io
import os
from os import PathLike
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import xarray as xr

from neurocollapse.support.atomic import ResultFileError, write
from neurocollapse.support.checks import file_path
from neurocollapse.support.text import first_line, visible

ENGINE: Final = "h5netcdf"
MAX_DEPTH = 8
"""Groups inside each other; reading takes time with the square of the depth."""
MAX_GROUPS = 1_000
MAX_BYTES = 8 * 2**30
_MARK = b"\x93NCseal\n"
"""Begins what follows the NetCDF file proper, whose readers do not look there: a mark and a SHA-256."""
_BLOCK = 2**20
_SEAL_BYTES = len(_MARK) + hashlib.sha256().digest_size


def save(results: xr.Dataset | xr.DataTree, path: str | PathLike[str]) -> Path:
    """Write a Dataset or DataTree to a NetCDF file in one step, and return its path.

    A checksum is added to the file, so that `open` can recognise a damaged one.

    Parameters
    ----------
    results : xarray.Dataset or xarray.DataTree
        Results of one network, or of several as the nodes of a tree.
    path : path-like
        The file to write; an existing one is replaced.

    Raises
    ------
    TypeError
        If `results` is something else.
    ResultFileError
        If the folder does not exist or cannot be written to, or if `results` hold what a NetCDF file cannot hold, or
        more than `open` reads; an existing file then stays as it was.
    """
    if not isinstance(results, xr.Dataset | xr.DataTree):
        raise TypeError(f"`results` must be an xarray Dataset or DataTree, got {type(results).__name__}")
    file_path("path", path)
    nodes = list(results.subtree) if isinstance(results, xr.DataTree) else [results]
    _check_indexes(nodes)
    depth = max(node.level for node in results.subtree) if isinstance(results, xr.DataTree) else 0
    try:
        _check_size(len(nodes), depth, sum(node.nbytes for node in nodes))
        image = netcdf(results)
    except Exception as error:  # xarray and h5netcdf raise nearly anything for what the format lacks
        raise ResultFileError(f"`results` cannot be kept in a NetCDF file: {first_line(error, most=180)}") from error
    return write(path, sealed(image))


def netcdf(results: xr.Dataset | xr.DataTree, **options: Any) -> memoryview:
    """The bytes of a NetCDF file, made in memory: HDF5 crashes at the end of the process if it fills a disk."""
    image: memoryview = results.to_netcdf(engine=ENGINE, **options)
    return image


def sealed(image: memoryview) -> bytes:
    """The bytes of a file and their checksum."""
    return b"".join((image, _MARK, hashlib.sha256(image).digest()))


def check_sealed(path: Path, *, error: type[Exception] = ResultFileError) -> None:
    """Raise unless a file is as `sealed` made it."""
    left, checksum = max(0, path.stat().st_size - _SEAL_BYTES), hashlib.sha256()
    with path.open("rb") as file:
        while left and (block := file.read(min(left, _BLOCK))):
            checksum.update(block)
            left -= len(block)
        if file.read() != _MARK + checksum.digest():
            raise error(f"{visible(path)} is damaged: its checksum is another one than when it was written; delete it")


def unsealed(path: Path, *, error: type[Exception] = ResultFileError) -> bytes:
    """The bytes of a file as they were before `sealed`; raise if they are others."""
    check_sealed(path, error=error)
    return path.read_bytes()[:-_SEAL_BYTES]


def open(path: str | PathLike[str]) -> xr.Dataset | xr.DataTree:
    """Read a Dataset, or a DataTree where the file has groups, into memory, and close the file.

    How the file stored its values is forgotten: the lengths of its strings would cut longer ones that join them later.

    Parameters
    ----------
    path : path-like
        A file that `save` wrote.

    Raises
    ------
    ResultFileError
        If the file is missing, damaged, not NetCDF, or holds more than results do: groups more than 8 deep, more than
        1,000 of them, or more than 8 GiB.
    """
    target = Path(file_path("path", path))
    if not os.path.isfile(target):
        raise ResultFileError(f"{visible(target)} does not exist or is not a file")
    try:
        with h5py.File(target) as file:
            if _is_sealed(target):
                check_sealed(target)
            file.attrs.get("title")  # h5netcdf would print a stray traceback where this fails
            _check_contents(file)
        with xr.open_datatree(target, engine=ENGINE) as tree:
            loaded = tree.load()
    except ResultFileError:
        raise
    except Exception as error:  # a damaged file makes HDF5 raise nearly anything
        raise ResultFileError(f"{visible(target)} is not a NetCDF file of results: {first_line(error)}") from error
    for node in loaded.subtree:
        node.dataset = node.to_dataset(inherit=False).drop_encoding()
        node.attrs = {key: _plain(value) for key, value in node.attrs.items()}
    return loaded if loaded.children else loaded.to_dataset()


def _is_sealed(path: Path) -> bool:
    """Whether a file ends in a checksum, or in what is left of one; a file that other programs wrote does not."""
    with path.open("rb") as file:
        file.seek(-min(_SEAL_BYTES, path.stat().st_size), io.SEEK_END)
        end = file.read()
    half = len(_MARK) // 2
    return _MARK[:half] in end or _MARK[half:] in end


def _check_contents(file: h5py.File) -> None:
    """Raise ValueError for more groups or bytes than results have, before any of them is read."""
    left, num_groups, num_bytes = [(file, 0)], 0, 0
    while left:
        group, depth = left.pop()
        num_groups += 1
        _check_size(num_groups, depth, num_bytes)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name!r} in it is a link to elsewhere, which results never are")
            part = group[name]
            if isinstance(part, h5py.Group):
                left.append((part, depth + 1))
            else:
                num_bytes += getattr(part, "nbytes", 0)
        _check_size(num_groups, depth, num_bytes)


def _check_size(num_groups: int, depth: int, num_bytes: int) -> None:
    """Raise ValueError for more groups or bytes than results have: alike for writing and reading."""
    if depth > MAX_DEPTH or num_groups > MAX_GROUPS:
        raise ValueError(f"it has more than {MAX_GROUPS} groups, or groups more than {MAX_DEPTH} deep")
    if num_bytes > MAX_BYTES:
        raise ValueError(f"its arrays would take {num_bytes / 2**30:.1f} GiB, at most {MAX_BYTES / 2**30:.0f} are read")


def _check_indexes(nodes: list[Any]) -> None:
    """Raise for a coordinate of several levels, with the way out."""
    for node in nodes:
        for index in node.xindexes.values():
            if isinstance(index, xr.indexes.PandasMultiIndex):
                raise ResultFileError(
                    f"`results` have a MultiIndex along {visible(index.dim)}, which a NetCDF file cannot hold; save "
                    f"results.reset_index({visible(repr(index.dim))}), and set_index again after opening"
                )


def _plain(value: Any) -> Any:
    """A number as Python's own, as it was before it was saved."""
    return value.item() if isinstance(value, np.generic) else value

"""Labelled results on disk: NetCDF files that anybody's tools open."""

import os
import tempfile
from os import PathLike
from pathlib import Path
from typing import Final

import xarray as xr

ENGINE: Final = "h5netcdf"


class ResultFileError(ValueError):
    """A result file that is missing, damaged, or cannot be written."""


def save(results: xr.Dataset | xr.DataTree, path: str | PathLike[str]) -> Path:
    """Write a Dataset or DataTree to a NetCDF file in one step, and return its path.

    Raises
    ------
    ResultFileError
        If the folder does not exist or cannot be written to.
    """
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".nc")
    except OSError as error:
        raise ResultFileError(f"cannot write {target}: {error.strerror}; name a folder that exists") from error
    os.close(handle)
    try:
        results.to_netcdf(temporary, engine=ENGINE)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return target


def open(path: str | PathLike[str]) -> xr.Dataset | xr.DataTree:
    """A Dataset, or a DataTree where the file has groups, back from disk, in memory and with the file closed.

    Raises
    ------
    ResultFileError
        If the file is missing or not NetCDF.
    """
    target = Path(path)
    if not target.is_file():
        raise ResultFileError(f"{target} does not exist or is not a file")
    try:
        with xr.open_datatree(target, engine=ENGINE) as tree:
            loaded = tree.load()
    except (OSError, ValueError, KeyError) as error:
        raise ResultFileError(f"{target} is not a NetCDF file of results: {str(error).splitlines()[0]}") from error
    return loaded if loaded.children else loaded.to_dataset()

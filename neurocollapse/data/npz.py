"""NumPy archives: one array of inputs, one of labels, and nothing that could run."""

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy_format
from torch import Tensor

from neurocollapse.data.labelled import DataError, LabelledData, check_num_classes, checked_labels, numbered_classes
from neurocollapse.data.limit import check_size, stratified
from neurocollapse.data.rows import read_rows

NAMES = (("inputs", "labels"), ("x", "y"), ("images", "labels"))
SPLIT_NAMES = (("{split}_inputs", "{split}_labels"), ("x_{split}", "y_{split}"), ("{split}_images", "{split}_labels"))
HEADER_READERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


def read_npz(path: Path, split: str, limit: int | None = None) -> LabelledData:
    """Read labelled data from an .npz file, without pickle, and of the inputs only what is wanted.

    The arrays are `inputs` and `labels` (or x and y, images and labels); for two splits in one file `train_inputs`,
    `train_labels`, `test_inputs`, `test_labels` (or x_train, y_train, …). Without a split in their names they are the
    training split. Inputs are of shape (samples, …): floats are taken as they are, unsigned bytes are pixels and
    divided by 255, other integers are token ids. Labels are integers (samples,) or one-hot (samples, classes).
    `classes`, an array of strings, may name the classes.

    Raises
    ------
    DataError
        If arrays are missing, of another type or shape, hold objects, or would take more than 8 GiB of memory.
    """
    with opened_npz(path) as archive:
        names = array_names(archive)
        inputs_name, labels_name = _array_names(names, split, path)
        wanted = [inputs_name, labels_name] + (["classes"] if "classes" in names else [])
        headers = {name: array_header(archive, name, path) for name in wanted}
        _check_inputs(headers[inputs_name], inputs_name, path)
        for name in wanted[1:]:
            check_size(math.prod(headers[name].shape) * (headers[name].dtype.itemsize + 8), f"{name!r} in {path}")
        labels, num_columns = _as_labels(read_array(archive, labels_name, path), labels_name, path)
        num_inputs = headers[inputs_name].shape[0]
        if num_inputs != len(labels):
            raise DataError(
                f"{path} holds {num_inputs} samples in {inputs_name!r} for {len(labels)} in {labels_name!r}"
            )
        class_names = read_array(archive, "classes", path) if "classes" in names else None
        try:
            classes = _class_names(class_names, labels, num_columns)
            labels = checked_labels(labels, len(classes))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        chosen = stratified(labels, limit)
        inputs = _read_inputs(archive, inputs_name, headers[inputs_name], chosen, path)
    return LabelledData(inputs, labels[chosen], classes, f"{path.name}/{split}")


@contextmanager
def opened_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive of arrays; whatever is wrong with it becomes a DataError."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    # An unknown compression raises NotImplementedError, and an encrypted member RuntimeError.
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} is not a readable .npz file: {error}") from error


def array_names(archive: zipfile.ZipFile) -> set[str]:
    """The names of the arrays in an archive."""
    return {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}


class _Header(NamedTuple):
    """What the header of an array says."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]
    num_bytes: int


def _array_names(names: set[str], split: str, path: Path) -> tuple[str, str]:
    """Return the names of the two arrays that hold a split."""
    for pair in SPLIT_NAMES:
        inputs, labels = (name.format(split=split) for name in pair)
        if {inputs, labels} <= names:
            return inputs, labels
    for inputs, labels in NAMES:
        if {inputs, labels} <= names:
            if split == "train":
                return inputs, labels
            raise DataError(f"{path} holds no {split} split; add {split}_inputs and {split}_labels, or ask for 'train'")
    raise DataError(
        f"{path} must hold the arrays 'inputs' and 'labels' (or 'x' and 'y', or 'images' and 'labels'), got "
        f"{', '.join(map(repr, sorted(names)[:6])) or 'none'}"
    )


def array_header(archive: zipfile.ZipFile, name: str, path: Path) -> _Header:
    """Read the header of one array, which must agree with its size: zipfile inflates no member beyond that."""
    info = archive.getinfo(f"{name}.npy")
    try:
        with archive.open(info) as member:
            read_header = HEADER_READERS[npy_format.read_magic(member)]
            shape, by_columns, dtype = read_header(member)
            header = _Header(shape, by_columns, dtype, member.tell())
    except (ValueError, KeyError) as error:
        raise DataError(f"{path} holds no readable array in {name!r}: {error}") from error
    if dtype.hasobject:
        raise DataError(f"{path} holds Python objects in {name!r}, which are never read; save plain numbers")
    if header.num_bytes + math.prod(shape) * dtype.itemsize != info.file_size:
        raise DataError(f"{path} has {info.file_size} bytes for {name!r} of shape {shape} and type {dtype}")
    return header


def read_array(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray[Any, Any]:
    """Read one array whole."""
    try:
        with archive.open(f"{name}.npy") as member:
            array: np.ndarray[Any, Any] = npy_format.read_array(member, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{path} holds no readable array in {name!r}: {error}") from error
    return array


def _check_inputs(header: _Header, name: str, path: Path) -> None:
    """Raise unless an array can be inputs."""
    if len(header.shape) < 2 or header.shape[0] == 0:
        raise DataError(f"{path} must hold {name!r} of shape (samples, …), got {header.shape}")
    if header.dtype.kind not in "iuf":
        raise DataError(
            f"{path} must hold {name!r} as floats, unsigned bytes (pixels, 0 … 255) or other integers (token ids), got "
            f"{header.dtype}"
        )


def _read_inputs(archive: zipfile.ZipFile, name: str, header: _Header, chosen: Tensor, path: Path) -> Tensor:
    """Read the chosen rows of the inputs: as float32, or token ids as int64."""
    elements, are_tokens = math.prod(header.shape[1:]), header.dtype.kind in "iu" and header.dtype != np.uint8
    dtype = np.dtype(np.int64 if are_tokens else np.float32)
    whole = header.shape[0] * elements * header.dtype.itemsize if header.by_columns else 0
    check_size(len(chosen) * elements * dtype.itemsize + whole, f"{name!r} in {path}")
    if header.by_columns:
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and whoever measures says so
            rows = np.ascontiguousarray(read_array(archive, name, path)[chosen.numpy()], dtype=dtype)
    else:
        with archive.open(f"{name}.npy") as member:
            member.read(header.num_bytes)
            rows = read_rows(member, header.shape, header.dtype, chosen, dtype=dtype, path=path)
            if len(chosen) == header.shape[0]:
                member.read(1)  # the end, where zipfile compares the checksum
    inputs = torch.from_numpy(rows)
    return inputs.div_(255) if header.dtype == np.uint8 else inputs


def _as_labels(array: np.ndarray[Any, Any], name: str, path: Path) -> tuple[Tensor, int | None]:
    """Return labels as int64, and the number of columns if they were one-hot."""
    if array.ndim == 2 and array.shape[1] == 1 and array.dtype.kind in "iu":
        array = array[:, 0]
    if array.ndim == 1 and array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64)), None
    is_one_hot = array.ndim == 2 and array.dtype.kind in "iufb" and array.size > 0
    if is_one_hot and bool(((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all()):
        return torch.from_numpy(array.argmax(axis=1)), array.shape[1]
    raise DataError(
        f"{path} must hold {name!r} as integers of shape (samples,) or one-hot of shape (samples, classes), got "
        f"{array.dtype} of shape {array.shape}"
    )


def _class_names(names: np.ndarray[Any, Any] | None, labels: Tensor, num_columns: int | None) -> tuple[str, ...]:
    """Return the file's class names, or numbers."""
    if names is None and num_columns:
        check_num_classes(num_columns, labels, f"`labels` have {num_columns} columns")
        return tuple(map(str, range(num_columns)))
    if names is None:
        return numbered_classes(labels)
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(f"`classes` must be strings of shape (classes,), got {names.dtype} of shape {names.shape}")
    return tuple(names.tolist())

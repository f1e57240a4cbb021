"""MNIST and Fashion-MNIST in the IDX format, plain or gzip-compressed."""

import gzip
import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neurocollapse.data.labelled import DataError, LabelledData, checked_labels
from neurocollapse.data.limit import check_size, stratified
from neurocollapse.data.rows import read_rows

MNIST_CLASSES = tuple("0123456789")
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"
DEFLATE_MAX_RATIO = 1032  # what deflate can inflate at most: 258 bytes out of 2 bits
MAX_BYTES = 2**30
FOLDERS = (".", "raw", "MNIST/raw", "FashionMNIST/raw")  # the last three: as torchvision lays them out


def read_mnist(root: Path, split: str, limit: int | None = None) -> LabelledData:
    """Read MNIST from the folder of its four IDX files; inputs (samples, 1, rows, columns) with values in [0, 1]."""
    return _read_split(root, split, limit, MNIST_CLASSES, "mnist")


def read_fashion_mnist(root: Path, split: str, limit: int | None = None) -> LabelledData:
    """Read Fashion-MNIST from the folder of its four IDX files; inputs (samples, 1, rows, columns) in [0, 1]."""
    return _read_split(root, split, limit, FASHION_MNIST_CLASSES, "fashion-mnist")


def read_idx(path: Path, num_axes: int, wanted: Tensor | None = None) -> Tensor:
    """Read one IDX file of unsigned bytes, or some of its rows.

    The header is believed only as far as the file can back it: a promise that the file's size cannot keep is refused
    before memory is asked for, and nothing beyond the promise, or beyond the last row wanted, is inflated.

    Parameters
    ----------
    path
        The file, compressed or not; told apart by its first bytes.
    num_axes
        Axes expected: 3 for images, 1 for labels.
    wanted : Tensor of ascending indices, optional
        Which rows to read. Default: all.

    Returns
    -------
    Tensor of the header's shape, uint8, with the rows that are wanted.

    Raises
    ------
    DataError
        If magic number, type or axes are others, or the file is truncated, too long or damaged.
    """
    with _opened(path) as stream:
        shape = _read_shape(stream, path, num_axes)
        _check_promise(math.prod(shape), stream, path)
        rows = torch.arange(shape[0], device="cpu") if wanted is None else wanted
        contents = read_rows(stream, shape, np.uint8, rows, dtype=np.uint8, path=path)
        if len(rows) == shape[0] and stream.read(1):
            raise DataError(
                f"{path} is too long: there is more after the {math.prod(shape)} bytes that its header promises"
            )
    return torch.from_numpy(contents)


def _read_split(root: Path, split: str, limit: int | None, classes: tuple[str, ...], name: str) -> LabelledData:
    """Read the images and labels of one split, or of a part of it, and check that they belong together."""
    stem = "train" if split == "train" else "t10k"
    images_path, labels_path = _find(root, f"{stem}-images", 3), _find(root, f"{stem}-labels", 1)
    with _opened(images_path) as images, _opened(labels_path) as labels:  # the headers, before anything large is read
        shape, (num_labels,) = _read_shape(images, images_path, 3), _read_shape(labels, labels_path, 1)
        _check_promise(math.prod(shape), images, images_path)
    if shape[0] != num_labels:
        raise DataError(f"{images_path} holds {shape[0]} images for {num_labels} labels in {labels_path.name}")
    try:
        targets = checked_labels(read_idx(labels_path, 1), len(classes))
    except DataError as error:
        raise error if str(labels_path) in str(error) else DataError(f"{labels_path}: {error}") from error
    wanted = stratified(targets, limit)
    check_size(len(wanted) * math.prod(shape[1:]) * 5, str(images_path))  # a byte and a float32 each
    pixels = read_idx(images_path, 3, wanted)
    return LabelledData(pixels.unsqueeze(1).to(torch.float32).div_(255), targets[wanted], classes, f"{name}/{split}")


def _find(root: Path, stem: str, num_axes: int) -> Path:
    """Return the first file with one of the standard names."""
    names = [f"{stem}{mark}idx{num_axes}-ubyte{suffix}" for mark in "-." for suffix in ("", ".gz")]
    for folder in FOLDERS:
        for name in names:
            if (root / folder / name).is_file():
                return root / folder / name
    raise DataError(f"no {names[0]} (or {names[1]}) in {root}; give the folder that holds the four IDX files")


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file, through gzip if it begins like one; what goes wrong while reading becomes a DataError."""
    try:
        with path.open("rb") as raw:
            if raw.peek(2)[:2] == GZIP_MAGIC:
                with gzip.GzipFile(fileobj=raw) as inflated:
                    yield inflated
            else:
                yield raw
    except EOFError as error:
        raise DataError(f"{path} is truncated: its compressed data ends early; download it again") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read_shape(stream: io.BufferedIOBase, path: Path, num_axes: int) -> tuple[int, ...]:
    """Read magic number, type and sizes."""
    header = stream.read(4 * (1 + num_axes))
    expected = bytes([0, 0, UNSIGNED_BYTE, num_axes])
    if header[:4] != expected:
        raise DataError(
            f"{path} must begin with the magic number {expected.hex()} (IDX, unsigned bytes, axes: {num_axes}), "
            f"got {header[:4].hex() or 'an empty file'}"
        )
    if len(header) < 4 * (1 + num_axes):
        raise DataError(f"{path} is truncated: its header ends after {len(header)} bytes")
    return struct.unpack(f">{num_axes}I", header[4:])


def _check_promise(num_bytes: int, stream: io.BufferedIOBase, path: Path) -> None:
    """Raise if the file cannot hold what its header promises, or holds none, or more than anybody wants in memory."""
    size = path.stat().st_size
    possible = size * DEFLATE_MAX_RATIO if isinstance(stream, gzip.GzipFile) else size
    if num_bytes > possible:
        raise DataError(f"{path} is truncated: its header promises {num_bytes} bytes, the file has {size}")
    if not 0 < num_bytes <= MAX_BYTES:
        raise DataError(f"{path} must promise between 1 and {MAX_BYTES} bytes in its header, got {num_bytes}")

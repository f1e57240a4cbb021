"""CIFAR-10 in its binary format: one label byte and 3,072 pixel bytes per record."""

from pathlib import Path

import torch
from torch import Tensor

from neurocollapse.data.labelled import DataError, LabelledData
from neurocollapse.data.limit import check_size, stratified

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-bin"
SHAPE = (3, 32, 32)
RECORD_BYTES = 1 + 3 * 32 * 32
MAX_BYTES = 100_000 * RECORD_BYTES  # ten times a standard batch


def read_cifar10(root: Path, split: str, limit: int | None = None) -> LabelledData:
    """Read CIFAR-10 from its folder or the one above; inputs (samples, 3, 32, 32), red green blue, in [0, 1].

    The training set is as many of data_batch_1.bin … data_batch_5.bin as there are.
    """
    folder = root / FOLDER if (root / FOLDER).is_dir() else root
    if split == "train":
        paths = [path for number in range(1, 6) if (path := folder / f"data_batch_{number}.bin").is_file()]
    else:
        paths = [path for path in [folder / "test_batch.bin"] if path.is_file()]
    if not paths:
        wanted = "data_batch_1.bin" if split == "train" else "test_batch.bin"
        raise DataError(f"no {wanted} in {folder}; give the folder {FOLDER} of the binary version of CIFAR-10")
    records = torch.cat([_read_records(path) for path in paths])
    records = records[stratified(records[:, 0].to(torch.int64), limit)]
    check_size(records.numel() * 4, str(folder))
    inputs = records[:, 1:].reshape(-1, *SHAPE).to(torch.float32).div_(255)
    return LabelledData(inputs, records[:, 0], _class_names(folder), f"cifar10/{split}")


def _read_records(path: Path) -> Tensor:
    """Read one batch file as (records, bytes), with its size and labels checked."""
    size = path.stat().st_size
    if size == 0 or size % RECORD_BYTES or size > MAX_BYTES:
        raise DataError(
            f"{path} must hold whole records of {RECORD_BYTES} bytes, at least 1 and at most "
            f"{MAX_BYTES // RECORD_BYTES}, got {size} bytes; download it again"
        )
    try:
        with path.open("rb") as file:
            contents = bytearray(file.read(size))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    records = torch.frombuffer(contents, dtype=torch.uint8).reshape(-1, RECORD_BYTES)
    wrong = (records[:, 0] >= len(CLASSES)).nonzero()
    if len(wrong):
        label = int(records[wrong[0], 0])
        raise DataError(f"{path} must hold labels from 0 to 9, got {label} in record {int(wrong[0])}")
    return records


def _class_names(folder: Path) -> tuple[str, ...]:
    """Return the names in batches.meta.txt, or the standard ones where there is no such file."""
    path = folder / "batches.meta.txt"
    if not path.is_file():
        return CLASSES
    try:
        with path.open(encoding="utf-8") as file:
            names = tuple(file.read(10_000).split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(names) != len(CLASSES):
        raise DataError(f"{path} must name {len(CLASSES)} classes, one per line, got {len(names)}")
    return names

"""CIFAR-10's binary files: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from neurocollapse import data
from neurocollapse.data import DataError

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def records(labels: list[int], seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    return np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1)


def test_pixels_are_red_green_blue_planes(tmp_path: Path) -> None:
    batch = records([3, 9])
    (tmp_path / "data_batch_1.bin").write_bytes(batch.tobytes())
    cifar = data.open(f"cifar10:{tmp_path}")
    assert cifar.inputs.shape == (2, 3, 32, 32)
    for channel in range(3):
        plane = batch[1, 1 + 1024 * channel : 1 + 1024 * (channel + 1)].reshape(32, 32)
        assert torch.equal(cifar.inputs[1, channel], torch.from_numpy(plane).float() / 255)
    assert [cifar.classes[label] for label in cifar.labels] == ["cat", "truck"]


def test_as_many_batches_as_there_are_make_the_training_set(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, label in ((1, 0), (2, 1), (5, 2)):
        (folder / f"data_batch_{number}.bin").write_bytes(records([label] * number).tobytes())
    (folder / "test_batch.bin").write_bytes(records([7]).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(name.upper() for name in NAMES) + "\n\n")
    assert data.open(f"cifar10:{tmp_path}").labels.tolist() == [0, 1, 1, 2, 2, 2, 2, 2]
    test = data.open(f"cifar10:{folder}", split="test")
    assert test.classes[int(test.labels[0])] == "HORSE"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (records([1]).tobytes()[:-1], "whole records of 3073 bytes.* got 3072 bytes"),
        (records([1]).tobytes() + b"x", "whole records of 3073 bytes.* got 3074 bytes"),
        (b"", "got 0 bytes"),
        (records([0, 10]).tobytes(), "labels from 0 to 9, got 10 in record 1"),
    ],
)
def test_damaged_batches_are_refused_with_their_name(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(contents)
    with pytest.raises(DataError, match=message) as caught:
        data.open(f"cifar10:{tmp_path}")
    assert "data_batch_1.bin" in str(caught.value)


def test_a_file_larger_than_any_batch_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "data_batch_1.bin").open("wb") as file:
        file.truncate(3073 * 100_001)  # sparse: takes no room on the disk
    with pytest.raises(DataError, match="at most 100000"):
        data.open(f"cifar10:{tmp_path}")


def test_a_wrong_number_of_class_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(records([1]).tobytes())
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"batches.meta.txt must name 10 classes, one per line, got 2"):
        data.open(f"cifar10:{tmp_path}")


@pytest.mark.parametrize(("split", "name"), [("train", "data_batch_1.bin"), ("test", "test_batch.bin")])
def test_a_missing_batch_is_named(tmp_path: Path, split: str, name: str) -> None:
    with pytest.raises(DataError, match=f"no {name} in "):
        data.open(f"cifar10:{tmp_path}", split=split)

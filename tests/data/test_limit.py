"""A limited part of a data set: the same share of each class, in order, and no more is read or held than that needs."""

import gzip
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from neurocollapse import data
from neurocollapse.data import DataError, LabelledData
from neurocollapse.data.labelled import check_num_classes
from neurocollapse.data.limit import stratified

LABELS = torch.tensor([0] * 20 + [1] * 10 + [2] * 30)


def naive_quotas(labels: list[int], limit: int) -> dict[int, int]:
    """How many of each class: the rounded share of all classes up to one, less that of those before it."""
    quotas, before = {}, 0
    for label in range(max(labels) + 1):
        upto = sum(one <= label for one in labels)
        rounded = (upto * limit * 2 + len(labels)) // (2 * len(labels))
        quotas[label], before = rounded - before, rounded
    while limit >= len(set(labels)) and (absent := [label for label in set(labels) if quotas[label] == 0]):
        quotas[max(quotas, key=lambda label: (quotas[label], -label))] -= 1
        quotas[min(absent)] += 1
    return quotas


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 45))
def test_of_each_class_the_first_samples_are_taken_in_order(labels: list[int], limit: int) -> None:
    chosen = stratified(torch.tensor(labels), limit).tolist()
    left = naive_quotas(labels, limit) if limit < len(labels) else dict.fromkeys(labels, len(labels))
    expected = []
    for index, label in enumerate(labels):
        if left[label] > 0:
            expected.append(index)
            left[label] -= 1
    assert chosen == expected
    assert len(chosen) == min(limit, len(labels))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 39))
def test_every_class_has_its_share(labels: list[int], limit: int) -> None:
    given_labels = torch.tensor(labels)
    limit = min(limit, len(labels))
    counts, taken = given_labels.bincount(), given_labels[stratified(given_labels, limit)].bincount(minlength=6)
    for label, count in enumerate(counts.tolist()):
        share = count * limit / len(labels)
        if limit >= len(set(labels)):
            assert (taken[label] > 0) == (count > 0)
        if share >= 6:  # so that none is given up for a class that would have none
            assert share - 6 < taken[label] < share + 1


def test_a_balanced_part_of_sorted_labels_is_balanced() -> None:
    assert LABELS[stratified(LABELS, 30)].bincount().tolist() == [10, 5, 15]
    assert LABELS[stratified(LABELS, 6)].bincount().tolist() == [2, 1, 3]
    assert LABELS[stratified(LABELS, 3)].unique().tolist() == [0, 1, 2]
    assert stratified(LABELS, None).tolist() == stratified(LABELS, 99).tolist() == list(range(60))


def write_npz(root: Path, labels: Tensor) -> str:
    pixels = torch.arange(len(labels) * 6, dtype=torch.float32).reshape(-1, 6)
    np.savez_compressed(root / "own.npz", x=pixels.numpy(), y=labels.numpy())
    return f"npz:{root / 'own.npz'}"


def write_npz_by_columns(root: Path, labels: Tensor) -> str:
    pixels = np.asfortranarray(np.arange(len(labels) * 6, dtype=np.uint8).reshape(-1, 6))
    np.savez(root / "own.npz", x=pixels, y=labels.numpy())
    return f"npz:{root / 'own.npz'}"


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(root: Path, labels: Tensor) -> str:
    images = np.arange(len(labels) * 6, dtype=np.uint8).reshape(-1, 2, 3)
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
    (root / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels.numpy().astype(np.uint8)))
    return f"mnist:{root}"


def write_cifar(root: Path, labels: Tensor) -> str:
    pixels = torch.arange(len(labels) * 3072).remainder(251).reshape(-1, 3072)
    records = torch.cat([labels[:, None], pixels], dim=1).to(torch.uint8).numpy()
    for number, part in enumerate(np.array_split(records, 5), 1):
        (root / f"data_batch_{number}.bin").write_bytes(part.tobytes())
    return f"cifar10:{root}"


def write_folder(root: Path, labels: Tensor) -> str:
    for index, label in enumerate(labels.tolist()):
        (root / f"class{label}").mkdir(exist_ok=True)
        Image.new("RGB", (2, 2), (index, 0, 0)).save(root / f"class{label}" / f"{index:03}.png")
    return f"folder:{root}"


FORMATS = {
    "npz": write_npz,
    "npz by columns": write_npz_by_columns,
    "idx": write_idx,
    "cifar10": write_cifar,
    "folder": write_folder,
}


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("limit", [1, 3, 30, 59, 60, 1000])
def test_a_limited_part_is_that_part_of_the_whole(
    tmp_path: Path, write: Callable[[Path, Tensor], str], limit: int
) -> None:
    spec = write(tmp_path, LABELS)
    whole, part = data.open(spec), data.open(spec, limit=limit)
    chosen = stratified(whole.labels, limit)
    assert part.labels.tolist() == whole.labels[chosen].tolist()
    assert part.classes == whole.classes
    for (one, _), index in zip(part, chosen.tolist(), strict=True):
        assert torch.equal(one, whole[index][0])


def test_digits_and_factories_are_limited_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "limited_data.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        "def made(): return TensorDataset(torch.zeros(60, 1), torch.arange(60) // 20)\n"
    )
    assert data.open("digits", limit=20).labels.bincount().tolist() == [2] * 10
    assert data.open("limited_data:made", limit=6).labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "3"])
def test_a_limit_must_be_a_positive_number(limit: Any) -> None:
    with pytest.raises(DataError, match="`limit` must be a positive number of samples, got"):
        data.open("digits", limit=limit)


def peak_of(action: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


MIXED = torch.arange(3000) % 10


@pytest.fixture(params=["npz", "idx"])
def large(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """120 MB of zeros in a small file."""
    if request.param == "npz":
        np.savez_compressed(tmp_path / "own.npz", x=np.zeros((3000, 10_000), np.float32), y=MIXED.numpy())
        return f"npz:{tmp_path / 'own.npz'}"
    images = gzip.compress(idx_bytes(np.zeros((3000, 100, 400), np.uint8)), compresslevel=1)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(images)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(MIXED.numpy().astype(np.uint8)))
    return f"mnist:{tmp_path}"


def test_only_what_is_wanted_is_inflated(large: str) -> None:
    assert peak_of(lambda: data.open(large, limit=50)) < 60_000_000


def test_a_file_is_read_no_further_than_its_last_sample(tmp_path: Path) -> None:
    spec = write_idx(tmp_path, MIXED)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-200])
    assert len(data.open(spec, limit=20)) == 20
    with pytest.raises(DataError, match="truncated"):
        data.open(spec)


def test_what_would_not_fit_is_refused_before_it_is_read(large: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurocollapse.data.limit.MAX_BYTES", 100_000_000)

    def refused() -> None:
        with pytest.raises(DataError, match=r"would take 0.\d GiB in memory, at most 0.1 GiB may be used; read fewer"):
            data.open(large)

    assert peak_of(refused) < 5_000_000
    assert len(data.open(large, limit=50)) == 50


@pytest.mark.parametrize(
    ("arrays", "name"),
    [
        ({"x": np.zeros((3, 4000), np.uint8), "y": np.arange(3)}, "'x'"),  # 12 kB of bytes, four times that as floats
        ({"x": np.zeros((3, 4000), ">f8", order="F"), "y": np.arange(3)}, "'x'"),
        ({"x": np.zeros((9000, 1), np.uint8), "y": np.zeros(9000, np.uint8)}, "'y'"),
        ({"x": np.zeros((3, 1)), "y": np.eye(3, 9000, dtype=np.uint8)}, "'y'"),
        ({"x": np.zeros((3, 1)), "y": np.arange(3), "classes": np.array(["x" * 9000] * 3)}, "'classes'"),
    ],
)
def test_every_array_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: dict[str, Any], name: str
) -> None:
    monkeypatch.setattr("neurocollapse.data.limit.MAX_BYTES", 40_000)
    np.savez_compressed(tmp_path / "own.npz", **arrays)
    with pytest.raises(DataError, match=rf"{name} in .*own.npz would take .* GiB in memory"):
        data.open(f"npz:{tmp_path / 'own.npz'}")


def test_less_than_the_free_memory_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurocollapse.data.limit.memory_limit", lambda device: 300)
    with pytest.raises(DataError, match=r"at most 0\.0 GiB may be used"):
        data.open(write_npz(tmp_path, LABELS))


@pytest.mark.parametrize("labels", [[0, 1, 2, 999_999], [999_999] * 50, [*range(60), 70_000]])
def test_labels_far_above_their_number_are_refused_with_the_gigabytes(tmp_path: Path, labels: list[int]) -> None:
    np.savez(tmp_path / "own.npz", x=np.zeros((len(labels), 2)), y=np.array(labels))
    with pytest.raises(DataError, match=rf"`labels` reach {max(labels)}, but only \d+ classes occur; .* [\d.]+ GiB"):
        data.open(f"npz:{tmp_path / 'own.npz'}")


def test_many_columns_of_which_few_occur_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "own.npz", x=np.zeros((2, 2)), y=np.eye(2, 70_000, dtype=np.uint8))
    with pytest.raises(DataError, match="`labels` have 70000 columns, but only 2 classes occur"):
        data.open(f"npz:{tmp_path / 'own.npz'}")


def test_many_classes_that_occur_are_read() -> None:
    labels = torch.arange(100_000)
    check_num_classes(100_000, labels, "classes")
    assert len(LabelledData(torch.zeros(100_000, 1), labels, tuple(map(str, range(100_000))))) == 100_000
    check_num_classes(65_536, labels[:1], "classes")

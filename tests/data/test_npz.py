"""NumPy archives: the names and types accepted, and what is refused."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurocollapse import data
from neurocollapse.data import DataError

X = np.random.default_rng(0).normal(size=(4, 3))
Y = np.array([0, 2, 1, 0])


def opened(tmp_path: Path, split: str = "train", **arrays: Any) -> data.Labelled:
    np.savez(tmp_path / "own.npz", **arrays)
    return data.open(f"npz:{tmp_path / 'own.npz'}", split=split)


@pytest.mark.parametrize("names", [("inputs", "labels"), ("x", "y"), ("images", "labels")])
def test_the_usual_names_are_read(tmp_path: Path, names: tuple[str, str]) -> None:
    read = opened(tmp_path, **dict(zip(names, (X, Y), strict=True)))
    assert torch.equal(read.inputs, torch.from_numpy(X).float())
    assert read.labels.tolist() == Y.tolist()
    assert read.classes == ("0", "1", "2")


@pytest.mark.parametrize("names", ["{}_inputs {}_labels", "x_{} y_{}", "{}_images {}_labels"])
def test_one_file_may_hold_both_splits(tmp_path: Path, names: str) -> None:
    both = {}
    for split, size in (("train", 4), ("test", 2)):
        inputs, labels = names.format(split, split).split()
        both |= {inputs: X[:size], labels: Y[:size]}
    assert (len(opened(tmp_path, **both)), len(opened(tmp_path, "test", **both))) == (4, 2)


def test_unsigned_bytes_are_scaled_to_one(tmp_path: Path) -> None:
    read = opened(tmp_path, x=np.array([[0, 51, 255]], dtype=np.uint8), y=[0])
    assert torch.allclose(read.inputs, torch.tensor([[0, 0.2, 1]]))  # 51/255 rounded to float32


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "bool"])
def test_one_hot_labels_become_indices(tmp_path: Path, dtype: str) -> None:
    read = opened(tmp_path, x=X, y=np.eye(5)[Y].astype(dtype))
    assert read.labels.tolist() == Y.tolist()
    assert len(read.classes) == 5


@pytest.mark.parametrize("labels", [Y[:, None], Y.astype(">i2"), Y.astype("uint8")])
def test_integer_labels_of_any_width_are_read(tmp_path: Path, labels: np.ndarray) -> None:
    assert opened(tmp_path, x=X, y=labels).labels.tolist() == Y.tolist()


def test_classes_may_be_named(tmp_path: Path) -> None:
    assert opened(tmp_path, x=X, y=Y, classes=["cat", "dog", "eel", "fox"]).classes == ("cat", "dog", "eel", "fox")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, r"must hold the arrays 'inputs' and 'labels' \(or 'x' and 'y', or .*got 'x'"),
        ({"a": X, "b": Y}, "got 'a', 'b'"),
        ({"x": X, "y": Y[:3]}, "4 samples in 'x' for 3 in 'y'"),
        ({"x": X, "y": Y - 1}, r"integers in \[0, 2\), got -1 at position 0"),
        ({"x": X, "y": Y * 10**9}, "`labels` must lie below 1000000, got 2000000000"),
        ({"x": X, "y": Y + 0.5}, "integers of shape .* or one-hot .* got float64 of shape"),
        ({"x": X, "y": np.ones((4, 3))}, "or one-hot"),
        ({"x": X.astype("bool"), "y": Y}, r"floats, unsigned bytes \(pixels, 0 … 255\) or other integers .* got bool"),
        ({"x": X.astype("complex64"), "y": Y}, "floats, unsigned bytes"),
        ({"x": X[:0], "y": Y[:0]}, r"of shape \(samples, …\), got \(0, 3\)"),
        ({"x": X[:, 0], "y": Y}, r"of shape \(samples, …\), got \(4,\)"),
        ({"x": X, "y": Y, "classes": ["one", "two"]}, r"integers in \[0, 2\), got 2 at position 1"),
        ({"x": X, "y": Y, "classes": [1, 2, 3]}, "`classes` must be strings"),
    ],
)
def test_wrong_arrays_get_one_clear_line(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path, **arrays)
    assert "own.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unsplit_file_has_no_test_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no test split; add test_inputs and test_labels"):
        opened(tmp_path, "test", x=X, y=Y)


class Marker:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_objects_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    evil = np.array([Marker(tmp_path / "ran")] * 4, dtype=object)
    with pytest.raises(DataError, match="holds Python objects in 'y', which are never read"):
        opened(tmp_path, x=X, y=evil)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_called_npz_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    (tmp_path / "own.npz").write_bytes(pickle.dumps(Marker(tmp_path / "ran")))
    with pytest.raises(DataError, match=r"not a readable .npz file"):
        data.open(f"npz:{tmp_path / 'own.npz'}")
    assert not (tmp_path / "ran").exists()


def npy_header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npy_header((10**9, 10**3)) + bytes(96), r"bytes for 'x' of shape \(1000000000, 1000\)"),
        (npy_header((2, 3)) + bytes(96), r"bytes for 'x' of shape \(2, 3\)"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "no readable array in 'x'"),
        (b"nothing", "no readable array in 'x'"),
    ],
)
def test_headers_are_not_believed_beyond_the_size(tmp_path: Path, member: bytes, message: str) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, y=Y)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(DataError, match=message):
        data.open(f"npz:{path}")


def test_archives_beyond_the_limit_are_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurocollapse.data.limit.MAX_BYTES", 60)
    with pytest.raises(DataError, match="split the file"):
        opened(tmp_path, x=X, y=Y)


def test_truncated_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"not a readable .npz file"):
        data.open(f"npz:{path}")


def test_flipped_bytes_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, x=X, y=Y)
    contents = bytearray(path.read_bytes())
    contents[contents.index(X.tobytes()) + 5] ^= 0xFF
    path.write_bytes(contents)
    with pytest.raises(DataError, match="CRC"):
        data.open(f"npz:{path}")

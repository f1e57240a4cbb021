"""Moments come back from disk to the last bit, and a bad file or folder is one clear StateFileError."""

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from neurocollapse.statistics import (
    ClassMoments,
    LayerRecord,
    MomentCollection,
    StateFileError,
    read_state,
    write_state,
)
from neurocollapse.support.state import write_tensors

Stream = Callable[..., Any]
Same = Callable[[ClassMoments, ClassMoments], bool]


@pytest.fixture
def collection(stream: Stream) -> MomentCollection:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(60, 150, generator=generator), torch.arange(60) % 4
    moments = {
        "conv/1 é@in": stream(features, labels, 5).moments(),
        "fc#1": stream(features[:, :9], labels, 5, covariance=True, precision="double").moments(),
        "": ClassMoments.empty(5, 2),
    }
    layers = {
        name: LayerRecord(name, depth, "Conv2d", "channels-first", "mean", "float32", positions=3, num_skipped=depth)
        for depth, name in enumerate(moments)
    }
    return MomentCollection(moments, layers, {"model": "é", "seed": 3, "scale": 0.1})


def test_saving_and_loading_keeps_every_bit(collection: MomentCollection, tmp_path: Path, same_moments: Same) -> None:
    collection.save(tmp_path / "moments")
    loaded = MomentCollection.load(str(tmp_path / "moments"))
    assert list(loaded) == list(collection)
    assert loaded.layers == collection.layers
    assert loaded.attributes == collection.attributes
    assert all(same_moments(loaded[name], collection[name]) for name in collection)
    assert [loaded[name].reference.dtype for name in loaded] == [torch.float32, torch.float64, torch.float64]


def test_layers_that_share_their_moments_are_saved(tmp_path: Path, same_moments: Same) -> None:
    moments = ClassMoments.from_features([[1.0, 2.0], [4.0, 2.0]], [0, 0])
    MomentCollection({"one": moments, "two": moments}).save(tmp_path / "moments")
    loaded = MomentCollection.load(tmp_path / "moments")
    assert same_moments(loaded["one"], moments)
    assert same_moments(loaded["two"], moments)


def test_saving_replaces_the_old_file_and_leaves_nothing_else(collection: MomentCollection, tmp_path: Path) -> None:
    path = tmp_path / "moments"
    MomentCollection({}).save(path)
    collection.save(path)
    assert len(MomentCollection.load(path)) == 3
    assert list(tmp_path.iterdir()) == [path]


def fail_with(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(("error", "expected"), [(FULL, StateFileError), (KeyboardInterrupt(), KeyboardInterrupt)])
def test_a_failed_write_leaves_the_old_file(
    function: str,
    error: BaseException,
    expected: type[BaseException],
    collection: MomentCollection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "moments"
    collection.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, function, fail_with(error))
    with pytest.raises(expected) as raised:
        MomentCollection({}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert expected is KeyboardInterrupt or str(raised.value).startswith(
        f"cannot write {path}: {FULL.strerror}; free some"
    )


def test_a_folder_that_is_missing_is_told(collection: MomentCollection, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing" / "moments", tmp_path / "file" / "moments"):
        with pytest.raises(StateFileError, match=r"^cannot write .*; name a folder that exists$"):
            collection.save(path)


def test_a_folder_that_cannot_be_written_to_is_told(
    collection: MomentCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "neurocollapse.support.state.save_file",
        fail_with(PermissionError(errno.EACCES, os.strerror(errno.EACCES))),
    )
    with pytest.raises(StateFileError, match=r"^cannot write .*/moments: Permission denied"):
        collection.save(tmp_path / "moments")


def test_a_folder_as_target_is_told_and_stays(collection: MomentCollection, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StateFileError, match=r"^cannot write .*/folder: Is a directory"):
        collection.save(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


class Payload:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def header(**changes: Any) -> dict[str, str]:
    """The metadata of a file of one layer, with changes."""
    fields = {"kind": "moments", "version": 1, "layers": [{"name": "fc", "depth": 1}], "attributes": {}}
    return {"neurocollapse": json.dumps(fields | changes)}


def tensors(**changes: Any) -> dict[str, torch.Tensor]:
    """The tensors of a file of one layer with two classes and three features, with changes; None leaves one out."""
    double = torch.float64
    fields = {
        "count": torch.ones(2, dtype=torch.int64),
        "reference": torch.zeros(2, 3),
        "offset_sum": torch.zeros(2, 3, dtype=double),
        "offset_square": torch.zeros(2, dtype=double),
        "within_scatter": torch.zeros(3, 3, dtype=double),
    }
    return {f"{key}/fc": value for key, value in (fields | changes).items() if value is not None}


def test_the_handmade_file_of_the_next_test_is_good(tmp_path: Path) -> None:
    write_tensors(tmp_path / "moments", tensors(), header())
    assert MomentCollection.load(tmp_path / "moments")["fc"].num_samples == 2


INCOMPLETE = r"is not a complete file of moments \(.*\); write it again$"


@pytest.mark.parametrize(
    ("content", "metadata", "message"),
    [
        (tensors(), None, "is a safetensors file, but not one of neurocollapse's; name another file$"),
        (tensors(), {"neurocollapse": "[1]"}, "is a safetensors file, but not one of neurocollapse's"),
        (tensors(), {"neurocollapse": "{"}, "is a safetensors file, but not one of neurocollapse's"),
        (tensors(), header(version=2), r"holds moments \(version 2\), not moments \(version 1\); name another file$"),
        (tensors(), header(kind="run"), r"holds run \(version 1\), not moments \(version 1\)"),
        (tensors(), header(layers=None), INCOMPLETE),
        (tensors(), header(layers=[{"name": "fc", "depth": 1, "colour": "red"}]), INCOMPLETE),
        (tensors(), header(layers=[{"name": "conv", "depth": 1}]), INCOMPLETE),
        (tensors(), header(attributes=3), INCOMPLETE),
        (tensors(count=None), header(), INCOMPLETE),
        (tensors(offset_square=None), header(), INCOMPLETE),
        (tensors(count=torch.ones(3, dtype=torch.int64)), header(), INCOMPLETE),
        (tensors(count=torch.ones(2)), header(), INCOMPLETE),
        (tensors(reference=torch.zeros(2)), header(), INCOMPLETE),
        (tensors(reference=torch.zeros(2, 3, dtype=torch.int32)), header(), INCOMPLETE),
        (tensors(offset_sum=torch.zeros(3, 2, dtype=torch.float64)), header(), INCOMPLETE),
        (tensors(offset_sum=torch.zeros(2, 3).half()), header(), INCOMPLETE),
        (tensors(within_scatter=torch.zeros(2, 2, dtype=torch.float64)), header(), INCOMPLETE),
    ],
)
def test_a_file_of_another_content_is_refused(
    content: dict[str, torch.Tensor], metadata: dict[str, str] | None, message: str, tmp_path: Path
) -> None:
    write_tensors(tmp_path / "moments", content, metadata or {})
    with pytest.raises(StateFileError, match=message) as raised:
        MomentCollection.load(tmp_path / "moments")
    assert "\n" not in str(raised.value)


def test_a_file_cut_short_anywhere_is_refused(collection: MomentCollection, tmp_path: Path) -> None:
    collection.save(tmp_path / "whole")
    content, path = (tmp_path / "whole").read_bytes(), tmp_path / "cut"
    for length in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(StateFileError, match="is not a readable safetensors file") as raised:
            MomentCollection.load(path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"\xff" * 100, b"hello", b"\x80\x04N."], ids=["bytes", "text", "pickle"])
def test_garbage_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "moments").write_bytes(content)
    with pytest.raises(StateFileError, match="is not a readable safetensors file"):
        MomentCollection.load(tmp_path / "moments")


def test_a_flipped_header_is_refused(collection: MomentCollection, tmp_path: Path) -> None:
    collection.save(tmp_path / "moments")
    content = bytearray((tmp_path / "moments").read_bytes())
    for position in range(0, 400, 13):
        damaged = bytes(content[:position]) + b"\x00" + bytes(content[position + 1 :])
        (tmp_path / "moments").write_bytes(damaged)
        with pytest.raises(StateFileError):
            MomentCollection.load(tmp_path / "moments")


@pytest.mark.parametrize("write", [lambda payload, path: path.write_bytes(pickle.dumps(payload)), torch.save])
def test_no_pickle_is_ever_read(write: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "moments"
    write(Payload(trace), path)
    with pytest.raises(StateFileError, match="is not a readable safetensors file"):
        MomentCollection.load(path)
    assert not trace.exists()


def test_a_missing_file_or_a_folder_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(StateFileError, match=r"does not exist or is not a file$"):
            MomentCollection.load(path)


def test_a_state_file_error_is_a_value_error() -> None:
    assert issubclass(StateFileError, ValueError)


def test_state_files_hold_strided_tensors_and_any_header(tmp_path: Path) -> None:
    strided = torch.arange(12).view(3, 4).T[::2]
    write_state(tmp_path / "state", "run", {"epoch": 3, "none": None}, {"a": strided, "b": strided})
    fields, loaded = read_state(tmp_path / "state", "run")
    assert (fields["epoch"], fields["none"]) == (3, None)
    assert torch.equal(loaded["a"], strided)
    assert torch.equal(loaded["b"], strided)
    assert load_file(tmp_path / "state").keys() == {"a", "b"}


def test_collections_merge_layer_by_layer(collection: MomentCollection, same_moments: Same) -> None:
    merged = collection.merge(collection)
    for name in collection:
        assert same_moments(merged[name], collection[name].merge(collection[name]))
        assert merged.record(name).num_skipped == 2 * collection.record(name).num_skipped
    assert merged.num_samples == 2 * collection.num_samples


def test_collections_of_other_layers_do_not_merge(collection: MomentCollection) -> None:
    other = MomentCollection({"fc#1": collection["fc#1"], "head": collection["fc#1"]})
    with pytest.raises(ValueError, match=r"cannot merge: the layers differ \(, conv/1 é@in, head\)"):
        collection.merge(other)


def test_samples_are_told_from_rows() -> None:
    rows = ClassMoments.from_features([[0.0]] * 12, [0, 1] * 6)
    collection = MomentCollection({"map": rows}, {"map": LayerRecord("map", 1, positions=4, num_skipped=8)})
    assert repr(collection) == "MomentCollection(1 layer, 5 samples, 2 classes)"
    counted = MomentCollection({"map": rows}, collection.layers, {"num_samples": 6})
    assert (counted.num_samples, counted.merge(collection).num_samples) == (6, 11)


def test_a_layer_without_a_record_is_known_by_its_position() -> None:
    moments = ClassMoments.from_features([[0.0], [1.0]], [0, 1])
    collection = MomentCollection({"one": moments, "two": moments})
    assert collection.record("two") == LayerRecord("two", depth=2)
    assert repr(collection) == "MomentCollection(2 layers, 2 samples, 2 classes)"
    assert repr(MomentCollection({})) == "MomentCollection(0 layers, 0 samples, 0 classes)"

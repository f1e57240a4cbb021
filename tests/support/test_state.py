"""A state file whose bytes have changed anywhere is refused in one line, whatever it holds."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from neurocollapse.dynamics import TrackerError, WeightTracker
from neurocollapse.lowrank import AdapterError, LoRA, inject, load_adapters, load_peft, save_adapters, save_peft
from neurocollapse.models import ModelError, load_weights
from neurocollapse.statistics import ClassMoments, MomentCollection, StateFileError
from neurocollapse.support.state import read_state, read_tensors, write_state, write_tensors
from neurocollapse.train import TrainingError, descend, load_checkpoint, save_checkpoint


def network() -> nn.Module:
    """One layer."""
    return nn.Sequential(nn.Linear(3, 2))


def descent(path: Path, num_steps: int) -> None:
    """Some steps of gradient descent, going on from a file if it is there."""
    identity = torch.eye(2, dtype=torch.float64)
    descend([identity], identity, 2 * identity, learning_rate=0.1, num_steps=num_steps, resume=path)


def tracked(path: Path, steps: range) -> None:
    """Some steps of a tracked run, going on from a file if it is there."""
    with WeightTracker([torch.eye(2)], path=path.with_name("rows.nc")) as tracker:
        for step in steps:
            tracker.record(step, [torch.eye(2) * (1 + step)])


KINDS: dict[str, tuple[type[Exception], Callable[[Path], object], Callable[[Path], object]]] = {
    "moments": (
        StateFileError,
        lambda path: MomentCollection({"fc": ClassMoments.from_features([[0.0], [1.0]], [0, 1])}).save(path),
        MomentCollection.load,
    ),
    "training": (TrainingError, lambda path: save_checkpoint(path, network(), epoch=3), load_checkpoint),
    "descent": (TrainingError, lambda path: descent(path, 2), lambda path: descent(path, 3)),
    "adapters": (
        AdapterError,
        lambda path: save_adapters(inject(network(), "**", kind=LoRA(rank=1)), path),
        lambda path: load_adapters(network(), path),
    ),
    "rows.nc.start.safetensors": (
        TrackerError,
        lambda path: tracked(path, range(2)),
        lambda path: tracked(path, range(2, 4)),
    ),
    "weights.safetensors": (
        ModelError,
        lambda path: save_checkpoint(path, network(), epoch=3),
        lambda path: load_weights(network(), path),
    ),
}


def flips(content: bytes, step: int) -> list[bytes]:
    """The content with one byte changed, at places all over the header and the numbers."""
    draw = random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    changed = [
        content[:place] + bytes([content[place] ^ draw.randrange(1, 256)]) + content[place + 1 :]
        for place in range(0, len(content), step)
    ]
    blanks = [place for place in range(header - 8, header) if content[place] == ord(" ")]
    changed += [content[:place] + blank + content[place + 1 :] for place in blanks for blank in (b"\t", b"\n", b"\r")]
    seal = re.search(rb'"checksum":"[0-9]*([a-f])', content)
    assert seal is not None
    return [*changed, content[: seal.start(1)] + seal[1].upper() + content[seal.end(1) :]]


@pytest.mark.parametrize("kind", KINDS)
def test_one_byte_that_changed_anywhere_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    error, save, load = KINDS[kind]
    path = tmp_path / kind
    save(path)
    content = path.read_bytes()
    for changed in flips(content, step=1 if kind == "moments" else 23):
        if kind == "weights.safetensors" and b'"checksum":"' not in changed:
            continue  # a file of weights needs no checksum, and what has changed is its name
        path.write_bytes(changed)
        with pytest.raises(error) as raised:
            load(path)
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) <= 300
    path.write_bytes(content)
    load(path)


def test_the_numbers_of_a_peft_folder_that_was_written_here_are_checked(tmp_path: Path) -> None:
    save_peft(inject(network(), "**", kind=LoRA(rank=1)), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(AdapterError, match="is damaged: it has another checksum"):
        load_peft(network(), tmp_path)
    save_file(load_file(path), path)  # as another program writes it
    load_peft(network(), tmp_path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 60, -9, -1])
def test_a_file_that_is_cut_off_is_refused(length: int, tmp_path: Path) -> None:
    write_state(tmp_path / "state", "run", {}, {"a": torch.ones(5)})
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:length])
    with pytest.raises(StateFileError, match="is not a readable safetensors file"):
        read_state(tmp_path / "state", "run")


def test_a_file_without_a_checksum_is_no_state(tmp_path: Path) -> None:
    write_state(tmp_path / "state", "run", {}, {"a": torch.ones(5)})
    with safe_open(tmp_path / "state", framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "checksum"}
    save_file({"a": torch.ones(5)}, tmp_path / "state", metadata)
    with pytest.raises(StateFileError, match="is damaged: its checksum is missing"):
        read_state(tmp_path / "state", "run")
    assert read_tensors(tmp_path / "state")[1]["a"].sum() == 5


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.complex64]
)
def test_tensors_of_any_kind_and_shape_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    base = (torch.arange(12).view(3, 4) % 3).to(dtype)
    tensors = {"checksum": base, "view": base.T, "row": base[1], "empty": base[:0], "none": base[0, 0]}
    write_state(tmp_path / "state", "run", {"checksum": "0" * 64, "text": '"checksum":"' + "1" * 64 + '"'}, tensors)
    header, read = read_state(tmp_path / "state", "run")
    assert header["checksum"] == "0" * 64
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor)
        assert read[name].dtype == dtype


def test_what_was_read_outlives_its_file(tmp_path: Path) -> None:
    write_state(tmp_path / "state", "run", {}, {"a": torch.ones(5)})
    _, read = read_state(tmp_path / "state", "run")
    (tmp_path / "state").write_bytes(b"")
    assert read["a"].tolist() == [1.0] * 5


def test_parameters_are_stored_without_their_gradients(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    write_tensors(tmp_path / "state", {"a": layer.weight, "b": layer.weight}, {})
    _, read = read_tensors(tmp_path / "state")
    assert torch.equal(read["a"], read["b"])
    assert not read["a"].requires_grad

"""State on disk: the same numbers, nothing left behind, and plain words where it cannot be."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.statistics import ClassBatch, MomentAccumulator, mapped, state_bytes
from neurocollapse.statistics.mapped import mapped_zeros

WIDE = 300


@pytest.fixture
def model(hand: Any) -> nn.Module:
    return hand.seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.Linear(8, WIDE)))


def assert_identical(found: nc.MomentCollection, expected: nc.MomentCollection) -> None:
    assert list(found) == list(expected)
    for name in expected:
        for field in ("count", "reference", "offset_sum", "offset_square"):
            assert torch.equal(getattr(found[name], field), getattr(expected[name], field)), (name, field)


@pytest.mark.parametrize("options", [{}, {"state_bytes": 16}, {"state_bytes": 8}, {"precision": "double"}])
def test_a_state_on_disk_is_the_one_in_memory_to_the_last_bit(
    hand: Any, model: nn.Module, tmp_path: Path, options: dict[str, Any]
) -> None:
    batches = hand.in_batches(*hand.clustered(40, 6), 7)
    expected = nc.collect(model, batches, **({} if options.get("precision") else {"state_bytes": 12}) | options)
    found = nc.collect(model, batches, state_dir=tmp_path, **options)
    assert_identical(found, expected)
    assert found.attributes["state_bytes"] == expected.attributes["state_bytes"]
    assert list(tmp_path.iterdir()) == []


def test_moments_on_disk_are_measured_and_saved_like_others(hand: Any, model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    batches = hand.in_batches(*hand.clustered(40, 6), 7)
    moments = nc.collect(model, batches, state_dir=tmp_path / "state", state_bytes=8)
    moments.save(tmp_path / "moments")
    assert_identical(nc.MomentCollection.load(tmp_path / "moments"), moments)
    expected = nc.analyze(model, batches, state_bytes=8)
    assert nc.measure(moments)["compression"].equals(expected["compression"])


@pytest.mark.parametrize("width", [16, 12, 8])
def test_the_matrices_grow_and_become_narrow_on_disk(tmp_path: Path, width: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    accumulators = [MomentAccumulator(2, WIDE, folder=folder) for folder in (tmp_path, None)]
    for step in range(4):
        features = torch.randn(20, WIDE, generator=generator)
        labels = torch.randint(2 + 3 * (step > 0), (20,), generator=generator)
        for accumulator in accumulators:
            if step == 1:
                accumulator.grow(5)
            if step == 2:
                accumulator.narrow(width)
            accumulator.update(features, ClassBatch(labels, accumulator.num_classes))
    on_disk, in_memory = (accumulator.state() for accumulator in accumulators)
    assert on_disk.keys() == in_memory.keys()
    assert all(torch.equal(on_disk[name], in_memory[name]) for name in in_memory)
    files = mapped_files(tmp_path)
    assert len(files) == len({"reference", "total", "partial"} & on_disk.keys()), files
    assert width == 16 or len(files) == 2
    del on_disk, accumulators, accumulator
    assert mapped_files(tmp_path) == []


def mapped_files(folder: Path) -> list[str]:
    """Files of a folder that this process has mapped."""
    if not sys.platform.startswith("linux"):
        pytest.skip("mapped files are listed in /proc")
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split(maxsplit=5)[5] for line in lines if str(folder) in line})


def test_the_room_on_the_disk_is_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, offset: int, length: int) -> None:
        assert (offset, length) == (0, 4 * 10 * WIDE)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(nc.StateFileError, match=r"cannot keep state in .*: No space left on device; name another"):
        mapped_zeros(tmp_path, (10, WIDE), torch.float32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("make", "found"), [(Path.touch, "is a file"), (lambda path: None, "does not exist")])
def test_what_is_no_folder_is_refused(hand: Any, model: nn.Module, tmp_path: Path, make: Any, found: str) -> None:
    make(tmp_path / "state")
    with hand.left_alone(model), pytest.raises(nc.StateFileError, match=f"`state_dir` must be a folder, .* {found};"):
        nc.collect(model, [hand.clustered(10, 6)], state_dir=tmp_path / "state")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_told(hand: Any, model: nn.Module, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(nc.StateFileError, match=r"cannot keep state in .*: Permission denied"):
        nc.collect(model, [hand.clustered(10, 6)], state_dir=tmp_path)


def test_a_number_is_no_folder(hand: Any, model: nn.Module) -> None:
    with pytest.raises(TypeError, match="`state_dir` must be a path, got 3"):
        nc.collect(model, [hand.clustered(10, 6)], state_dir=3)


@pytest.mark.parametrize("limit", ["max_memory", "disk"])
def test_what_does_not_fit_on_the_disk_is_refused(
    hand: Any, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    needed = sum(state_bytes(3, d, working=w, covariance=False, per_element=8) for d, w in SIZES)
    options: dict[str, Any] = {"max_memory": needed - 1} if limit == "max_memory" else {}
    if limit == "disk":
        monkeypatch.setattr(
            shutil, "disk_usage", lambda folder: SimpleNamespace(free=needed)
        )  # of which 90 % are taken
    with pytest.raises(nc.MemoryPlanError, match=rf"at 8 bytes .* may be used in {tmp_path} \(largest"):
        nc.collect(model, [hand.clustered(10, 6)], state_dir=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


SIZES = [(8, torch.float64), (WIDE, torch.float32)]


def test_a_run_is_taken_up_on_disk_one_tensor_at_a_time(
    hand: Any, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").mkdir()
    batches = hand.in_batches(*hand.clustered(40, 6), 7)

    def interrupted() -> Any:
        yield from batches[:3]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        nc.collect(model, interrupted(), state_dir=tmp_path / "state", resume=tmp_path / "resume")
    folders = []
    monkeypatch.setattr(
        mapped, "mapped_zeros", lambda folder, *rest: (folders.append(folder), mapped_zeros(folder, *rest))[1]
    )
    found = nc.collect(model, batches, state_dir=tmp_path / "state", resume=tmp_path / "resume")
    assert folders == [tmp_path / "state"] * 4
    assert_identical(found, nc.collect(model, batches, state_bytes=12))


KILLED = """
import os, signal, sys
import torch
import neurocollapse as nc
from neurocollapse.passes import checkpoint

checkpoint.SAVE_INTERVAL, checkpoint.SAVE_SHARE = 0.0, 1e9
generator = torch.Generator().manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(6, 300))
with torch.no_grad():
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
batches = [(torch.randn(8, 6, generator=generator), torch.randint(4, (8,), generator=generator)) for _ in range(6)]

class Loader:
    def __iter__(self):
        for index, batch in enumerate(batches):
            if index == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

options = {"num_classes": 4, "progress": False, "state_dir": sys.argv[1], "resume": sys.argv[2]}
nc.collect(model, Loader(), **options).save(sys.argv[2] + ".moments")
"""


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_in_the_folder_and_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    for name, last in (("killed", 3), ("killed", -1), ("unbroken", -1)):
        command = [sys.executable, "-c", KILLED, str(state), str(tmp_path / name), str(last)]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == (-signal.SIGKILL if last == 3 else 0), ended.stderr
        assert list(state.iterdir()) == []
    found, expected = (nc.MomentCollection.load(tmp_path / f"{name}.moments") for name in ("killed", "unbroken"))
    assert_identical(found, expected)


LARGE = """
import json, sys
import torch
from pathlib import Path
from neurocollapse.statistics import ClassBatch, MomentAccumulator

def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

before = own()
accumulator = MomentAccumulator(50_257, 768, state_bytes=12, folder=Path(sys.argv[1]))
for start in range(0, 50_257, 1024):
    labels = torch.arange(start, min(start + 1024, 50_257))
    accumulator.update(torch.randn(len(labels), 768), ClassBatch(labels, 50_257))
moments = accumulator.released()
print(json.dumps([own() - before, float(moments.scatter.sum())]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory in use is read from /proc")
def test_a_large_state_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    output = subprocess.run([sys.executable, "-c", LARGE, str(tmp_path)], capture_output=True, text=True, check=True)
    held, scatter = json.loads(output.stdout)
    assert held < 0.15 * 2**30  # of 0.43 GiB on disk
    assert scatter == 0.0  # one sample a class

"""A file is written whole or not at all, whatever lies at its place, and nothing else is left in its folder."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import xarray as xr
from torch import nn

import neurocollapse as nc
from neurocollapse.lowrank import LoRA, inject, save_adapters, save_peft
from neurocollapse.statistics import ClassMoments, MomentCollection
from neurocollapse.support.atomic import ResultFileError, check_writable, replacing, write
from neurocollapse.train import save_checkpoint

DATASET = xr.Dataset({"compression": ("layer", [0.5, 0.25])}, {"layer": ["a", "b"]})


def save_moments(path: Path) -> None:
    """Write moments of one layer."""
    moments = ClassMoments.from_features([[0.0, 1.0], [1.0, 3.0]], [0, 1])
    MomentCollection({"fc": moments}).save(path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write(path, "text"),
    "dataset": lambda path: nc.save(DATASET, path),
    "tree": lambda path: nc.save(xr.DataTree.from_dict({"net": DATASET}), path),
    "moments": save_moments,
    "training": lambda path: save_checkpoint(path, nn.Linear(2, 2), epoch=1),
    "adapters": lambda path: save_adapters(inject(nn.Sequential(nn.Linear(4, 4)), "**", kind=LoRA(rank=2)), path),
}
LIGHT = f"""
import sys, types
sys.modules["neurocollapse"] = types.ModuleType("neurocollapse")  # without its parts, whose imports take seconds
sys.modules["neurocollapse"].__path__ = [{str(Path(nc.__file__).parent)!r}]
from neurocollapse.support.atomic import replacing, write
"""
every_writer = pytest.mark.parametrize("save", WRITERS.values(), ids=WRITERS)


def received_by(fifo: Path, save: Callable[[Path], object]) -> bytes:
    """What a reader of a pipe gets."""
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    reader.start()
    save(fifo)
    reader.join(30)
    return received[0]


@every_writer
def test_a_pipe_receives_the_bytes_of_the_file(save: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    received = received_by(tmp_path / "pipe", save)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    save(tmp_path / "file")
    assert len(received) == (tmp_path / "file").stat().st_size > 0


def test_what_came_through_a_pipe_opens(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(received_by(tmp_path / "pipe", WRITERS["dataset"]))
    opened = nc.open(tmp_path / "file")
    assert isinstance(opened, xr.Dataset)
    assert opened.identical(DATASET)


@pytest.mark.skipif(os.getuid() != 0, reason="only the superuser may make a device")
@every_writer
def test_a_device_stays_a_device(save: Callable[[Path], object], tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (tmp_path / "link").symlink_to("null")
    for name in ("null", "link"):
        save(tmp_path / name)
    assert stat.S_ISCHR((tmp_path / "null").lstat().st_mode)
    assert (tmp_path / "link").is_symlink()


def test_a_stream_of_the_process_is_written_into(tmp_path: Path) -> None:
    code = f"{LIGHT}write('/dev/stdout', 'numbers')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout == b"numbers"


@every_writer
def test_a_link_stays_and_its_target_is_replaced(save: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("old", "new"):
        (tmp_path / name).symlink_to(Path("elsewhere", name))
    (tmp_path / "elsewhere" / "old").write_text("before")
    for name in ("old", "new"):
        save(tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "elsewhere" / name).read_bytes() not in (b"", b"before")
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"old", "new"}


def test_a_link_to_itself_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ResultFileError, match=r"^cannot write .*loop: Too many levels of symbolic links"):
        write(tmp_path / "loop", "text")


@every_writer
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o604])
def test_permissions_stay_as_they_are(save: Callable[[Path], object], mode: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(mode)
    save(tmp_path / "file")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    assert (tmp_path / "file").stat().st_size > 0


@every_writer
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_is_as_open_as_the_user_wants(
    save: Callable[[Path], object], mask: int, mode: int, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        save(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


@pytest.mark.skipif(os.getuid() != 0, reason="only the superuser may give files away")
def test_the_owner_stays(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", 1234, 4321)
    write(tmp_path / "file", "text")
    assert ((tmp_path / "file").stat().st_uid, (tmp_path / "file").stat().st_gid) == (1234, 4321)


def test_text_that_is_no_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    assert write(tmp_path / "file", "caf\udce9 é").read_bytes() == b"caf\\udce9 \xc3\xa9"


def test_nobody_else_can_look_at_an_unfinished_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "secret") as first, replacing(tmp_path / "secret") as second:
        assert first != second
        for part in (first, second):
            assert part.parent.parent == tmp_path
            assert stat.S_IMODE(part.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no device that is always full")
@every_writer
def test_a_full_device_is_one_clear_line(save: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^cannot write /dev/full: No space left on device; free some") as raised:
        save(Path("/dev/full"))
    assert "\n" not in str(raised.value)
    assert Path("/dev/full").is_char_device()


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch, xarray as xr
import neurocollapse as nc
from neurocollapse.dynamics import WeightTracker
from neurocollapse.train import save_checkpoint
from neurocollapse.statistics import ClassMoments, MomentCollection
from torch import nn

def write(kind, path, size):
    if kind == "dataset":
        nc.save(xr.Dataset({"x": ("step", torch.randn(size).double().numpy())}), path)
    elif kind == "training":
        save_checkpoint(path, nn.Linear(size, 1), epoch=1)
    elif kind == "moments":
        moments = ClassMoments.from_features(torch.randn(4, size), [0, 1, 0, 1])
        MomentCollection({"fc": moments}).save(path)
    elif kind == "tracker":
        tracker = WeightTracker([torch.randn(8, 8)], path=path)
        for step in range(size // 8):
            tracker.record(tracker.to_dataset().sizes["step"], [torch.randn(8, 8)])
            tracker.flush()

for kind in ("dataset", "training", "moments", "tracker"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    path = Path(sys.argv[1], kind)
    write(kind, path, 16)
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, resource.RLIM_INFINITY))
    try:
        write(kind, path, 4096)
    except ValueError as error:
        print(error)
    assert path.read_bytes() == before
"""


def test_where_no_more_fits_the_old_file_stays_and_the_process_ends_well(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("cannot write ") and "File too large" in line for line in lines)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def fails(failure: BaseException) -> Callable[..., None]:
    """A function that raises."""

    def fail(*_: object, **__: object) -> None:
        raise failure

    return fail


@every_writer
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_disk_that_fails_is_one_line_and_leaves_the_old_file(
    save: Callable[[Path], object], function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, function, fails(OSError(errno.EIO, os.strerror(errno.EIO))))
    with pytest.raises(ValueError, match=r"^cannot write .*file: Input/output error"):
        save(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        happened.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def noted_replace(source: Path, target: Path) -> None:
        happened.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write(tmp_path / "file", "text")
    assert happened == ["file", "name", "folder"]


UNFINISHED = f"""{LIGHT}
import time
with replacing(sys.argv[1]) as part:
    part.write_text("half")
    print(flush=True)
    time.sleep(600)
"""


def unfinished(path: Path) -> subprocess.Popen[bytes]:
    """A process in the middle of writing."""
    process = subprocess.Popen([sys.executable, "-c", UNFINISHED, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def killed(process: subprocess.Popen[bytes]) -> None:
    """End it without a chance to tidy up."""
    assert process.stdout is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("kind", ["text", "dataset", "training"])
def test_leftovers_of_killed_writers_go_with_the_next_write(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "result.nc"
    for process in (unfinished(path), unfinished(path)):
        killed(process)
    assert len(list(tmp_path.iterdir())) == 2
    WRITERS[kind](path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_work_of_a_live_writer_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "result.nc"
    process = unfinished(path)
    with replacing(path) as own:
        own.write_text("outer")
        write(path, "done")
        assert own.read_text() == "outer"
        (part,) = [folder for folder in tmp_path.iterdir() if folder not in (path, own.parent)]
    assert (part / path.name).read_text() == "half"
    killed(process)
    write(path, "after")
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_other_files_and_files_that_look_alike_stay(tmp_path: Path) -> None:
    killed(unfinished(tmp_path / "other.nc"))
    names = {".result.nc.part", ".result.nc.12345678.part", "result.nc.part"}
    for name in names:
        (tmp_path / name).touch()
    write(tmp_path / "result.nc", "text")
    assert names < {path.name for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == len(names) + 2


@every_writer
def test_threads_that_write_one_file_do_not_meet(save: Callable[[Path], object], tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                save(tmp_path / "file")
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "a b\n\x1b[31m.nc", "[x]*?.nc", ".hidden"])
def test_any_name_that_a_file_may_have_can_be_written(name: str, tmp_path: Path) -> None:
    for content in ("first", "second"):
        write(tmp_path / name, content)
        assert (tmp_path / name).read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_with_control_characters_makes_one_line(tmp_path: Path) -> None:
    with pytest.raises(ResultFileError, match="there is no such folder; name a folder that exists") as raised:
        write(tmp_path / "no\nsuch\x1b[2J" / "file", "text")
    assert r"no\nsuch\x1b[2J" in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("check", [check_writable, lambda path: write(path, "text")])
def test_a_place_where_nothing_can_be_written_is_told_before_and_after_the_work(
    check: Callable[[Path], object], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none" / "file", tmp_path / "file" / "file"):
        with pytest.raises(ResultFileError, match=r"^cannot write .*: there is no such folder"):
            check(path)
    with pytest.raises(ResultFileError, match=r"^cannot write .*: Is a directory; name another file$"):
        check(tmp_path)


def test_looking_whether_a_file_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "old").write_text("old")
    for name in ("new", "old", "pipe"):
        check_writable(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "pipe"}
    assert (tmp_path / "old").read_text() == "old"


def test_both_files_of_a_peft_folder_are_complete_before_either_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = inject(nn.Sequential(nn.Linear(4, 4)), "**", kind=LoRA(rank=2))
    save_peft(adapters, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        adapters["0"].factors[0].add_(1)
    write_text = Path.write_text

    def full(path: Path, *_: object, **__: object) -> int:
        write_text(path, "half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ValueError, match="No space left on device"):
        save_peft(adapters, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

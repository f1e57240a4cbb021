"""A run that is killed, interrupted or fails goes on from its file, to the last bit; and only where it may."""

import functools
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.passes import checkpoint as saving
from neurocollapse.statistics import read_state

DRIVER = Path(__file__).with_name("slow_run.py")


@pytest.fixture(scope="module")
def slow() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(DRIVER)))


@pytest.fixture(scope="module")
def unbroken(slow: SimpleNamespace) -> nc.MomentCollection:
    return nc.collect(slow.build(), slow.batches(), **slow.OPTIONS)


def assert_identical(found: nc.MomentCollection, expected: nc.MomentCollection) -> None:
    """Equal to the last bit."""
    assert list(found) == list(expected)
    assert found.layers == expected.layers
    for name in expected:
        for field in ("count", "reference", "offset_sum", "offset_square", "within_scatter"):
            assert torch.equal(getattr(found[name], field), getattr(expected[name], field)), (name, field)


def start(*arguments: Any) -> subprocess.Popen[str]:
    """Run the driver until it has begun its sixth batch."""
    command = [sys.executable, str(DRIVER), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(6):
        assert process.stdout.readline() == "batch\n"
    return process


def num_batches(path: Path) -> int:
    """Whole batches in a resume file."""
    return int(read_state(path, "pass")[0]["num_batches"])


def test_a_killed_run_goes_on_in_a_new_process_to_the_last_bit(
    slow: SimpleNamespace, unbroken: nc.MomentCollection, tmp_path: Path
) -> None:
    state, result = tmp_path / "run.state", tmp_path / "result"
    with start(state, result, 0.03) as process:
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not result.exists()
    finished = num_batches(state)
    assert 4 <= finished < slow.NUM_BATCHES
    again = subprocess.run(
        [sys.executable, str(DRIVER), str(state), str(result), "0"], capture_output=True, text=True, check=True
    )
    assert again.stdout.count("batch\n") == slow.NUM_BATCHES - finished
    assert_identical(nc.MomentCollection.load(result), unbroken)


def test_ctrl_c_leaves_a_clean_model_and_the_finished_part_on_disk(
    slow: SimpleNamespace, unbroken: nc.MomentCollection, tmp_path: Path
) -> None:
    state, result = tmp_path / "run.state", tmp_path / "result"
    with start(state, result, 0.1) as process:
        process.send_signal(signal.SIGINT)  # in the middle of a batch, which is still counted
        output, errors = process.communicate()
    assert "interrupted 0 True True\n" in output
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT
    begun = 6 + output.count("batch\n")
    assert num_batches(state) == begun < slow.NUM_BATCHES  # also the one in which Ctrl-C came
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.state"]
    assert_identical(nc.collect(slow.build(), slow.batches(), resume=state, **slow.OPTIONS), unbroken)


class Failing(nn.Module):
    """Stands in for an activation, and raises in one of its calls."""

    def __init__(self, error: type[BaseException], call: int) -> None:
        super().__init__()
        self.error, self.left = error, call

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise self.error("stop here")
        return torch.tanh(x)


@pytest.mark.parametrize("interval", [0.0, 1e9], ids=["saved every batch", "saved at the end"])
@pytest.mark.parametrize("call", [3, 20, 21], ids=["batch 2", "between layers", "batch 11"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_fails_inside_the_forward_pass_goes_on_to_the_last_bit(
    slow: SimpleNamespace,
    unbroken: nc.MomentCollection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    call: int,
    interval: float,
) -> None:
    monkeypatch.setattr(saving, "SAVE_INTERVAL", interval)
    monkeypatch.setattr(saving, "SAVE_SHARE", float("inf"))
    model, state = slow.build(), tmp_path / "run.state"
    layers = {name: name for name in ("narrow", "norm", "wide", "act", "head")}
    model.act = Failing(error, call)
    with pytest.raises(error, match="stop here"):
        nc.collect(model, slow.batches(), resume=state, layers=layers, **slow.OPTIONS)
    assert state.exists() == (interval == 0)  # what some layers have counted and others have not is not saved
    assert not state.exists() or num_batches(state) == (call - 1) // 2
    model.act = nn.Tanh()
    found = nc.collect(model, slow.batches(), resume=state, layers=layers, **slow.OPTIONS)
    for name in unbroken:
        for field in ("count", "reference", "offset_sum", "offset_square", "within_scatter"):
            assert torch.equal(getattr(found[name], field), getattr(unbroken[name], field)), (name, field)


@pytest.mark.parametrize("interval", [0.0, 1e9], ids=["saved every batch", "saved at the end"])
def test_a_batch_on_which_the_model_failed_halfway_leaves_no_trace(
    slow: SimpleNamespace,
    unbroken: nc.MomentCollection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interval: float,
) -> None:
    monkeypatch.setattr(saving, "SAVE_INTERVAL", interval)
    monkeypatch.setattr(saving, "SAVE_SHARE", float("inf"))
    state, loader, model = tmp_path / "run.state", slow.batches(), slow.build()
    loader[7] = (100 * torch.ones(5, 5), torch.zeros(5, dtype=torch.int64))
    hook = model.head.register_forward_pre_hook(fail_on_five)
    with pytest.raises(RuntimeError, match="five"):
        nc.collect(model, loader, resume=state, **slow.OPTIONS)
    hook.remove()
    assert_identical(nc.collect(model, slow.batches(), resume=state, **slow.OPTIONS), unbroken)


def fail_on_five(module: nn.Module, args: tuple[Tensor, ...]) -> None:
    """A model that cannot take a batch of five."""
    if len(args[0]) == 5:
        raise RuntimeError("no five samples")


class Noisy(nn.Module):
    """Draws random numbers in evaluation mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop, self.last = nn.Linear(5, 9), nn.BatchNorm1d(9), nn.Dropout(), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(nn.functional.dropout(self.first(x)))))


@pytest.mark.parametrize("mode", ["eval", "train", "unchanged"])
@pytest.mark.parametrize("source", ["model", "loader"])
def test_random_numbers_go_on_to_the_last_bit(
    slow: SimpleNamespace, tmp_path: Path, hand: Any, mode: str, source: str
) -> None:
    def augmented(stop: int) -> Any:
        for inputs, labels in slow.batches()[:stop]:
            yield inputs + (torch.randn(5) if source == "loader" else 0), labels
        if stop < slow.NUM_BATCHES:
            torch.randn(3)  # a loader that fails has drawn numbers for the batch that it could not make
            raise OSError("the disk is gone")

    def collect(stop: int, resume: Path | None) -> nc.MomentCollection:
        model = slow.build() if source == "loader" else hand.seeded(Noisy)
        torch.manual_seed(5)
        return nc.collect(model, augmented(stop), mode=mode, resume=resume, covariance=True)

    with torch.random.fork_rng(devices=[]):
        unbroken = collect(slow.NUM_BATCHES, None)
        with pytest.raises(OSError, match="the disk is gone"):
            collect(8, tmp_path / "state")
        assert_identical(collect(slow.NUM_BATCHES, tmp_path / "state"), unbroken)


def test_an_interrupted_loader_goes_on_to_the_last_bit(
    slow: SimpleNamespace, unbroken: nc.MomentCollection, tmp_path: Path
) -> None:
    def broken(stop: int) -> Any:
        yield from slow.batches()[:stop]
        raise OSError("the disk is gone")

    for stop in (4, 9, 9):  # the last one fails before anything new
        with pytest.raises(OSError, match="the disk is gone"):
            nc.collect(slow.build(), broken(stop), resume=tmp_path / "run.state", **slow.OPTIONS)
        assert num_batches(tmp_path / "run.state") == stop
    found = nc.collect(slow.build(), slow.batches(), resume=tmp_path / "run.state", **slow.OPTIONS)
    assert_identical(found, unbroken)


def test_a_finished_file_answers_at_once_and_goes_on_with_a_longer_loader(
    slow: SimpleNamespace, unbroken: nc.MomentCollection, tmp_path: Path
) -> None:
    model, state, calls = slow.build(), tmp_path / "run.state", []
    part = nc.collect(model, slow.batches()[:10], resume=state, **slow.OPTIONS)
    model.narrow.register_forward_pre_hook(lambda module, args: calls.append(1))
    assert_identical(nc.collect(model, slow.batches()[:10], resume=state, **slow.OPTIONS), part)
    assert not calls
    assert_identical(nc.collect(model, slow.batches(), resume=state, **slow.OPTIONS), unbroken)
    assert len(calls) == slow.NUM_BATCHES - 10


def test_a_finished_file_remembers_the_layers_that_were_left_out(slow: SimpleNamespace, tmp_path: Path) -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Unused()
    with pytest.warns(nc.CaptureWarning, match="idle"):
        first = nc.analyze(model, slow.batches(), resume=tmp_path / "state")
    again = nc.analyze(model, slow.batches(), resume=tmp_path / "state")
    assert again.attrs["skipped_layers"] == first.attrs["skipped_layers"] != "{}"


def unchanged(path: Path) -> Callable[[], bool]:
    """Whether a file has the contents and the time that it has now."""
    contents, written = path.read_bytes(), path.stat().st_mtime_ns
    return lambda: path.read_bytes() == contents and path.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("precision", {"precision": "double"}),
        ("covariance", {"covariance": False}),
        ("pool", {"pool": "flatten"}),
        ("pool", {"pool": {"head": "mean"}}),
        ("calls", {"calls": "first"}),
        ("layers", {"layers": "linear"}),
        ("mode", {"mode": "train"}),
        ("num_classes", {"num_classes": 4}),
        ("include_input", {"include_input": False}),
        ("non_finite", {"non_finite": "skip"}),
        ("output", {"output": "0"}),
    ],
)
def test_other_settings_are_refused_by_name(
    slow: SimpleNamespace, tmp_path: Path, setting: str, options: dict[str, Any]
) -> None:
    state = tmp_path / "run.state"
    nc.collect(slow.build(), slow.batches()[:3], resume=state, **slow.OPTIONS)
    same = unchanged(state)
    with pytest.raises(nc.StateFileError, match=rf"other settings \([^)]*{setting}") as caught:
        nc.collect(slow.build(), slow.batches(), resume=state, **{**slow.OPTIONS, **options})
    assert "\n" not in str(caught.value)
    assert same()


def test_other_weights_buffers_and_labels_are_refused(slow: SimpleNamespace, tmp_path: Path) -> None:
    state = tmp_path / "run.state"
    nc.collect(slow.build(), slow.batches()[:6], resume=state, **slow.OPTIONS)
    same = unchanged(state)
    trained, moved = slow.build(), slow.build()
    with torch.no_grad():
        trained.head.bias[0] += 1e-6
    moved.norm.running_mean[0] += 1e-6
    for model in (trained, moved):
        with pytest.raises(nc.StateFileError, match="weights"):
            nc.collect(model, slow.batches(), resume=state, **slow.OPTIONS)
    reverse, shorter, other = slow.batches()[::-1], slow.batches()[:5], slow.batches()
    other[5] = (other[5][0].flip(0), other[5][1])
    for loader in (reverse, shorter, reverse[:6], other):
        with pytest.raises(nc.StateFileError, match="does not repeat the batches"):
            nc.collect(slow.build(), loader, resume=state, **slow.OPTIONS)
    assert same()


def test_an_alias_of_another_place_is_refused(slow: SimpleNamespace, tmp_path: Path) -> None:
    nc.collect(slow.build(), slow.batches()[:3], resume=tmp_path / "state", layers={"f": "norm"})
    for other in ("narrow", "norm@in"):
        with pytest.raises(nc.StateFileError, match=r"other settings \(layers\)"):
            nc.collect(slow.build(), slow.batches()[:3], resume=tmp_path / "state", layers={"f": other})


def test_buffers_count_as_weights_where_no_training_moves_them(slow: SimpleNamespace, tmp_path: Path) -> None:
    model, state = slow.build(), tmp_path / "state"
    for training in (True, False):
        model.norm.train(training)
        nc.collect(model, slow.batches()[:3], resume=state.with_suffix(f".{training}"), mode="unchanged")
    model.norm.running_mean[0] += 1
    with pytest.raises(nc.StateFileError, match="weights"):
        nc.collect(model, slow.batches()[:3], resume=state.with_suffix(".False"), mode="unchanged")
    model.norm.train()
    nc.collect(model, slow.batches()[:3], resume=state.with_suffix(".True"), mode="unchanged")


def scaling() -> Callable[..., Tensor]:
    """A new function each time, as in a new process."""

    def scaled(activation: Tensor, factor: float) -> Tensor:
        return activation * factor

    return scaled


class Doubled:
    """A pooling that is an object."""

    def __call__(self, activation: Tensor) -> Tensor:
        return activation * 2


def test_a_pooling_function_is_known_again_by_what_it_computes(slow: SimpleNamespace, tmp_path: Path) -> None:
    collect = functools.partial(nc.collect, slow.build(), slow.batches()[:2])
    for _ in range(2):
        collect(resume=tmp_path / "partial", pool=functools.partial(scaling(), factor=2.0))
        collect(resume=tmp_path / "object", pool={"head": Doubled()})
        collect(resume=tmp_path / "lambda", pool=lambda activation: activation.mul(2))
        collect(resume=tmp_path / "enclosed", pool=times(2.0))
    with pytest.raises(nc.StateFileError, match="pool"):
        collect(resume=tmp_path / "partial", pool=functools.partial(scaling(), factor=3.0))
    for other in (lambda activation: activation.mul(3), lambda activation: activation.div(2)):
        with pytest.raises(nc.StateFileError, match="pool"):
            collect(resume=tmp_path / "lambda", pool=other)
    with pytest.raises(nc.StateFileError, match="pool"):
        collect(resume=tmp_path / "enclosed", pool=times(3.0))


def times(factor: float) -> Callable[[Tensor], Tensor]:
    """A function that encloses a number."""
    return lambda activation: activation * factor if activation.dtype in {torch.float32, torch.float64} else activation


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "another's", "moments", "half a header", "a folder"])
def test_a_damaged_or_foreign_file_is_refused_and_left_alone(slow: SimpleNamespace, tmp_path: Path, kind: str) -> None:
    state = tmp_path / "run.state"
    moments = nc.collect(slow.build(), slow.batches()[:3], resume=state, **slow.OPTIONS)
    contents = state.read_bytes()
    match kind:
        case "truncated":
            state.write_bytes(contents[: len(contents) // 2])
        case "text":
            state.write_text("my notes\n")
        case "empty":
            state.write_bytes(b"")
        case "another's":
            save_file({"weight": torch.zeros(3)}, state)
        case "moments":
            moments.save(state)
        case "half a header":
            save_file({}, state, metadata={"neurocollapse": '{"kind": "pass", "version": 1}'})
        case "a folder":
            state.unlink()
            state.mkdir()
    same = unchanged(state) if state.is_file() else state.is_dir
    with pytest.raises(nc.StateFileError) as caught:
        nc.collect(slow.build(), slow.batches(), resume=state, **slow.OPTIONS)
    assert str(state) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same()


def test_a_file_that_could_never_be_written_is_refused_before_the_first_batch(
    slow: SimpleNamespace, tmp_path: Path
) -> None:
    loader = iter(slow.batches())
    with pytest.raises(nc.StateFileError, match="name a folder that exists"):
        nc.collect(slow.build(), loader, resume=tmp_path / "missing" / "run.state", **slow.OPTIONS)
    assert len(list(loader)) == slow.NUM_BATCHES


def test_bad_features_do_not_reach_the_file(slow: SimpleNamespace, tmp_path: Path) -> None:
    state, loader = tmp_path / "run.state", slow.batches()
    loader[5] = (loader[5][0] * torch.nan, loader[5][1])
    with pytest.raises(nc.NonFiniteError, match="batch 5"):
        nc.collect(slow.build(), loader, resume=state, **slow.OPTIONS)
    assert not state.exists()  # too soon for a regular save, and what is in memory is spoilt


def test_more_classes_than_memory_leave_a_file_that_can_go_on(
    slow: SimpleNamespace, unbroken: nc.MomentCollection, tmp_path: Path
) -> None:
    state = tmp_path / "run.state"
    plan = 12 * 150**2 + 12 * 12**2 * 2 + 2 * 5 * 5 * 8  # roughly the square matrices; the rest grows with the classes
    options = slow.OPTIONS | {"state_bytes": 16}
    with pytest.raises(nc.MemoryPlanError, match="classes need"):
        nc.collect(slow.build(), slow.batches(), resume=state, max_memory=2 * plan + 16 * 500, **options)
    assert 0 < num_batches(state) < slow.NUM_BATCHES
    assert_identical(nc.collect(slow.build(), slow.batches(), resume=state, **options), unbroken)


def test_a_resumed_run_keeps_to_its_memory(slow: SimpleNamespace, tmp_path: Path) -> None:
    state = tmp_path / "run.state"
    nc.collect(slow.build(), slow.batches()[:2], resume=state, **slow.OPTIONS)
    with pytest.raises(nc.MemoryPlanError, match=r"GiB.*largest, in GiB: wide "):  # no new class, nothing to grow
        nc.collect(slow.build(), slow.batches()[:3], resume=state, max_memory=1000, **slow.OPTIONS)


def test_without_resume_nothing_is_written(
    slow: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nc.collect(slow.build(), slow.batches()[:2], **slow.OPTIONS)
    assert list(tmp_path.iterdir()) == []

"""Resume files of a pass on a device: asked for in the midst of it, saved three batches later, and not waited for."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.metrics import Layer
from neurocollapse.metrics.catalogue import QUANTITIES
from neurocollapse.passes import FeatureSink, MomentSink, Sink, checkpoint, finite, held, loop, run_pass, similarity
from neurocollapse.passes.checkpoint import STEPS_UNDER_WAY, Checkpoint, Progress
from neurocollapse.passes.influence import InfluenceSink
from neurocollapse.passes.joint_checkpoint import JointCheckpoint
from neurocollapse.passes.options import PassOptions
from neurocollapse.passes.outside import ScoreSink
from neurocollapse.passes.similarity import SimilaritySink
from neurocollapse.passes.totals import TotalSink
from neurocollapse.statistics import adoption, nearest
from neurocollapse.statistics.kernel_choice import VARIABLE
from neurocollapse.support import transfer
from neurocollapse.support.state import read_state
from tests.readbacks import Answer, Kept, Patient, asked_patiently, numbered

META = torch.device("meta")
GATHERING = [one for one in QUANTITIES if one.gather is not None]
Data = list[tuple[Tensor, Tensor]]


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10))


def batches(number: int = 9) -> Data:
    """Batches, some with samples that are not finite."""
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(32, 20, generator=generator), torch.randint(10, (32,), generator=generator)) for _ in range(number)
    ]
    for index in (0, 2, 5):
        data[index][0][index::7] = torch.nan
    return data


@pytest.fixture(scope="module")
def layers() -> dict[str, Layer]:
    """The layers of the network by site, after a first pass that left samples out, and the second layer none."""
    moments = nc.collect(network(), batches(), num_classes=10, non_finite="skip")
    return {
        f"{index}.0": Layer(moments[name], "equal", moments.readers.get(name), moments.record(name))
        for index, name in enumerate(moments)
    }


class AsIfOnDevice(TotalSink):
    """Never waits, on the CPU, and takes what it needs of the layers from there."""

    def start(self, *arguments: Any) -> None:
        super().start(*arguments)
        self._never_waits = True

    def _layer(self, site: str, device: torch.device) -> Layer | None:
        layer = self.sites.get(site)
        if layer is not None and layer.reader is not None and layer.reader.weight.device != device:
            self.sites[site] = replace(layer, reader=layer.reader.to(device))
        return self.sites.get(site)


class Aligned(SimilaritySink):
    """Never waits, on the CPU."""

    def start(self, *arguments: Any) -> None:
        super().start(*arguments)
        self._never_waits = True


SINKS: dict[str, Callable[[dict[str, Layer]], Sink]] = {
    "moments": lambda layers: MomentSink(non_finite="skip"),
    "moments with covariance": lambda layers: MomentSink(non_finite="skip", covariance=True),
    "moments in 8 bytes": lambda layers: MomentSink(non_finite="skip", state_bytes=8),
    "features": lambda layers: FeatureSink(300),
    "scores": lambda layers: ScoreSink(layers, skips_non_finite=True),
    "influences": lambda layers: InfluenceSink(layers, skips_non_finite=True),
    "alignment": lambda layers: Aligned(skips_non_finite=True),
    "totals": lambda layers: AsIfOnDevice(layers, GATHERING, skips_non_finite=True),
}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, dict[str, Tensor]]]:
    """What is written, as if the CPU were a device: how far the pass was, how far it is by now, and the state."""
    found: list[tuple[int, int, dict[str, Tensor]]] = []
    begin, finish = Checkpoint.__init__, Checkpoint.finish_batch
    now = [0]

    def begun(self: Checkpoint, path: Any, settings: Any, device: torch.device) -> None:
        begin(self, path, settings, META)

    def finished(self: Checkpoint, progress: Progress, sinks: Mapping[str, Sink]) -> None:
        now[0] = progress.num_batches
        finish(self, progress, sinks)

    def write(path: Path, kind: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        own = {name: tensor.clone() for name, tensor in tensors.items() if not name.startswith("random state")}
        found.append((header["num_batches"], now[0], own))

    monkeypatch.setenv(VARIABLE, "sorted")
    monkeypatch.setattr(Checkpoint, "__init__", begun)
    monkeypatch.setattr(Checkpoint, "finish_batch", finished)
    monkeypatch.setattr(checkpoint, "write_state", write)
    monkeypatch.setattr(checkpoint, "SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(checkpoint, "SAVE_SHARE", math.inf)
    return found


@pytest.mark.parametrize("kind", SINKS)
def test_what_is_saved_later_is_the_state_behind_the_batch_to_the_last_bit(
    kind: str, layers: dict[str, Layer], written: list[tuple[int, int, dict[str, Tensor]]], tmp_path: Path
) -> None:
    model, data, options = network(), batches(), {"num_classes": 10, "progress": False}
    run_pass(model, data, {"sink": SINKS[kind](dict(layers))}, resume=tmp_path / "file", **options)
    later = [one for one in written if one[0] < one[1]]
    assert {now - then for then, now, _ in later} == {STEPS_UNDER_WAY}
    assert len({then for then, _, _ in later}) >= 2
    for then, _, found in later:
        sink = SINKS[kind](dict(layers))
        sink.result = lambda: None  # type: ignore[method-assign]
        run_pass(model, data[:then], {"sink": sink}, **options)
        expected = {f"sink/{name}": tensor for name, tensor in sink.state().items()}
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name].nan_to_num(7.0), tensor.nan_to_num(7.0)), name


@pytest.mark.parametrize("absent", [1, 2, 3])
@pytest.mark.parametrize("names", [["nc4"], ["nc1"], ["nc1", "nc4", "nc3"]], ids=str)
def test_layers_that_no_batch_has_met_since_are_saved_with_what_they_asked_for(
    names: list[str], absent: int, layers: dict[str, Layer]
) -> None:
    quantities = [one for one in GATHERING if one.name in names]
    data = batches()

    def sink_after(number: int, *, ask_behind: int | None = None) -> tuple[TotalSink, Any]:
        sink = AsIfOnDevice(dict(layers), quantities, skips_non_finite=True)
        sink.start({}, torch.device("cpu"))
        asked = None
        for index, (inputs, labels) in enumerate(data[:number]):
            batch = nc.statistics.ClassBatch(labels, 10, number=index)
            sink.begin(batch)
            for site in ("0.0", "1.0", "2.0"):
                if ask_behind is None or site == "0.0" or not ask_behind < index <= ask_behind + absent:
                    sink.add(site, model_to(site, inputs), batch)
            sink.end(inputs[:, :10])
            if index == ask_behind:
                asked = sink.snapshot()
        return sink, asked

    _, asked = sink_after(2 + STEPS_UNDER_WAY, ask_behind=1)
    expected, found = sink_after(2)[0].state(), asked()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].nan_to_num(7.0), one.nan_to_num(7.0)) for name, one in expected.items())


IDLE = torch.full((32,), 11)
"""Labels of which none is among the classes that are meant."""


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize("pattern", ["ciiic", "cciiiciiic"], ids=str)
def test_batches_that_do_not_count_lose_nothing(
    kind: str,
    pattern: str,
    layers: dict[str, Layer],
    written: list[tuple[int, int, dict[str, Tensor]]],
    tmp_path: Path,
) -> None:
    data = [(one[0], one[1] if count == "c" else IDLE) for one, count in zip(batches(10), pattern, strict=False)]
    options: dict[str, Any] = {"classes": list(range(10)), "progress": False}
    run_pass(network(), data, {"sink": SINKS[kind](dict(layers))}, resume=tmp_path / "file", **options)
    later = [one for one in written if one[0] < one[1]]
    assert later
    for then, _, found in later:
        sink = SINKS[kind](dict(layers))
        sink.result = lambda: None  # type: ignore[method-assign]
        run_pass(network(), data[:then], {"sink": sink}, **options)
        expected = {f"sink/{name}": tensor for name, tensor in sink.state().items()}
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name].nan_to_num(7.0), one.nan_to_num(7.0)) for name, one in expected.items())


def test_features_that_are_not_finite_are_never_saved(
    written: list[tuple[int, int, dict[str, Tensor]]], tmp_path: Path
) -> None:
    data = [(inputs.nan_to_num(0.0), labels) for inputs, labels in batches(9)]
    data[3][0][5] = torch.nan
    data[4:] = [(inputs, IDLE) for inputs, _ in data[4:]]
    with pytest.raises(nc.NonFiniteError, match="layer '0': the features of batch 3"):
        run_pass(
            network(),
            data,
            {"moments": MomentSink()},
            classes=list(range(10)),
            resume=tmp_path / "file",
            progress=False,
        )
    assert [then for then, _, _ in written] == [1]


class Extended(MomentSink):
    """Adds to the state, and knows nothing of snapshots."""

    rows = 0

    def end(self, logits: Tensor | None) -> None:
        super().end(logits)
        self.rows += 1

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"rows/rows": torch.tensor(self.rows)}


def test_a_sink_that_extends_the_state_alone_is_saved_whole(
    written: list[tuple[int, int, dict[str, Tensor]]], tmp_path: Path
) -> None:
    sink = Extended(non_finite="skip")
    run_pass(network(), batches(), {"sink": sink}, resume=tmp_path / "file", num_classes=10, progress=False)
    assert {int(state["sink/rows/rows"]) - then for then, _, state in written} == {0}
    assert len(written) > 2


def failing(at: int) -> nn.Sequential:
    """A network that fails in the middle of a batch."""
    model, calls = network(), list[int]()

    def fail(module: nn.Module, args: Any) -> None:
        calls.append(1)
        if len(calls) == at:
            raise RuntimeError("stop here")

    model[2].register_forward_pre_hook(fail)
    return model


NEAREST = [one for one in GATHERING if one.name == "nc4"]
ASKED_FOR: dict[str, Callable[[dict[str, Layer]], Sink]] = SINKS | {
    "named totals": lambda layers: AsIfOnDevice(layers, NEAREST, named=frozenset({"nc4"}), skips_non_finite=True)
}


@pytest.mark.parametrize("kind", ASKED_FOR)
@pytest.mark.parametrize("at", [5, 6, 7])
def test_a_pass_that_fails_in_the_middle_of_a_batch_saves_what_it_had_asked_for(
    at: int, kind: str, layers: dict[str, Layer], written: list[tuple[int, int, dict[str, Tensor]]], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"num_classes": 10, "progress": False}
    with pytest.raises(RuntimeError, match="stop here"):
        run_pass(failing(at), batches(), {"sink": ASKED_FOR[kind](dict(layers))}, resume=tmp_path / "file", **options)
    assert [then for then, _, _ in written] == [1, 4]
    sink = ASKED_FOR[kind](dict(layers))
    sink.result = lambda: None  # type: ignore[method-assign]
    run_pass(network(), batches()[:4], {"sink": sink}, **options)
    expected, found = {f"sink/{name}": tensor for name, tensor in sink.state().items()}, written[-1][2]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].nan_to_num(7.0), one.nan_to_num(7.0)) for name, one in expected.items())


def test_an_error_is_that_of_the_pass_also_where_what_was_asked_for_cannot_be_had(
    written: list[tuple[int, int, dict[str, Tensor]]], tmp_path: Path
) -> None:
    class Broken(MomentSink):
        def snapshot(self) -> Any:
            return lambda: 1 / 0

        def state(self) -> Any:
            raise AssertionError

    with pytest.raises(RuntimeError, match="stop here"):
        run_pass(failing(3), batches(), {"sink": Broken(non_finite="skip")}, resume=tmp_path / "file", num_classes=10)
    assert not written


def test_a_pass_whose_last_batch_is_refused_saves_what_it_had_asked_for(
    written: list[tuple[int, int, dict[str, Tensor]]], tmp_path: Path
) -> None:
    data = [(inputs.nan_to_num(0.0), labels) for inputs, labels in batches(6)]
    data[5][0][5] = torch.nan
    with pytest.raises(nc.NonFiniteError, match="layer '0': the features of batch 5"):
        run_pass(network(), data, {"moments": MomentSink()}, resume=tmp_path / "file", num_classes=10, progress=False)
    assert [then for then, _, _ in written] == [1, 4]


class Fading(nn.Module):
    """Its second layer is not finite in one batch, and not there in the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.number = nn.Linear(20, 20), nn.Linear(20, 20), 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.number += 1
        inputs = self.first(inputs)
        if self.number <= 4:
            self.second(inputs * (torch.nan if self.number == 4 else 1.0))
        return inputs


def test_a_layer_that_is_left_out_is_not_looked_at_in_a_file(
    written: list[tuple[int, int, dict[str, Tensor]]], tmp_path: Path
) -> None:
    data = [(inputs.nan_to_num(0.0), labels) for inputs, labels in batches(9)]
    with pytest.warns(nc.CaptureWarning, match="second"):
        found = run_pass(Fading(), data, {"moments": MomentSink()}, resume=tmp_path / "file", num_classes=10)["moments"]
    assert list(found) == ["first"]
    assert [then for then, _, _ in written] == [1, 4, 9]


class Timed:
    """Extends the snapshot alone, whatever it is of."""

    def snapshot(self) -> Any:
        return super().snapshot()  # type: ignore[misc]


class TimedAndExtended(Timed, Extended):
    """Both."""


class StandIn:
    """Stands for a sink, of which it is no subclass."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sink, name)


def changed() -> Sink:
    """A sink whose state is extended where it is."""
    sink: Any = MomentSink(non_finite="skip")
    known = sink.state
    sink.state = lambda: known() | {"rows/rows": torch.zeros(1)}
    return sink


@pytest.mark.parametrize(
    "make",
    [
        lambda: TimedAndExtended(non_finite="skip"),
        lambda: StandIn(Extended(non_finite="skip")),
        changed,
    ],
    ids=["mixin", "stand-in", "instance"],
)
def test_no_snapshot_hides_a_state(
    make: Callable[[], Sink], written: list[tuple[int, int, dict[str, Tensor]]], tmp_path: Path
) -> None:
    sink = make()
    run_pass(network(), batches(), {"sink": sink}, resume=tmp_path / "file", num_classes=10, progress=False)
    assert all("sink/rows/rows" in state for _, _, state in written)


@pytest.mark.parametrize("kind", ["a list", "own loader", "label_fn"])
def test_with_a_file_nothing_is_taken_ahead_that_may_draw_random_numbers(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Noted(loop.ReadAhead):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            made.append(arguments)
            super().__init__(*arguments, **options)

    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(PassOptions, "device_of", lambda options, model: META)
    monkeypatch.setattr(loop, "weight_digest", lambda *arguments: 0)
    monkeypatch.setattr(loop, "ReadAhead", Noted)
    monkeypatch.setattr(finite, "Readback", Answer)
    monkeypatch.setattr(adoption, "Readback", Kept)
    monkeypatch.setattr(MomentSink, "result", lambda sink: None)
    monkeypatch.setattr(Checkpoint, "_write_asked", lambda *arguments: None)
    loader: Any = iter(batches()) if kind == "own loader" else batches()
    function = (lambda batch: batch[1]) if kind == "label_fn" else None
    for resume in (None, tmp_path / "file"):
        made.clear()
        run_pass(
            network().to(META), loader, {"moments": MomentSink()}, resume=resume, label_fn=function, num_classes=10
        )
        assert len(made) == (resume is None or kind == "a list")
        loader = iter(batches()) if kind == "own loader" else batches()


class Slow(Sink):
    """Takes its time to say what it has."""

    def add(self, *arguments: Any) -> None:
        return

    def state(self) -> dict[str, Tensor]:
        clock[0] += 1.0
        return {"nothing": torch.zeros(1)}

    def result(self) -> None:
        return


clock = [0.0]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_time_of_saving_is_that_of_asking_too(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoint, "write_state", lambda *arguments: None)
    file = Checkpoint(tmp_path / "file", {}, torch.device(device))
    for step in range(1, 2 + STEPS_UNDER_WAY):
        clock[0] += 2.0
        file.finish_batch(Progress(num_steps=step), {"slow": Slow()})
        if device == "cpu":
            break
    assert file._cost == 1.0


class Alone:
    """Several processes that are one, and perhaps another on a device."""

    def __init__(self, *, is_late: bool = False) -> None:
        self.is_late = is_late

    def reduced_number(self, number: int, operation: Any) -> int:
        return max(number, int(self.is_late))

    def numbers_of_all(self, number: int) -> list[int]:
        return [number]


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_processes_in_lockstep_save_what_was_asked_for_and_keep_the_file_before(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(checkpoint, "SAVE_SHARE", math.inf)
    path, sink, steps = tmp_path / "file", MomentSink(), list[tuple[int, int]]()
    alone: Any = Alone(is_late=device == "cpu")
    file = JointCheckpoint(path, {}, torch.device(device), alone)
    file.load(Progress(), {"sink": sink})
    for step in range(1, 9):
        file.finish_batch(Progress(num_steps=step), {"sink": sink})
        if path.exists():
            steps.append((step, read_state(path, "pass")[0]["num_steps"]))
    assert steps == [(4, 1), (5, 1), (6, 1), (7, 4), (8, 4)]
    assert read_state(tmp_path / "file.previous", "pass")[0]["num_steps"] == 1
    for _ in range(2):  # the second time there is nothing new
        file.save(Progress(num_steps=8), {"sink": sink})
        assert read_state(path, "pass")[0]["num_steps"] == 8
        assert read_state(tmp_path / "file.previous", "pass")[0]["num_steps"] == 4


def model_to(site: str, inputs: Tensor) -> Tensor:
    """The features of a layer of the network."""
    with torch.no_grad():
        return network()[: int(site[0]) + 1](inputs)


@pytest.mark.parametrize("kind", SINKS)
def test_a_file_is_not_waited_for(
    kind: str, layers: dict[str, Layer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked_patiently(monkeypatch)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(PassOptions, "device_of", lambda options, model: META)
    monkeypatch.setattr(loop, "weight_digest", lambda *arguments: 0)  # before the pass
    monkeypatch.setattr(checkpoint, "SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(checkpoint, "SAVE_SHARE", math.inf)
    for module in (finite, nearest, held, similarity):
        monkeypatch.setattr(module, "Readback", Answer)
    monkeypatch.setattr(adoption, "Readback", Kept)
    monkeypatch.setattr(transfer, "Readback", Patient)
    files: list[int] = []
    monkeypatch.setattr(checkpoint, "write_state", lambda path, kind, header, tensors: files.append(Patient.sent[-1]))
    sink = SINKS[kind](dict(layers))
    monkeypatch.setattr(sink, "result", lambda: None)
    monkeypatch.setattr(TotalSink, "_refuse_not_finite", lambda *arguments: None)

    def ended() -> Iterator[tuple[Tensor, Tensor]]:
        yield from numbered(batches())
        monkeypatch.setattr(Checkpoint, "save", lambda *arguments: None)  # behind the last batch it may wait

    run_pass(network().to(META), ended(), {"sink": sink}, resume=tmp_path / "file", num_classes=10, progress=False)
    assert files == [3, 6]
    assert all(now > asked for asked, now in Patient.looked_at if now < 8)

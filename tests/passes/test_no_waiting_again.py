"""What is not waited for beside class moments: later passes over the loader.

The meta device stands for a GPU: it has no numbers, so that reading one raises.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.metrics import Layer, Rows
from neurocollapse.metrics.catalogue import QUANTITIES
from neurocollapse.metrics.layer import _nearest_mean
from neurocollapse.passes import FeatureSink, MomentSink, Sink, finite, held, rehearsal, run_pass, second, similarity
from neurocollapse.passes.influence import InfluenceSink
from neurocollapse.passes.options import PassOptions
from neurocollapse.passes.outside import ScoreSink
from neurocollapse.passes.similarity import SimilaritySink
from neurocollapse.passes.totals import TotalSink, shared_bytes
from neurocollapse.statistics import ClassBatch, MemoryPlanError, Reader, adoption, nearest
from neurocollapse.statistics.kernel_choice import VARIABLE
from neurocollapse.statistics.nearest import NearestMean
from neurocollapse.support import transfer
from tests.readbacks import Answer, Kept, Patient, asked_patiently, numbered

NEAREST = {"nc4", "ncm_error", "effective_depth"}
"""Quantities that look for the nearest class mean: which rows are too close to tell is known one batch late."""
GATHERED = {one.gather: one.name for one in QUANTITIES if one.gather is not None}
CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the device, whatever the environment says."""
    monkeypatch.delenv(VARIABLE, raising=False)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = [layer for _ in range(3) for layer in (nn.Linear(20, 20), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(20, 10))


def batches(number: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(32, 20, generator=generator), torch.randint(10, (32,), generator=generator)) for _ in range(number)
    ]


@pytest.fixture(scope="module")
def layers() -> dict[str, Layer]:
    """The layers of the network by site, after a first pass on the CPU."""
    moments = nc.collect(network(), batches(), num_classes=10)
    found = {name: Layer(moments[name], "equal", moments.readers.get(name), moments.record(name)) for name in moments}
    head = network()[-1]
    found["5"] = replace(found["5"], reader=Reader(head.weight.detach().double(), head.bias.detach().double()))
    return {f"{index}.0": layer for index, layer in enumerate(found.values())}


@pytest.fixture
def on_meta(layers: dict[str, Layer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a pass run on the meta device."""
    monkeypatch.setattr(PassOptions, "device_of", lambda options, model: META)
    for module in (transfer, finite, nearest, held):
        monkeypatch.setattr(module, "Readback", Answer)
    monkeypatch.setattr(adoption, "Readback", Kept)


class WithoutResult(TotalSink):
    """Takes what it needs of the layers from the CPU, where there are numbers, and has none to give at the end."""

    def _layer(self, site: str, device: torch.device) -> Layer | None:
        layer = self.sites.get(site)
        if layer is not None and layer.reader is not None and layer.reader.weight.device != device:
            self.sites[site] = replace(layer, reader=layer.reader.to(device))
        return self.sites.get(site)

    def result(self) -> Any:
        return self.totals


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("skips", [False, True], ids=["all", "finite ones"])
@pytest.mark.parametrize("name", GATHERED.values())
def test_what_quantities_add_up_is_not_waited_for(name: str, skips: bool, layers: dict[str, Layer]) -> None:
    quantity = next(one for one in QUANTITIES if one.name == name)
    sink = WithoutResult(layers, [quantity], skips_non_finite=skips)
    assert run_pass(network().to(META), batches(), {"totals": sink}, num_classes=10)["totals"]


class Close(Answer):
    """Says that two rows are too close to tell, with five candidates."""

    def numbers(self) -> Tensor:
        return torch.tensor([2, 5])


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("name", sorted(NEAREST))
def test_rows_too_close_to_tell_are_decided_one_batch_late(
    name: str, layers: dict[str, Layer], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_patiently(monkeypatch)

    class PatientlyClose(Patient, Close):
        pass

    monkeypatch.setattr(nearest, "Readback", PatientlyClose)
    sink = WithoutResult(layers, [one for one in QUANTITIES if one.name == name])
    run_pass(network().to(META), numbered(batches()), {"totals": sink}, num_classes=10)
    assert {batch for batch, _ in Patient.looked_at} == set(range(5))
    assert all(now == batch + 1 for batch, now in Patient.looked_at)
    sink.state()
    assert Patient.looked_at[-1] == (5, 5)


class AsIfOnDevice(TotalSink):
    """Never waits, on the CPU."""

    def start(self, *arguments: Any) -> None:
        super().start(*arguments)
        self._never_waits = True


def test_late_sums_are_those_on_the_cpu(layers: dict[str, Layer], monkeypatch: pytest.MonkeyPatch) -> None:
    quantities = [one for one in QUANTITIES if one.name in NEAREST]

    def sums(kind: type[TotalSink]) -> dict[str, dict[Any, Tensor]]:
        fresh = {site: replace(layer) for site, layer in layers.items()}
        return run_pass(network(), batches(), {"totals": kind(fresh, quantities)}, num_classes=10)["totals"]

    expected = sums(TotalSink)
    monkeypatch.setattr(Rows, "nearest_later", _asked_as_of_a_device)
    monkeypatch.setattr(NearestMean, "__call__", None)  # it is not what gives the result
    found = sums(AsIfOnDevice)
    assert found.keys() == expected.keys()
    for name, row in expected.items():
        assert len(row) == 2
        assert all(torch.equal(found[name][gather], total) for gather, total in row.items())


class ThirdNot(Patient):
    """Says that one row of a batch is not finite."""

    def numbers(self) -> Tensor:
        return torch.arange(len(super().numbers())) != 3


def leaving_out(layers: dict[str, Layer]) -> dict[str, Layer]:
    """The layers, as if the first pass had left samples out."""
    return {site: replace(one, record=replace(one.record, num_skipped=1)) for site, one in layers.items()}


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("name", GATHERED.values())
def test_rows_that_may_be_left_out_count_one_batch_late(
    name: str, layers: dict[str, Layer], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_patiently(monkeypatch)
    monkeypatch.setattr(held, "Readback", ThirdNot)
    sink = WithoutResult(leaving_out(layers), [one for one in QUANTITIES if one.name == name], skips_non_finite=True)
    run_pass(network().to(META), numbered(batches()), {"totals": sink}, num_classes=10)
    assert {batch for batch, _ in Patient.looked_at} == set(range(5))
    assert all(now == batch + 1 for batch, now in Patient.looked_at)
    sink.state()
    assert Patient.looked_at[-1] == (5, 5)
    assert sink.totals


class Interrupted(AsIfOnDevice):
    """Gives its state behind every batch."""

    def end(self, logits: Tensor | None) -> None:
        super().end(logits)
        self.state()


class Overwriting(nn.Linear):
    """Gives what it gives in the same memory every time."""

    def forward(self, inputs: Tensor) -> Tensor:
        self.made = self.__dict__.get("made", torch.empty(32, 10))
        return self.made.copy_(super().forward(inputs))


class Averaging(nn.Module):
    """A layer with a row for each position, and logits for each sample."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.hidden, self.head = nn.Linear(20, 20), Overwriting(20, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.hidden(inputs).mean(dim=1))


@pytest.mark.parametrize("kind", ["samples", "positions"])
@pytest.mark.parametrize("sink_of", [AsIfOnDevice, Interrupted])
def test_late_sums_of_the_rows_that_are_left_are_the_same_to_the_last_bit(kind: str, sink_of: Any) -> None:
    model, options, data = network(), {"num_classes": 10}, batches()
    if kind == "positions":
        model, options = Averaging(), {"num_classes": 10, "pool": "tokens", "layers": ["hidden", "head"]}
        generator = torch.Generator().manual_seed(1)
        data = [(torch.randn(32, 6, 20, generator=generator), labels) for _, labels in data]
    for index in (0, 2, 5):
        data[index][0][index::7] = torch.nan
    moments = nc.collect(model, data, non_finite="skip", **options)
    records = {name: moments.record(name) for name in moments}
    assert all(record.num_skipped for record in records.values())
    given = {
        f"{index}.0": Layer(moments[name], "equal", moments.readers.get(name), record)
        for index, (name, record) in enumerate(records.items())
    }

    def sums(make: Any) -> dict[str, dict[Any, Tensor]]:
        sink = make(dict(given), [one for one in QUANTITIES if one.gather is not None], skips_non_finite=True)
        return run_pass(model, data, {"totals": sink}, **options)["totals"]

    expected, found = sums(TotalSink), sums(sink_of)
    assert all(len(row) >= 4 for row in expected.values())
    for name, row in expected.items():
        assert row.keys() == found[name].keys()
        assert all(torch.equal(found[name][gather].nan_to_num(7.0), one.nan_to_num(7.0)) for gather, one in row.items())


def test_what_was_held_back_counts_when_another_batch_has_ended_or_not_at_all(layers: dict[str, Layer]) -> None:
    quantity = next(one for one in QUANTITIES if one.name == "nc1")
    sink = AsIfOnDevice(leaving_out(layers), [quantity], skips_non_finite=True)
    sink.start({}, torch.device("cpu"))
    for sites in (("0.0", "1.0", "2.0"), ("1.0",)):
        batch = ClassBatch(torch.arange(10), 10)
        sink.begin(batch)
        for site in sites:
            sink.add(site, torch.ones(10, 20), batch)
        if len(sites) == 3:
            assert not sink.totals
            sink.drop("2.0")
        sink.end(None)
    assert list(sink._held) == ["1.0"]  # which may come again; the first is let go
    found, gather = sink.state(), sink.gathers[0]
    assert found.keys() == {"0.0/0", "1.0/0"}
    for site, times in (("0.0", 1), ("1.0", 2)):
        expected: Any = gather(layers[site], Rows(torch.ones(10, 20), torch.arange(10)))
        torch.testing.assert_close(found[f"{site}/0"], times * expected)


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("kind", [*GATHERED.values(), "influence", "scores"])
@pytest.mark.parametrize("devices", ["one device", "two devices"])
def test_a_first_batch_places_nothing_of_a_layer(
    kind: str, devices: str, layers: dict[str, Layer], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, placed = {site: replace(layer) for site, layer in layers.items()}, Layer.placed
    model = network().to(META)
    if devices == "two devices":
        model = on_two_devices()
        fresh = {site: replace(layer, device=CPU if site > "4" else META) for site, layer in layers.items()}
        monkeypatch.setattr(rehearsal, "CPU", None)
    started: list[int] = []

    def watched(layer: Layer, make: Any, like: Tensor) -> Any:
        assert not started or (make, like.device, like.dtype) in layer._placed
        return placed(layer, make, like)

    monkeypatch.setattr(Layer, "placed", watched)
    quantities = [one for one in QUANTITIES if one.name == kind]
    sinks: dict[str, type[Sink]] = {"influence": InfluenceSink, "scores": ScoreSink}
    sink = sinks[kind](fresh) if kind in sinks else WithoutResult(fresh, quantities)  # type: ignore[call-arg]
    monkeypatch.setattr(type(sink), "result", lambda sink: None)

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for index, batch in enumerate(batches(2)):
            started.append(index)
            yield batch

    run_pass(model, loader(), {"sink": sink}, num_classes=10)
    assert len(started) == 2


def on_two_devices() -> nn.Sequential:
    """The network on the meta device, but for its last layers, which are on the CPU: it stands for another GPU."""
    model = network()
    model[:4].to(META)
    model[4].register_forward_pre_hook(lambda module, args: (torch.zeros(args[0].shape),))
    return model


@pytest.mark.usefixtures("on_meta")
def test_a_second_pass_knows_where_the_features_of_a_layer_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sink = MomentSink()
    monkeypatch.setattr(MomentSink, "result", lambda sink: sink.devices)
    found = run_pass(on_two_devices(), batches(2), {"moments": sink}, num_classes=10)["moments"]
    assert [found[f"{index}.0"] for index in range(7)] == [META] * 4 + [CPU] * 3
    monkeypatch.undo()
    known = list[torch.device | None]()

    class Noted(TotalSink):
        def __init__(self, sites: Any, *arguments: Any, **options: Any) -> None:
            known.extend(layer.device for layer in sites.values())
            super().__init__(sites, *arguments, **options)

    monkeypatch.setattr(second, "TotalSink", Noted)
    nc.analyze(network(), batches(), quantities=["nc4"], num_classes=10)
    assert known == [CPU] * 7
    del known[:]
    for _ in range(2):  # the second time the first pass is in its file
        nc.analyze(network(), batches(), quantities=["nc4"], num_classes=10, resume=tmp_path / "file")
        (tmp_path / "file.second").unlink()
    assert known == [CPU] * 14


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("skips", [False, True])
def test_what_waits_for_the_next_batch_is_in_the_memory_plan(skips: bool, layers: dict[str, Layer]) -> None:
    one = {"0.0": leaving_out(layers)["0.0"]}
    name, waits = ("dormant_share", 32 * 20 * 4) if skips else ("ncm_error", 32 * (20 * 4 + 10))
    needed = shared_bytes(one["0.0"].moments) + waits
    quantity = [quantity for quantity in QUANTITIES if quantity.name == name]

    def run(limit: int) -> None:
        sink = WithoutResult(one, quantity, skips_non_finite=skips, max_memory=limit)
        run_pass(network().to(META), batches(1), {"sink": sink}, num_classes=10)

    with pytest.raises(MemoryPlanError, match="of 1 layers and 10 classes need"):
        run(needed - 1)
    run(needed)


class PatientlyFinite(Patient):
    """Says that all samples are finite."""

    def numbers(self) -> Tensor:
        return super().numbers() == 0


@pytest.mark.usefixtures("on_meta")
def test_batches_of_which_samples_may_be_left_out_are_compared_one_batch_late(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_patiently(monkeypatch)
    monkeypatch.setattr(similarity, "Readback", PatientlyFinite)
    monkeypatch.setattr(SimilaritySink, "result", lambda sink: sink._settle())
    sink = SimilaritySink(skips_non_finite=True)
    run_pass(network().to(META), numbered(batches()), {"sink": sink}, num_classes=10)
    assert Patient.looked_at == [*((batch, batch + 1) for batch in range(5)), (5, 5)]
    assert sink.num_batches == 6


def test_late_alignment_is_the_same_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = batches()
    for index in (0, 2, 5):
        data[index][0][index::7] = torch.nan
    data[3][0][2:] = torch.nan  # two are too few

    class Late(SimilaritySink):
        def start(self, *arguments: Any) -> None:
            super().start(*arguments)
            self._never_waits = True

    expected, found = (
        run_pass(network(), data, {"sink": make(skips_non_finite=True)}, num_classes=10)["sink"]
        for make in (SimilaritySink, Late)
    )
    assert all((found[name] == expected[name]).all() for name in ("cka", "cka_error"))


def test_what_a_layer_that_is_left_out_has_asked_for_is_forgotten(layers: dict[str, Layer]) -> None:
    quantity = next(one for one in QUANTITIES if one.name == "ncm_error")
    sink = TotalSink(layers, [quantity])
    sink.start({}, torch.device("cpu"))
    sink._never_waits = True
    batch = ClassBatch(torch.arange(10), 10)
    sink.begin(batch)
    for site in ("0.0", "1.0"):
        sink.add(site, torch.ones(10, 20), batch)
    sink.drop("0.0")
    assert list(sink.state()) == ["1.0/0"]
    assert not sink.result()["0"]


def _asked_as_of_a_device(rows: Rows, layer: Layer) -> Any:
    find, present = layer.placed(_nearest_mean, rows.features)
    answer = find.later(rows.features)
    return lambda: present[answer()]


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("skips", [False, True], ids=["all", "finite ones"])
def test_influences_are_not_waited_for(skips: bool, layers: dict[str, Layer]) -> None:
    class Influences(InfluenceSink):
        def result(self) -> Any:
            return self._sums

    sink = Influences(layers, skips_non_finite=skips)
    assert run_pass(network().to(META), batches(), {"sums": sink}, num_classes=10)["sums"]


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize(
    "make", [lambda layers: FeatureSink(180), lambda layers: ScoreSink(layers, skips_non_finite=True)]
)
def test_kept_features_and_scores_arrive_one_batch_late(
    make: Any, layers: dict[str, Layer], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_patiently(monkeypatch)
    monkeypatch.setattr(transfer, "Readback", Patient)
    sink: Sink = make(layers)
    monkeypatch.setattr(type(sink), "result", lambda sink: sink._arrivals.settle())
    run_pass(network().to(META), numbered(batches()), {"sink": sink}, num_classes=10)
    assert {batch for batch, _ in Patient.looked_at} == set(range(6))
    assert all(now == min(batch + 1, 5) for batch, now in Patient.looked_at)


def test_features_that_are_not_finite_in_the_second_pass_alone_are_refused(layers: dict[str, Layer]) -> None:
    class NeverWaiting(TotalSink):
        def start(self, *arguments: Any) -> None:
            super().start(*arguments)
            self._never_waits = True

    quantity = next(one for one in QUANTITIES if one.name == "nc1")
    sink = NeverWaiting(layers, [quantity], skips_non_finite=True)
    sink.start({}, torch.device("cpu"))
    labels = torch.arange(10)
    sink.begin(ClassBatch(labels, 10))
    features = torch.ones(10, 20)
    sink.add("0.0", features, ClassBatch(labels, 10))
    assert sink.state()
    features[3, 2] = torch.nan
    sink.add("0.0", features, ClassBatch(labels, 10))
    with pytest.raises(
        nc.NonFiniteError, match="layer '0': features are NaN or infinite in the second pass, but were not"
    ):
        sink.result()


def test_rows_that_the_first_pass_left_out_are_left_out_again(layers: dict[str, Layer]) -> None:
    quantity = next(one for one in QUANTITIES if one.name == "nc1")
    skipped = {site: replace(one, record=replace(one.record, num_skipped=1)) for site, one in layers.items()}
    sink = TotalSink(skipped, [quantity], skips_non_finite=True)
    sink.start({}, torch.device("cpu"))
    features, labels = torch.randn(10, 20, generator=torch.Generator().manual_seed(0)), torch.arange(10)
    features[3] = torch.inf
    sink.begin(ClassBatch(labels, 10))
    sink._never_waits = True
    sink.add("0.0", features, ClassBatch(labels, 10))
    keep, gather = labels != 3, sink.gathers[0]
    expected = gather(layers["0.0"], Rows(features[keep], labels[keep]))
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(sink.result()["0"][gather], expected)

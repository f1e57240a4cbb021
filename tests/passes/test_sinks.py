"""Any number of sinks run in one pass, a user's own among them, and an interrupted pass continues to the last bit."""

import runpy
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.passes import FeatureSink, MomentSink, Sink, run_pass
from neurocollapse.statistics import ClassBatch, adoption
from neurocollapse.support.state import read_state
from tests.readbacks import Kept

DRIVER = Path(__file__).with_name("norm_histogram.py")
driver = SimpleNamespace(**runpy.run_path(str(DRIVER)))


def run(loader: Any, **options: Any) -> dict[str, list[float]]:
    """What the histogram finds in train mode, where dropout draws random numbers."""
    torch.manual_seed(7)
    sinks = {"norms": driver.NormHistogram()}
    return run_pass(driver.build(), loader, sinks, mode="train", **options)["norms"]


def stopping(error: type[BaseException], stop: int) -> Iterator[Any]:
    """A loader that fails after some batches."""
    yield from driver.batches()[:stop]
    raise error("stop here")


def test_a_users_sink_counts_what_a_naive_loop_counts() -> None:
    model, norms = driver.build().eval(), []
    model[3].register_forward_hook(lambda module, args, output: norms.append(output.norm(dim=1)))
    found = run_pass(model, driver.batches(), {"norms": driver.NormHistogram(4, 8.0)})["norms"]
    every = torch.cat(norms)
    assert found["3"] == [int(((every >= low) & (every < low + 2)).sum()) for low in (0, 2, 4, 6)]
    assert list(found) == ["0", "1#0", "2", "3", "1#1"]


def test_ctrl_c_in_the_loader_loses_nothing(tmp_path: Path) -> None:
    unbroken = run(driver.batches())
    for stop in (5, 5, 17):  # the second one stops before anything new
        with pytest.raises(KeyboardInterrupt, match="stop here"):
            run(stopping(KeyboardInterrupt, stop), resume=tmp_path / "state")
    assert run(driver.batches(), resume=tmp_path / "state") == unbroken


def test_a_killed_pass_continues_in_a_new_process(tmp_path: Path) -> None:
    command = [sys.executable, str(DRIVER), str(tmp_path / "state")]
    with subprocess.Popen([*command, "0.03"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(6)] == ["batch\n"] * 6
        process.send_signal(signal.SIGKILL)
    header, tensors = read_state(tmp_path / "state", "pass")
    assert 4 <= header["num_batches"] < driver.NUM_BATCHES
    assert header["settings"]["pass"] == "pass"
    assert {name for name in tensors if name.startswith("norms/")} == {f"norms/{i}.{j}" for i, j in SITES}
    again = subprocess.run([*command, "0"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert again.count("batch") == driver.NUM_BATCHES - header["num_batches"]
    assert again[-1] == str(run(driver.batches()))


SITES = [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0)]
"""Taps of the driver's model, and their calls."""


def test_sinks_in_one_pass_give_what_each_gives_alone(tmp_path: Path) -> None:
    def make() -> dict[str, Sink]:
        return {"moments": MomentSink(covariance=True), "norms": driver.NormHistogram(), "kept": FeatureSink(100)}

    model, loader = driver.build().eval(), driver.batches()
    alone = {name: run_pass(model, loader, {name: sink})[name] for name, sink in make().items()}
    for stop in (3, 9):
        with pytest.raises(OSError, match="stop here"):
            run_pass(model, stopping(OSError, stop), make(), resume=tmp_path / "state")
    together = run_pass(model, loader, make(), resume=tmp_path / "state")
    assert together["norms"] == alone["norms"]
    for name, moments in alone["moments"].items():
        assert torch.equal(together["moments"][name].offset_sum, moments.offset_sum)
        assert torch.equal(together["moments"][name].within_scatter, moments.within_scatter)
    kept = together["kept"]
    assert torch.equal(kept.labels, torch.cat([labels for _, labels in loader])[:100])
    assert all(torch.equal(kept.features[name], alone["kept"].features[name]) for name in alone["kept"].features)
    assert all(len(rows) == 100 for rows in kept.samples.values())


def test_a_pass_ends_when_all_sinks_are_full() -> None:
    calls: list[int] = []
    model = driver.build()
    model[0].register_forward_hook(lambda *_: calls.append(1))
    run_pass(model, driver.batches(), {"few": FeatureSink(14), "more": FeatureSink(27)})
    assert len(calls) == 3
    run_pass(model, driver.batches(), {"few": FeatureSink(14), "all": driver.NormHistogram()})
    assert len(calls) == 3 + driver.NUM_BATCHES


class Seen(Sink):
    """Remembers what it is given."""

    def __init__(self) -> None:
        self.logits: list[Tensor | None] = []
        self.dtypes: list[torch.dtype] = []

    def add(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        self.dtypes.append((features @ features.T).dtype)

    def end(self, logits: Tensor | None) -> None:
        self.logits.append(logits)

    def result(self) -> "Seen":
        return self


class Returning(nn.Module):
    """Wraps its logits."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.fc, self.wrap = nn.Linear(5, 3), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.fc(x))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: logits,
        lambda logits: (logits, None),
        lambda logits: ["loss", logits],
        lambda logits: {"loss": 0, "logits": logits},
        lambda logits: OrderedDict(logits=logits),
        lambda logits: SimpleNamespace(logits=logits),
    ],
)
def test_sinks_are_given_the_logits_of_any_output(wrap: Callable[[Tensor], Any]) -> None:
    model, loader = Returning(wrap), driver.batches()[:2]
    seen = run_pass(model, loader, {"seen": Seen()}, layers="fc")["seen"]
    for logits, (inputs, _) in zip(seen.logits, loader, strict=True):
        assert torch.equal(logits, model.fc(inputs))


@pytest.mark.parametrize(
    "wrap", [lambda logits: None, lambda logits: logits.sum(), lambda logits: logits[:2], lambda logits: {"z": logits}]
)
def test_an_output_without_logits_gives_none(wrap: Callable[[Tensor], Any]) -> None:
    assert run_pass(Returning(wrap), driver.batches()[:2], {"seen": Seen()}, layers="fc")["seen"].logits == [None] * 2


def test_sinks_run_outside_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = run_pass(driver.build(), driver.batches()[:1], {"seen": Seen()}, include_input=True)["seen"]
    assert set(seen.dtypes) == {torch.float32}


def test_a_file_of_other_sinks_or_settings_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"resume": tmp_path / "state"}
    run_pass(driver.build(), driver.batches(), {"norms": driver.NormHistogram()}, **options)
    for sinks, setting in (
        ({"norms": driver.NormHistogram(bins=9)}, "bins of norms"),
        ({"norms": driver.NormHistogram(), "kept": FeatureSink(3)}, "sinks, num_samples of kept"),
        ({"moments": MomentSink()}, "sinks, .*precision of moments"),
    ):
        with pytest.raises(nc.StateFileError, match=rf"other settings \({setting}") as caught:
            run_pass(driver.build(), driver.batches(), sinks, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(nc.StateFileError, match=r"other settings \(pass, "):
        nc.collect(driver.build(), driver.batches(), **options)


@pytest.mark.parametrize(
    ("sinks", "error", "message"),
    [
        ({}, ValueError, "`sinks` must hold at least one sink"),
        (FeatureSink(3), TypeError, "`sinks` must map names to sinks, got FeatureSink"),
        ({"a/b": FeatureSink(3)}, ValueError, "names of letters, digits and underscores, got 'a/b'"),
        ({"a": len}, TypeError, "got builtin_function_or_method for 'a', which has no `settings`; inherit from"),
    ],
)
def test_what_is_no_sink_is_refused_in_one_line(sinks: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        run_pass(driver.build(), driver.batches(), sinks)
    assert "\n" not in str(caught.value)


def test_a_loader_without_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="the loader gave no samples"):
        run_pass(driver.build(), [], {"norms": driver.NormHistogram()})


@pytest.mark.parametrize("options", [{}, {"precision": "double"}, {"covariance": True}, {"state_bytes": 8}], ids=str)
def test_the_state_of_a_file_goes_to_the_device_of_its_layer(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a model on several devices inputs go to the first, here the CPU, and layers may be on others."""
    monkeypatch.setattr(adoption, "Readback", Kept)
    cpu, elsewhere, batch = torch.device("cpu"), torch.device("meta"), ClassBatch(torch.arange(20) % 2, 2)
    before, after = MomentSink(**options), MomentSink(**options)
    for sink in (before, after):
        sink.start({}, cpu)
        sink.begin(batch)
    for site in ("0.0", "1.0"):
        before.add(site, torch.randn(20, 150), batch)
    after.load_state(before.state())
    after.begin(batch)
    after.add("0.0", torch.randn(20, 150), batch)
    after.add("1.0", torch.empty(20, 150, device=elsewhere), batch)
    assert [after.accumulators[site].place.device for site in ("0.0", "1.0")] == [cpu, elsewhere]
    assert [after.accumulators[site].ledger.count.tolist() for site in ("0.0", "1.0")] == [[20, 20]] * 2

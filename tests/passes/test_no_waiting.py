"""A pass on a device: nothing is asked of it before the next batch, and nothing that is wrong gets into a result.

The meta device stands for a GPU here: it has no numbers, so that reading one raises. Where numbers are needed, the code
for devices runs on the CPU.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import neurocollapse as nc
from neurocollapse.passes import MomentSink, finite, run_pass
from neurocollapse.passes.options import PassOptions
from neurocollapse.statistics import adoption
from neurocollapse.statistics.kernel_choice import VARIABLE
from tests.readbacks import Answer, Kept

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the device, whatever the environment says."""
    monkeypatch.delenv(VARIABLE, raising=False)


def network(num_layers: int = 4) -> nn.Sequential:
    layers = [layer for _ in range(num_layers) for layer in (nn.Linear(20, 20), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(20, 10))


def batches(number: int = 6) -> Batches:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(32, 20, generator=generator), torch.randint(10, (32,), generator=generator)) for _ in range(number)
    ]


class WithoutResult(MomentSink):
    """Has no numbers to give at the end."""

    def result(self) -> Any:
        self._refuse(self._watch.last())


class Sent(TorchDispatchMode):
    """Counts copies from the CPU to the device."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        if func.overloadpacket.__name__ == "_to_copy" and result.is_meta and not args[0].is_meta:
            self.number += 1
        return result


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a pass run on the meta device."""
    monkeypatch.setattr(PassOptions, "device_of", lambda options, model: torch.device("meta"))
    monkeypatch.setattr(finite, "Readback", Answer)
    monkeypatch.setattr(adoption, "Readback", Kept)


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize(
    "options", [{}, {"non_finite": "skip"}, {"covariance": True}, {"precision": "double"}, {"state_bytes": 8}], ids=str
)
@pytest.mark.parametrize("num_classes", [10, None], ids=["known classes", "growing classes"])
def test_a_pass_reads_nothing_back(options: dict[str, Any], num_classes: int | None) -> None:
    run_pass(network().to("meta"), batches(), {"moments": WithoutResult(**options)}, num_classes=num_classes)


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize(
    ("pool", "labelled"),
    [("mean", "samples"), ("last", "samples"), ("tokens", "samples"), ("tokens", "positions")],
)
def test_masks_and_labels_of_positions_are_read_where_they_come_from(pool: str, labelled: str) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(8, 6, generator=generator) < 0.6
    mask[:, 0] = True
    labels = torch.randint(10, (8, 6) if labelled == "positions" else (8,), generator=generator)
    data = [(torch.randn(8, 6, 20, generator=generator), labels) for _ in range(4)]
    options: dict[str, Any] = {"pool": pool, "num_classes": 10, "mask_fn": lambda batch: mask}
    numbers = []
    for num_layers in (1, 8):
        with Sent() as mode:
            run_pass(network(num_layers).to("meta"), data, {"moments": WithoutResult()}, **options)
        numbers.append(mode.number)
    assert numbers[1] - numbers[0] <= 2 * 7 * len(data)  # the first samples of new classes, for each layer


@pytest.mark.usefixtures("on_meta")
def test_a_batch_sends_as_much_to_one_layer_as_to_many() -> None:
    numbers = []
    for num_layers in (1, 8):
        data, sent = batches(12), []

        def loader(data: Batches = data, sent: list[int] = sent) -> Iterator[tuple[Tensor, Tensor]]:
            for batch in data:
                before = mode.number
                yield batch
                sent.append(mode.number - before)

        model = network(num_layers).to("meta")
        with Sent() as mode:
            run_pass(model, loader(), {"moments": WithoutResult()}, num_classes=10)
        numbers.append(min(sent))
    assert numbers[0] == numbers[1] <= 4  # inputs, labels, their order, and where each class begins


class Waiting(TorchDispatchMode):
    """Notes the copies from the CPU to the device that a host would wait for, and what is indexed, as by a list."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        name = func.overloadpacket.__name__
        is_sent = name == "_to_copy" and result.is_meta and not args[0].is_meta
        by_list = name == "index" and args[0].is_meta  # torch sends a list of numbers unseen
        if by_list or (is_sent and not (kwargs or {}).get("non_blocking")):
            self.names.append(name)
        return result


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize(
    "options", [{"num_classes": 10}, {"num_classes": 10, "include_input": True}, {"classes": [1, 2, 5, 7]}], ids=str
)
def test_nothing_is_sent_in_a_way_that_is_waited_for(options: dict[str, Any]) -> None:
    mode = Waiting()

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for index, batch in enumerate(batches(12)):
            if index == 3:  # the first batches settle the layers
                mode.names.clear()
            yield batch

    with mode:
        run_pass(network().to("meta"), loader(), {"moments": WithoutResult()}, **options)
    assert not mode.names


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code for devices, on the CPU."""
    monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", "sorted")


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("batch", [0, 2, 4, 5])
def test_features_that_are_not_finite_are_refused_one_batch_late_or_at_the_end(bad: float, batch: int) -> None:
    data = batches()
    data[batch][0][3] = bad
    started: list[int] = []

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for index, one in enumerate(data):
            started.append(index)
            yield one

    with pytest.raises(
        nc.NonFiniteError, match=rf"^layer '0': the features of batch {batch} \(counted from 0\) are NaN"
    ):
        nc.collect(network(), loader())
    assert started[-1] == min(batch + 1, 5)


@pytest.mark.usefixtures("late")
def test_the_first_batch_and_the_first_layer_are_named() -> None:
    class Bad(nn.Module):
        number = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.number += 1
            return inputs / 0 if self.number == 3 else inputs

    model = nn.Sequential(nn.Linear(20, 20), Bad(), nn.Linear(20, 20))
    data = batches()
    data[3][0][:] = torch.nan  # one batch later, in an earlier layer
    with pytest.raises(nc.NonFiniteError, match=r"layer '1': the features of batch 2 "):
        nc.collect(model, data, layers=["0", "1", "2"])


@pytest.mark.usefixtures("late")
def test_what_is_saved_is_known_to_be_finite(tmp_path: Path) -> None:
    path, data, model = tmp_path / "run", batches(), network()

    def interrupted(bad: bool) -> Iterator[tuple[Tensor, Tensor]]:
        yield from data[:3]
        yield (data[3][0] * torch.nan if bad else data[3][0]), data[3][1]
        raise KeyboardInterrupt

    with pytest.raises(nc.NonFiniteError, match="batch 3"):
        nc.collect(model, interrupted(bad=True), num_classes=10, resume=path)
    expected = nc.collect(model, data, num_classes=10)
    found = nc.collect(model, data, num_classes=10, resume=path)
    for name in expected:
        assert torch.equal(found[name].offset_sum, expected[name].offset_sum)


@pytest.mark.usefixtures("late")
def test_samples_that_are_left_out_are_counted_and_too_large_ones_refused() -> None:
    data, model = batches(), network()
    for index in (0, 2):
        data[index][0][:5, 1] = torch.nan
    found = nc.collect(model, data, non_finite="skip")
    assert [found.record(name).num_skipped for name in found] == [10] * len(found)
    clean = [(inputs[inputs.isfinite().all(dim=1)], labels[inputs.isfinite().all(dim=1)]) for inputs, labels in data]
    expected = nc.collect(model, clean)
    for name in expected:
        torch.testing.assert_close(found[name].mean, expected[name].mean, rtol=1e-12, atol=1e-12)
    wide = [(inputs.double(), labels) for inputs, labels in clean]
    wide[4][0][0] = 1e200
    with pytest.raises(nc.NonFiniteError, match=r"batch 4 \(counted from 0\) are finite, but too large"):
        nc.collect(model.double(), wide, non_finite="skip")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{}, {"non_finite": "skip"}, {"covariance": True}], ids=str)
def test_a_gpu_is_not_waited_for(options: dict[str, Any]) -> None:
    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for index, (inputs, labels) in enumerate(batches(12)):
            torch.cuda.set_sync_debug_mode("error" if index > 2 else "default")  # the first batches settle the layers
            yield inputs.pin_memory(), labels

    try:
        run_pass(network().cuda(), loader(), {"moments": WithoutResult(**options)}, num_classes=10)
    finally:
        torch.cuda.set_sync_debug_mode("default")

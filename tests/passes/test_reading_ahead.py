"""Labels and masks on the device, or made there by functions of one's own: their copies set off a batch ahead.

The meta device stands for a GPU: it has no numbers, so that reading one raises. Those that are sent for in time arrive.
"""

import dataclasses
import gc
import types
import weakref
from collections import UserDict
from collections.abc import Iterator, MutableMapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.weak import WeakTensorKeyDictionary

import neurocollapse as nc
from neurocollapse.data.batch_parts import tensors_in
from neurocollapse.data.labels import PositionLabels
from neurocollapse.passes import MomentSink, finite, run_pass
from neurocollapse.passes.ahead import ReadAhead
from neurocollapse.passes.loop import Pass
from neurocollapse.passes.options import PassOptions
from neurocollapse.statistics import adoption
from neurocollapse.statistics.kernel_choice import VARIABLE
from neurocollapse.support import transfer
from tests.readbacks import Answer, Kept

META = torch.device("meta")


class Device(TorchDispatchMode):
    """Tensors of the meta device with numbers behind them, which those get who have sent for them.

    What is computed of such tensors has numbers too, and views of them share memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers: Any = WeakTensorKeyDictionary()

    def holding(self, tensor: Tensor) -> Tensor:
        """A tensor on the device, with these numbers."""
        twin = tensor.to(META)
        self.numbers[twin] = tensor.clone()
        return twin

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        used = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor) and one.is_meta]
        if used and all(one in self.numbers for one in used) and not {"device", "out"} & (kwargs or {}).keys():
            behind = func(*tree_map(self._behind, args), **tree_map(self._behind, kwargs or {}))
            for made, numbers in zip(tree_leaves(result), tree_leaves(behind), strict=True):
                if isinstance(made, Tensor):
                    self.numbers[made] = numbers
        return result

    def _behind(self, value: Any) -> Any:
        return self.numbers[value] if isinstance(value, Tensor) and value.is_meta else value


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """Lets a pass run on the meta device, with the kernel of a device, and numbers for those who send for them."""
    device = Device()

    class Known(Answer):
        def __init__(self, values: Tensor) -> None:
            super().__init__(values)
            self.values = device.numbers[values].clone() if values in device.numbers else None

        def numbers(self) -> Tensor:
            return super().numbers() if self.values is None else self.values

    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(PassOptions, "device_of", lambda options, model: META)
    monkeypatch.setattr(transfer, "Readback", Known)
    monkeypatch.setattr(finite, "Readback", Answer)
    monkeypatch.setattr(adoption, "Readback", Kept)
    with device:
        yield device
    assert not transfer._under_way


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10))


def batches(number: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(32, 20, generator=generator), torch.randint(10, (32,), generator=generator)) for _ in range(number)
    ]


def counts_of(data: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.bincount(torch.cat([labels for _, labels in data]), minlength=10)


class WithoutMoments(MomentSink):
    """Has no numbers to give at the end, but those of the ledger."""

    def result(self) -> Any:
        return next(iter(self.accumulators.values())).ledger.count


@pytest.mark.parametrize("kind", ["pairs", "three parts", "dicts", "pairs that are known again"])
def test_labels_on_the_device_are_not_waited_for(kind: str, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    data = batches()
    placed: list[Any] = [(inputs.to(META), device.holding(labels)) for inputs, labels in data]
    if kind == "three parts":
        placed = [(inputs, labels, device.holding(torch.rand(32, 4))) for inputs, labels in placed]
        monkeypatch.setattr(nn.Sequential, "forward", _first_only)
    if kind == "dicts":
        placed = [{"input": inputs, "labels": labels} for inputs, labels in placed]
    options = PassOptions(num_classes=10, progress=False)
    known = kind == "pairs that are known again"
    second = Pass(network().to(META), placed, {"moments": WithoutMoments()}, options, name="second", digests=known)
    found = second.run()["moments"]
    assert torch.equal(found, torch.bincount(torch.cat([labels for _, labels in data]), minlength=10))
    assert not transfer._under_way


def _first_only(self: nn.Sequential, input: Tensor, rest: Tensor | None = None) -> Tensor:
    for module in self:
        input = module(input)
    return input


class Language(nn.Module):
    """One layer that is given a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 20)

    def forward(self, input: Tensor, attention_mask: Tensor) -> Tensor:
        return self.layer(input)


@pytest.mark.parametrize(("pool", "labelled"), [("mean", False), ("last", False), ("tokens", False), ("tokens", True)])
def test_masks_on_the_device_are_not_waited_for(pool: str, labelled: bool, device: Device) -> None:
    generator, counts, data = torch.Generator().manual_seed(0), torch.zeros(10), []
    for _ in range(4):
        mask = (torch.rand(8, 6, generator=generator) < 0.6).long()
        mask[:, 0] = 1
        labels = torch.randint(10, (8, 6) if labelled else (8,), generator=generator)
        every = labels if labelled else labels.unsqueeze(1).expand(8, 6)
        counts += torch.bincount(every[mask.bool()] if pool == "tokens" else labels, minlength=10)
        inputs = torch.empty(8, 6, 20, device=META)
        data.append({"input": inputs, "attention_mask": device.holding(mask), "labels": device.holding(labels)})
    options: dict[str, Any] = {"pool": pool, "num_classes": 10}
    found = run_pass(Language().to(META), data, {"moments": WithoutMoments()}, **options)["moments"]
    assert torch.equal(found, counts.long())


def test_copies_are_under_way_before_the_batch_before_runs(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    data, order = batches(), []
    placed = [(inputs.to(META), device.holding(labels)) for inputs, labels in data]
    known, model = transfer.Readback, network().to(META)

    def sent(values: Tensor) -> Any:
        order.append(f"sent {[labels is values for _, labels in placed].index(True)}")
        return known(values)

    monkeypatch.setattr(transfer, "Readback", sent)
    model.register_forward_pre_hook(lambda *arguments: order.append(f"run {sum('run' in one for one in order)}"))
    run_pass(model, placed, {"moments": WithoutMoments()}, num_classes=10)
    assert order == [
        "sent 0",
        *[f"{what} {index + (what == 'sent')}" for index in range(5) for what in ("sent", "run")],
        "run 5",
    ]


class Named(NamedTuple):
    input: Tensor
    labels: Tensor


@dataclasses.dataclass
class Fields:
    input: Tensor
    labels: Tensor


CONTAINERS: dict[str, Any] = {
    "tuple": lambda inputs, labels: (inputs, labels),
    "list": lambda inputs, labels: [inputs, labels],
    "dict": lambda inputs, labels: {"input": inputs, "labels": labels},
    "named tuple": Named,
    "dataclass": Fields,
    "nested": lambda inputs, labels: ({"input": inputs}, labels),
}


class Reusing:
    """A loader that gives every batch in the same memory, and notes when it is asked for one."""

    def __init__(self, device: Device, data: list[tuple[Tensor, Tensor]], make: Any, order: list[str]) -> None:
        self.device, self.data, self.order = device, data, order
        self.memory = [device.holding(part) for part in data[0]]
        self.batch = make(*self.memory)

    def __iter__(self) -> Iterator[Any]:
        for index, parts in enumerate(self.data):
            self.order.append(f"take {index}")
            for memory, part in zip(self.memory, parts, strict=True):
                memory.copy_(self.device.holding(part))
            yield self.batch


def watched(device: Device, order: list[str]) -> tuple[nn.Module, list[Tensor]]:
    """A network that notes when it runs, and what it is given."""
    model, given = network().to(META), list[Tensor]()

    def note(module: nn.Module, args: Any) -> None:
        order.append(f"run {len(given)}")
        given.append(device.numbers[args[0]].clone())

    model[0].register_forward_pre_hook(note)
    return model, given


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", ["own loader", "own collate function"])
def test_a_loader_that_gives_batches_in_the_same_memory_is_read_ahead_too(
    container: str, kind: str, device: Device
) -> None:
    data, order = batches(), list[str]()
    loader: Any = Reusing(device, data, CONTAINERS[container], order)
    if kind == "own collate function":
        source = iter(loader)
        loader = DataLoader(range(len(data)), collate_fn=lambda index: next(source))  # type: ignore[arg-type]
    model, given = watched(device, order)
    assert torch.equal(run_pass(model, loader, {"moments": WithoutMoments()})["moments"], counts_of(data))
    assert all(torch.equal(found, inputs) for found, (inputs, _) in zip(given, data, strict=True))
    pairs = [one for index in range(5) for one in (f"take {index + 1}", f"run {index}")]
    assert order == ["take 0", *pairs, "run 5"]


class Graph:
    """Inputs of an unknown kind."""

    def __init__(self, input: Tensor) -> None:
        self.input = input


class Wrapping(MutableMapping[str, Any]):
    """Keeps its entries in a dict of its own."""

    def __init__(self, **entries: Any) -> None:
        self.entries = entries

    def __getitem__(self, key: str) -> Any:
        return self.entries[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.entries[key] = value

    def __delitem__(self, key: str) -> None:
        del self.entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


@dataclasses.dataclass
class WithMore(Fields):
    """Has a tensor beside its fields."""

    def __post_init__(self) -> None:
        self.more = self.input


class Pair(tuple[Any, ...]):
    """Is not made of a list of its parts."""

    def __new__(cls, *parts: Any) -> "Pair":
        return super().__new__(cls, parts)


class Noted(list[Any]):
    """May have attributes."""


class Remade(DataLoader[Any]):
    """Makes something of its own of the batches."""

    def __iter__(self) -> Any:
        return super().__iter__()


def noted(tensor: Tensor) -> Tensor:
    tensor.note = 1  # type: ignore[attr-defined]
    return tensor


SET = TensorDataset(torch.zeros(6, 3))
LOADERS: dict[str, tuple[Any, Any, int]] = {
    "a list": (list, CONTAINERS["tuple"], 1),
    "a DataLoader": (lambda batches: DataLoader(SET), CONTAINERS["tuple"], 1),
    "own loader": (iter, CONTAINERS["tuple"], 1),
    "own DataLoader": (lambda batches: Remade(SET), CONTAINERS["tuple"], 1),
    "own list": (Noted, CONTAINERS["tuple"], 1),
    "own mapping": (iter, lambda inputs, labels: UserDict(input=inputs, labels=labels), 1),
    "unknown inputs": (iter, lambda inputs, labels: (Graph(inputs), labels), 0),
    "unknown mapping": (iter, lambda inputs, labels: Wrapping(input=inputs, labels=labels), 0),
    "more than fields": (iter, WithMore, 0),
    "unknown tuple": (iter, Pair, 0),
    "unknown list": (iter, lambda inputs, labels: Noted([inputs, labels]), 0),
    "gradients": (iter, lambda inputs, labels: (inputs.requires_grad_(), labels), 0),
    "attributes": (iter, lambda inputs, labels: (noted(inputs), labels), 0),
    "on the CPU": (iter, lambda inputs, labels: (inputs, torch.zeros(2, dtype=torch.int64)), 0),
    "an object": (list, lambda inputs, labels: types.SimpleNamespace(input=inputs, y=labels), 1),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_how_many_batches_are_taken_ahead(kind: str, device: Device) -> None:
    make, container, ahead = LOADERS[kind]
    data = [container(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64, device=META)) for _ in range(3)]
    taken: list[Any] = []

    def counted() -> Iterator[Any]:
        for batch in data:
            taken.append(batch)
            yield batch

    reader = ReadAhead(make(data), PassOptions(), digests=False)
    numbers = []
    for index, batch in enumerate(reader.over(counted())):
        numbers.append(len(taken))
        assert (batch is data[index]) == (not ahead or kind in ("a list", "a DataLoader", "an object"))
        if batch is not data[index]:
            parts = zip(tensors_in(batch), tensors_in(data[index]), strict=True)
            assert all(one is not other and one.shape == other.shape for one, other in parts)
    assert numbers == [min(index + ahead, 3) for index in (1, 2, 3)]


SAME = torch.empty(32, dtype=torch.int64)
"""Memory that a function gives for every batch."""


@pytest.mark.parametrize("loader", ["list", "own loader"])
@pytest.mark.parametrize("kind", ["computed", "in the same memory", "in the same memory of the CPU", "a list"])
def test_labels_that_a_function_makes_on_the_device_are_not_waited_for(kind: str, loader: str, device: Device) -> None:
    data, order = batches(), list[str]()
    hot = [(inputs, nn.functional.one_hot(labels, 10).float()) for inputs, labels in data]
    memory, asked = device.holding(SAME), list[Any]()

    def label_fn(batch: Any) -> Any:
        asked.append(batch)
        labels = batch[1].argmax(dim=1)
        if kind == "computed":
            return labels
        if kind == "in the same memory":
            return memory.copy_(labels)
        numbers = device.numbers[labels]  # as if they came from elsewhere
        return SAME.copy_(numbers) if "CPU" in kind else numbers.tolist()

    batches_of: Any = [(inputs.to(META), device.holding(labels)) for inputs, labels in hot]
    model, _ = watched(device, order) if loader == "own loader" else (network().to(META), None)
    if loader == "own loader":
        batches_of = Reusing(device, hot, CONTAINERS["tuple"], order)
    found = run_pass(model, batches_of, {"moments": WithoutMoments()}, label_fn=label_fn)["moments"]
    assert torch.equal(found, counts_of(data))
    assert len(asked) == len(data)
    assert not order or order[:4] == ["take 0", "take 1", "run 0", "take 2"]


@pytest.mark.parametrize("own", [False, True], ids=["list", "own loader"])
@pytest.mark.parametrize("kind", ["samples", "positions"])
def test_masks_that_a_function_makes_on_the_device_are_not_waited_for(kind: str, own: bool, device: Device) -> None:
    generator, counts, data = torch.Generator().manual_seed(0), torch.zeros(10), []
    memory = device.holding(torch.empty(8, 6, dtype=torch.bool))
    for _ in range(4):
        scores = torch.rand(8, 6, generator=generator)
        scores[:, 0] = 0.0
        labels = torch.randint(10, (8, 6) if kind == "positions" else (8,), generator=generator)
        counts += torch.bincount(labels[scores < 0.6] if kind == "positions" else labels, minlength=10)
        inputs = torch.empty(8, 6, 20, device=META)
        data.append((inputs, device.holding(scores), device.holding(labels)))

    def masked(inputs: Tensor, scores: Tensor) -> Tensor:
        return nn.functional.linear(inputs, torch.empty(20, 20, device=META))

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(20, 20)

        def forward(self, inputs: Tensor, scores: Tensor) -> Tensor:
            return self.layer(inputs)

    options: dict[str, Any] = {
        "pool": "tokens" if kind == "positions" else "mean",
        "label_fn": lambda batch: PositionLabels(batch[2], batch[1] < 0.9) if kind == "positions" else batch[2],
        "mask_fn": lambda batch: memory.copy_(batch[1] < 0.6),
        "num_classes": 10,
    }
    if kind == "positions":
        counts = counts.long()
    found = run_pass(Masked().to(META), iter(data) if own else data, {"moments": WithoutMoments()}, **options)
    assert torch.equal(found["moments"], counts.long())


def test_functions_that_look_at_parts_of_the_batch_are_asked_in_its_turn(device: Device) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randint(10, (8, 6), generator=generator) for _ in range(4)]
    counts = sum(torch.bincount(one[:, 1:].flatten(), minlength=10) for one in tokens)
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4)).to(META)
    data = iter([{"input": device.holding(one)} for one in tokens])
    options: dict[str, Any] = {"pool": "tokens", "num_classes": 10, "label_fn": nc.labels.next_token("input")}
    found = run_pass(model, data, {"moments": WithoutMoments()}, **options)["moments"]
    assert torch.equal(found, counts)


@pytest.mark.parametrize("options", [{}, {"label_fn": lambda batch: batch[1]}], ids=["as they are", "label_fn"])
def test_tensors_that_several_batches_share_are_not_waited_for(options: dict[str, Any], device: Device) -> None:
    (inputs, labels), *_ = batches(1)
    placed = (device.holding(inputs), device.holding(labels))
    found = run_pass(network().to(META), [placed] * 3, {"moments": WithoutMoments()}, **options)
    assert torch.equal(found["moments"], 3 * torch.bincount(labels, minlength=10))


@pytest.mark.parametrize("where", ["loader", "label_fn"])
@pytest.mark.parametrize("error", [LookupError, StopIteration])
def test_what_fails_ahead_is_raised_when_the_batches_before_have_counted(
    where: str, error: type[Exception], device: Device
) -> None:
    data, order = batches(), list[str]()

    def loader() -> Iterator[Any]:
        for index, (inputs, labels) in enumerate(data):
            if where == "loader" and index == 3:
                raise error("no batch 3")
            yield device.holding(inputs), device.holding(labels), index

    def label_fn(batch: Any) -> Any:
        if batch[2] == 3:
            raise error("no batch 3")
        return batch[1]

    model, given = watched(device, order)
    model.forward = lambda inputs, index: nn.Sequential.forward(model, inputs)  # type: ignore[assignment]
    with pytest.raises((error, RuntimeError), match=r"no batch 3|raised StopIteration"):
        run_pass(model, loader(), {"moments": WithoutMoments()}, label_fn=label_fn)
    assert len(given) == 3


def test_named_labels_and_masks_may_be_of_other_numbers(device: Device) -> None:
    data, generator = batches(4), torch.Generator().manual_seed(1)
    placed = []
    for inputs, labels in data:
        mask = (torch.rand(32, 1, 1, 6, generator=generator) < 0.5).float() * -1e9
        mask[..., 0] = 0.0
        hot = nn.functional.one_hot(labels, 10).float()
        wide = inputs.unsqueeze(1).expand(-1, 6, -1).to(META)
        placed.append({"input": wide, "attention_mask": device.holding(mask), "labels": device.holding(hot)})
    found = run_pass(Language().to(META), placed, {"moments": WithoutMoments()})["moments"]
    assert torch.equal(found, counts_of(data))


class Optional(Language):
    """Can do without a mask."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return self.layer(torch.empty(*input_ids.shape, 20, device=META))


@pytest.mark.parametrize("kind", ["a mask by position", "boxes", "a mask of pairs", "objects"])
def test_what_stands_beside_labels_is_not_waited_for(
    kind: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, generator, model = batches(4), torch.Generator().manual_seed(1), Language()
    placed: list[Any] = []
    for inputs, labels in data:
        mask = (torch.rand(32, 6, generator=generator) < 0.6).long()
        mask[:, 0] = 1
        own = device.holding(labels)
        wide = inputs.unsqueeze(1).expand(-1, 6, -1).to(META)
        if kind == "a mask by position":
            placed.append((device.holding(mask), device.holding(mask), own))
        elif kind == "boxes":
            placed.append((inputs.to(META), own, torch.empty(32, 5, 4, device=META)))
        elif kind == "a mask of pairs":
            ones = torch.ones(32, 1, 6, 6, dtype=torch.int64)
            placed.append({"input": wide, "attention_mask": device.holding(ones), "labels": own})
        else:
            placed.append(types.SimpleNamespace(input=inputs.to(META), y=own))
    if kind == "a mask by position":
        model = Optional()
    if kind in ("boxes", "objects"):
        model = network()  # type: ignore[assignment]
        forward = (lambda model, batch: _first_only(model, batch.input)) if kind == "objects" else _first_only
        monkeypatch.setattr(nn.Sequential, "forward", forward)
    found = run_pass(model.to(META), placed, {"moments": WithoutMoments()}, num_classes=10)["moments"]
    assert torch.equal(found, counts_of(data))


def test_copies_that_cannot_all_set_off_are_let_go(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [(inputs.to(META), device.holding(labels)) for inputs, labels in batches()]
    known, sent = transfer.Readback, list[Tensor]()

    def fail_in_the_third(values: Tensor) -> Any:
        sent.append(values)
        if len(sent) == 6:
            raise MemoryError("no page-locked memory")
        return known(values)

    monkeypatch.setattr(transfer, "Readback", fail_in_the_third)
    with pytest.raises(MemoryError, match="page-locked"):
        list(ReadAhead(data, PassOptions(), digests=True).over(data))
    assert not transfer._under_way


def test_an_error_ahead_keeps_no_batch(device: Device) -> None:
    kept: list[Any] = []

    def loader() -> Iterator[Any]:
        for inputs, labels in batches(2):
            batch = device.holding(inputs), device.holding(labels)
            kept.extend(map(weakref.ref, batch))
            yield batch
        raise LookupError("no batch 2")

    gc.disable()
    try:
        with pytest.raises(LookupError, match="no batch 2"):
            run_pass(network().to(META), loader(), {"moments": WithoutMoments()})
        assert all(one() is None for one in kept)
    finally:
        gc.enable()


def test_an_interrupt_ahead_is_raised_when_the_batch_before_has_counted(device: Device) -> None:
    data, order = batches(), list[str]()

    def loader() -> Iterator[Any]:
        for inputs, labels in data[:3]:
            yield device.holding(inputs), device.holding(labels)
        raise KeyboardInterrupt

    model, given = watched(device, order)
    with pytest.raises(KeyboardInterrupt):
        run_pass(model, loader(), {"moments": WithoutMoments()})
    assert len(given) == 3

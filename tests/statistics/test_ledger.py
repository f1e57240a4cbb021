"""What labels decide is what a loop over them decides, and is decided once for all layers."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from neurocollapse.passes.moments import MomentSink
from neurocollapse.statistics import ClassBatch, MomentAccumulator
from neurocollapse.statistics.ledger import FEW, FLUSH_COUNT, Ledger


def streams() -> list[tuple[str, list[Tensor], int]]:
    """Batches of labels: balanced, sorted, single samples, one class in the many, long tails, empty ones between."""
    generator = torch.Generator().manual_seed(0)
    balanced = torch.randint(5, (600,), generator=generator)
    tail = torch.rand(600, generator=generator).pow(6).mul(40).long()
    return [
        ("balanced", list(balanced.split(50)), 5),
        ("sorted", list(balanced.sort().values.split(50)), 5),
        ("single", list(balanced[:150].split(1)), 5),
        ("one class", [torch.full((200,), 3), torch.tensor([3, 1]), torch.full((70,), 3)], 5),
        ("long tail", list(tail.split(37)), 40),
        ("empty", [balanced[:0], balanced[:9], balanced[:0], balanced[9:90]], 5),
    ]


@pytest.mark.parametrize(
    ("name", "batches", "num_classes"), streams(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_ledger_decides_what_a_loop_over_the_labels_decides(
    name: str, batches: list[Tensor], num_classes: int
) -> None:
    ledger = Ledger.empty(num_classes)
    count, pending, looked = ([0] * num_classes for _ in range(3))
    for labels in batches:
        batch = ClassBatch(labels, num_classes)
        step = ledger.step(batch)
        own = [labels.tolist().count(k) for k in range(num_classes)]
        new = [k for k in range(num_classes) if own[k] and not count[k]]
        assert ([] if step.new is None else batch.present[step.new].tolist()) == new
        assert step.flush == any(p + n > FLUSH_COUNT for p, n in zip(pending, own, strict=True))
        if step.flush:
            pending = [0] * num_classes
        pending = [p + n if max(own) <= FLUSH_COUNT else 0 for p, n in zip(pending, own, strict=True)]
        count = [c + n for c, n in zip(count, own, strict=True)]
        due = []
        if any(c >= max(2 * FEW, 4 * at) for c, at in zip(count, looked, strict=True)):
            due = [k for k in range(num_classes) if count[k] >= max(FEW, 2 * looked[k])]
        for k in due:
            looked[k], pending[k] = count[k], 0
        assert ([] if step.due is None else step.due.tolist()) == due
        ledger = step.ledger
        assert [part.tolist() for part in (ledger.count, ledger.pending, ledger.looked)] == [count, pending, looked]
    assert ledger.num_batches == len(batches)


@pytest.mark.parametrize("most_between_looks", [None, 30])
@pytest.mark.parametrize("flush_count", [None, FLUSH_COUNT])
def test_a_calm_batch_decides_what_is_decided_without_calm(
    flush_count: int | None, most_between_looks: int | None
) -> None:
    generator, num_calm = torch.Generator().manual_seed(0), 0
    own = ("balanced again", list(torch.randint(5, (9000,), generator=generator).split(20)), 5)
    for _, batches, num_classes in (*streams(), own):
        quick = slow = Ledger.empty(num_classes, flush_count=flush_count, most_between_looks=most_between_looks)
        for labels in batches:
            num_calm += ClassBatch(labels, num_classes).largest <= quick.calm
            left, right = (ledger.step(ClassBatch(labels, num_classes)) for ledger in (quick, replace(slow, calm=-1)))
            for found, expected in ((left.new, right.new), (left.due, right.due)):
                assert (found is None) == (expected is None)
                assert found is None or torch.equal(found, expected)
            assert left.flush == right.flush
            quick, slow = left.ledger, right.ledger
            assert quick == slow
    assert num_calm > 100


def test_no_float32_sum_gathers_more_than_it_may() -> None:
    for _, batches, num_classes in streams():
        ledger = Ledger.empty(num_classes)
        for labels in batches:
            ledger = ledger.step(ClassBatch(labels, num_classes)).ledger
            assert int(ledger.pending.max()) <= FLUSH_COUNT


def test_equal_ledgers_get_the_same_next_one_and_others_their_own() -> None:
    first, batch = ClassBatch(torch.tensor([0, 1, 1]), 3), ClassBatch(torch.tensor([2, 0, 1]), 3)
    seen = [Ledger.empty(3).step(first).ledger for _ in range(2)]
    assert seen[0] is seen[1]
    other = Ledger.empty(3).step(ClassBatch(torch.tensor([0, 0, 1]), 3)).ledger
    late = Ledger.empty(3)
    steps = [ledger.step(batch) for ledger in (seen[0], other, late)]
    assert len({id(step) for step in steps}) == 3
    assert [step.ledger.count.tolist() for step in steps] == [[2, 3, 1], [3, 2, 1], [1, 1, 1]]


def test_a_larger_ledger_keeps_what_was_counted() -> None:
    ledger = Ledger.empty(2).step(ClassBatch(torch.tensor([0, 1, 1]), 2)).ledger
    grown = ledger.grown(4)
    assert (grown.count.tolist(), grown.num_batches) == ([1, 2, 0, 0], 1)
    assert grown == Ledger.empty(4).step(ClassBatch(torch.tensor([0, 1, 1]), 4)).ledger
    assert grown != ledger


class Operations(TorchDispatchMode):
    """Counts the operations inside."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **kwargs or {})


def test_the_second_layer_of_a_batch_decides_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [MomentAccumulator(4, 200) for _ in range(3)]
    for _ in range(4):
        batch = ClassBatch(torch.randint(4, (40,), generator=generator), 4)
        ledgers = []
        for layer in layers:
            layer.update(torch.randn(40, 200, generator=generator), batch)
            ledgers.append(layer.ledger)
        assert all(ledger is ledgers[0] for ledger in ledgers)
    batch = ClassBatch(torch.randint(4, (40,), generator=generator), 4)
    numbers = []
    for layer in layers:
        with Operations() as operations:
            layer.ledger.step(batch)
        numbers.append(operations.number)
    assert numbers[0] > 0
    assert numbers[1:] == [0, 0]


def test_layers_that_were_resumed_share_their_ledger_again() -> None:
    generator = torch.Generator().manual_seed(0)
    sinks = [MomentSink(), MomentSink()]
    batches = [ClassBatch(torch.randint(4, (40,), generator=generator), 4) for _ in range(3)]
    for sink, part in zip(sinks, (batches[:2], batches[2:]), strict=True):
        sink.start({}, torch.device("cpu"))
        if sink is sinks[1]:
            sink.load_state(sinks[0].state())
        for batch in part:
            sink.begin(batch)
            for site in ("a", "b"):
                sink.add(site, torch.randn(40, 200, generator=generator), batch)
            sink.end(None)
    ledgers = [accumulator.ledger for accumulator in sinks[1].accumulators.values()]
    assert ledgers[0] is ledgers[1]
    assert int(ledgers[0].count.sum()) == 120

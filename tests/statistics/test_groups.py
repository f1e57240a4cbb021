"""Rows of a batch class by class: compiled code and torch's operations agree, and copies point to their own memory."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from neurocollapse.statistics import ClassBatch, MomentAccumulator, extension, groups
from neurocollapse.statistics.groups import Groups, grouped

PARTS = ("counts", "order", "present", "starts")
needs_kernel = pytest.mark.skipif(bool(extension.MISSING), reason="no compiled kernel here")


def by_hand(labels: Tensor, num_classes: int) -> dict[str, list[int]]:
    numbers = labels.tolist()
    present = sorted(set(numbers))
    order = [row for label in present for row in range(len(numbers)) if numbers[row] == label]
    starts = [sum(other < label for other in numbers) for label in present] + [len(numbers)]
    counts = [numbers.count(label) for label in range(num_classes)]
    return {"counts": counts, "order": order, "present": present, "starts": starts}


@pytest.fixture(params=["torch", pytest.param("compiled", marks=needs_kernel)])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How rows are sorted."""
    if request.param == "torch":
        monkeypatch.setattr(extension, "MISSING", "not asked for")
    return str(request.param)


@pytest.mark.parametrize("num_classes", [1, 3, 40, 5000])
@pytest.mark.parametrize("num_rows", [0, 1, 7, 300])
def test_rows_are_counted_and_sorted_as_by_hand(num_rows: int, num_classes: int, way: str) -> None:
    labels = torch.randint(num_classes, (2 * num_rows,), generator=torch.Generator().manual_seed(num_rows))[::2]
    found, wanted = grouped(labels, num_classes), by_hand(labels, num_classes)
    assert {name: getattr(found, name).tolist() for name in PARTS} == wanted
    assert found.largest == max(wanted["counts"])


@pytest.mark.parametrize("label", [-1, 3, 2**40, -(2**63)])
def test_labels_beyond_the_classes_are_refused(label: int, way: str) -> None:
    with pytest.raises(ValueError, match=r"^labels of a batch lie outside the classes$"):
        grouped(torch.tensor([0, label, 2]), 3)


@needs_kernel
def test_the_compiled_way_is_the_one_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_of_torch", None)
    assert grouped(torch.tensor([1, 0]), 2).order.tolist() == [1, 0]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda batch: pickle.loads(pickle.dumps(batch))])
def test_a_copied_batch_points_to_its_own_memory(copied: object) -> None:
    batch = ClassBatch(torch.tensor([2, 0, 2, 1]), 3)
    assert len(set(batch.groups.places)) == 4  # asked for before the copy is made
    other = copied(batch)  # type: ignore[operator]
    assert isinstance(other.groups, Groups)
    for name, address in zip(("present", "starts", "order"), other.groups.places[1:], strict=True):
        assert getattr(other.groups, name).data_ptr() == address
        assert torch.equal(getattr(other.groups, name), getattr(batch.groups, name))
    assert not set(other.groups.places[1:]) & set(batch.groups.places[1:])


@pytest.mark.parametrize("kernel", ["torch", "sorted", pytest.param("compiled", marks=needs_kernel)])
@pytest.mark.parametrize("num_classes", [3, 50])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"])
def test_a_copied_accumulator_adds_to_its_own_sums(
    copied: Callable[[MomentAccumulator], MomentAccumulator],
    num_classes: int,
    kernel: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", kernel)
    generator = torch.Generator().manual_seed(0)
    features, batch = torch.randn(30, 200, generator=generator), ClassBatch(torch.arange(30) % 3, num_classes)
    features[4] = torch.nan
    first = MomentAccumulator(num_classes, 200, skip_non_finite=True)
    first.update(features, batch)
    before = {name: value.clone() for name, value in first.state().items()}
    second = copied(first)
    second.update(features, batch)
    assert all(torch.equal(value, before[name]) for name, value in first.state().items())
    first.update(features, batch)
    assert all(torch.equal(value, second.state()[name]) for name, value in first.state().items())
    for one in (first, second):
        one.grow(num_classes + 1)  # made of the matrices, of which the sums are the columns
    assert all(torch.equal(value, second.state()[name]) for name, value in first.state().items())

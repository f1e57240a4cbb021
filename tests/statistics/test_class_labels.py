"""Labels are checked once at the edge, with a message that names the value, the range and the fix."""

from typing import Any

import numpy as np
import pytest
import torch

from neurocollapse.statistics import ClassBatch, LabelError, check_labels


def read_only(values: list[int]) -> Any:
    array = np.array(values)
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    "labels",
    [
        [2, 0, 1],
        (2, 0, 1),
        [torch.tensor(2), torch.tensor(0), torch.tensor(1)],
        *[torch.tensor([2, 0, 1], dtype=dtype) for dtype in (torch.uint8, torch.int8, torch.int32, torch.uint16)],
        *[np.array([2, 0, 1], dtype=dtype) for dtype in (np.uint8, np.int32, np.uint16, np.uint64)],
        read_only([2, 0, 1]),
        np.array([1, 0, 2])[::-1],
        torch.tensor([[2, 9], [0, 9], [1, 9]])[:, 0],
        torch.eye(3)[[2, 0, 1]],
        torch.eye(3, dtype=torch.int64)[[2, 0, 1]],
        torch.eye(3, dtype=torch.bool)[[2, 0, 1]],
        torch.eye(3, dtype=torch.float16)[[2, 0, 1]],
        np.eye(3, dtype=np.uint16)[[2, 0, 1]],
        np.eye(3, dtype=bool)[[2, 0, 1]].tolist(),
        torch.eye(3)[[2, 0, 1]].to_sparse(),
        torch.eye(3)[[2, 0, 1]].requires_grad_(),
    ],
    ids=lambda labels: f"{type(labels).__name__}-{getattr(labels, 'dtype', '')}-{getattr(labels, 'ndim', '')}",
)
def test_labels_come_in_many_forms(labels: Any) -> None:
    found = check_labels(labels, num_samples=3, num_classes=3)
    assert found.dtype == torch.int64
    assert found.tolist() == [2, 0, 1]


def test_one_dimensional_booleans_are_two_classes() -> None:
    assert check_labels(torch.tensor([True, False])).tolist() == [1, 0]


@pytest.mark.parametrize("labels", [[], np.empty(0), torch.empty(0, dtype=torch.int64), torch.empty(0, 4)])
def test_no_labels_are_no_error(labels: Any) -> None:
    assert check_labels(labels, num_samples=0).shape == (0,)


INTEGERS = "`labels` must be an array of integers, got {}; encode class names as 0, 1, 2, …"
ONE_HOT = (
    "`labels` of shape {} are not one-hot (one 1 in each row, at least two columns); "
    'pass class indices of shape (samples,), or pool="tokens" where each position has a label of its own'
)
FLOATS = "`labels` must hold integers, got torch.{}; pass labels.long() if they are class indices"
SHAPE = "`labels` must have shape (samples,) or (samples, classes), got {}"
RANGE = "`labels` must hold integers in [0, 10), got {} at position {}; {}"
LEAVE_OUT = "leave such samples out, or map them with label_fn"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 3, 12], RANGE.format(12, 3, "pass num_classes=13")),
        ([1, 11, 3, 12], RANGE.format(11, 1, "pass num_classes=13")),
        ([1, -100, 3, 4], RANGE.format(-100, 1, LEAVE_OUT)),
        (torch.tensor([0, -1, 0, 0], dtype=torch.int8), RANGE.format(-1, 1, LEAVE_OUT)),
        (torch.tensor([1.0, 2.0, 0.0, 0.0]), FLOATS.format("float32")),
        ([0.0, 1.0, 2.0, 3.5], FLOATS.format("float64")),
        ([0.0, float("nan"), 2.0, 3.0], FLOATS.format("float64")),
        (torch.zeros(4, dtype=torch.complex64), FLOATS.format("complex64")),
        (torch.full((4, 10), 0.1), ONE_HOT.format((4, 10))),
        (torch.zeros(4, 10), ONE_HOT.format((4, 10))),
        (torch.ones(4, 10, dtype=torch.bool), ONE_HOT.format((4, 10))),
        (torch.tensor([[0, 2]] * 4), ONE_HOT.format((4, 2))),
        (torch.tensor([[float("nan"), 1.0]] * 4), ONE_HOT.format((4, 2))),
        (torch.ones(4, 1, dtype=torch.int64), ONE_HOT.format((4, 1))),
        (torch.eye(4), "one-hot `labels` have 4 columns, but num_classes is 10"),
        (torch.zeros(4, 2, 2), SHAPE.format((4, 2, 2))),
        (3, SHAPE.format(())),
        ("cats", INTEGERS.format("str")),
        (["cat", "dog", "cat", "dog"], INTEGERS.format("list")),
        (np.array(["cat"] * 4), INTEGERS.format("ndarray")),
        (None, INTEGERS.format("NoneType")),
        ([None, 1, 2, 3], INTEGERS.format("list")),
        ([[0], [1, 2], [3], [4]], INTEGERS.format("list")),
        ({"label": 1}, INTEGERS.format("dict")),
        ([2**70, 0, 0, 0], INTEGERS.format("list")),
        (Ellipsis, INTEGERS.format("ellipsis")),
        (
            torch.nested.nested_tensor([torch.tensor([0, 1]), torch.tensor([1, 0])], layout=torch.jagged),
            "`labels` must hold one class index per sample, got a nested tensor; join them with cat",
        ),
        (
            torch.zeros(4, dtype=torch.int64, device="meta"),
            "`labels` are on the meta device, which keeps no numbers; pass labels that have some",
        ),
        (
            [0, 1, 2],
            "`labels` must have one entry per sample: got 3 labels for 4 samples; "
            "check the loader, or pass label_fn to say where the labels are",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) and " " in value else repr(value)[:30],
)
def test_malformed_labels_are_told_what_to_do(labels: Any, message: str) -> None:
    with pytest.raises(LabelError) as raised:
        check_labels(labels, num_samples=4, num_classes=10)
    assert str(raised.value) == message


@pytest.mark.parametrize("num_classes", [2**62, 2**63, 10**30])
def test_more_classes_than_an_integer_counts_exclude_no_label(num_classes: int) -> None:
    assert check_labels([0, 3], num_classes=num_classes).tolist() == [0, 3]


def test_a_negative_label_is_refused_without_a_number_of_classes() -> None:
    with pytest.raises(LabelError, match="must hold non-negative integers, got -100 at position 1"):
        check_labels([0, -100])


def test_a_label_error_is_a_value_error() -> None:
    assert issubclass(LabelError, ValueError)


def naive_first_rows(labels: list[int], k: int) -> list[int]:
    rows = [row for row, label in enumerate(labels) if label == k]
    return rows[:3] if len(rows) >= 3 else rows[:1] * 3


def test_a_batch_counts_its_labels_as_a_loop_does() -> None:
    labels = torch.randint(7, (40,), generator=torch.Generator().manual_seed(0))
    labels = torch.cat([labels, torch.tensor([8, 9, 9])])
    batch = ClassBatch(labels, 11)
    present = sorted(set(labels.tolist()))
    assert batch.counts.tolist() == [labels.tolist().count(k) for k in range(11)]
    assert batch.present.tolist() == present
    assert batch.first_rows.tolist() == [naive_first_rows(labels.tolist(), k) for k in present]


def test_order_and_starts_give_each_class_its_rows() -> None:
    labels = torch.randint(7, (40,), generator=torch.Generator().manual_seed(0))
    batch = ClassBatch(labels, 11)
    bounds = zip(batch.present.tolist(), batch.starts[:-1].tolist(), batch.starts[1:].tolist(), strict=True)
    found = {k: batch.order[start:stop].tolist() for k, start, stop in bounds}
    assert found == {k: (labels == k).nonzero().flatten().tolist() for k in set(labels.tolist())}
    assert ClassBatch(labels[:0], 11).starts.tolist() == [0]


@pytest.mark.parametrize("max_rows", [1, 7, 50, 100])
def test_parts_cover_every_row_once_and_keep_to_the_limit(max_rows: int) -> None:
    batch = ClassBatch(torch.randint(3, (50,), generator=torch.Generator().manual_seed(0)), 4)
    rows: list[int] = []
    for chosen, part in batch.parts(max_rows):
        assert torch.equal(part.labels, batch.labels[chosen])
        assert 0 < len(part.labels) <= max_rows
        assert batch.parts(max_rows) is batch.parts(max_rows)  # made once for all layers
        rows += range(50)[chosen]
    assert rows == list(range(50))


@pytest.mark.parametrize("max_count", [1, 4, 100])
def test_runs_cover_every_row_once_and_keep_to_the_limit(max_count: int) -> None:
    labels = torch.randint(3, (50,), generator=torch.Generator().manual_seed(0))
    rows: list[int] = []
    for run in ClassBatch(labels, 4).runs(max_count):
        counts = torch.bincount(labels[run.rows], minlength=4)
        assert int(counts.max()) <= max_count
        assert torch.equal(run.classes, counts.nonzero().flatten())
        rows += range(50)[run.rows]
    assert rows == list(range(50))


def test_repeated_labels_follow_their_sample() -> None:
    batch = ClassBatch(torch.tensor([2, 0]), 3)
    assert batch.repeated(3).labels.tolist() == [2, 2, 2, 0, 0, 0]
    assert batch.repeated(1) is batch
    assert batch.repeated(3) is batch.repeated(3)

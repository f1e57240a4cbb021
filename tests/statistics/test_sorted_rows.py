"""Sums over class-sorted rows: the order of every sum is known, and nothing is read back to find the first samples."""

from typing import Any

import pytest
import torch
from torch import Tensor

import neurocollapse as nc
from neurocollapse.statistics import ClassBatch, ClassMoments, MomentAccumulator, adoption, extension, sorted_rows
from neurocollapse.statistics.class_batch import Bags
from neurocollapse.support.transfer import Readback
from tests.features import random_labels

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class-sorted rows, also on the CPU."""
    monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", "sorted")


def rows_of(bags: Bags, bag: int) -> list[int]:
    start, end = bags.starts[bag : bag + 2].tolist()
    return bags.order[start:end].tolist()


@pytest.mark.parametrize(
    ("labels", "num_classes"),
    [
        (random_labels(50, 4), 4),
        (random_labels(50, 4), 100),
        (torch.zeros(23, dtype=torch.int64), 3),
        (torch.tensor([5]), 6),
        (torch.tensor([], dtype=torch.int64), 3),
    ],
    ids=["even", "few of many", "one class", "one sample", "empty"],
)
@pytest.mark.parametrize("most", [1, 5, 64])
def test_bags_hold_the_rows_of_each_class_in_their_order(labels: Tensor, num_classes: int, most: int) -> None:
    batch = ClassBatch(labels, num_classes)
    bags = batch.bags(CPU, most)
    classes = range(num_classes) if bags.classes is None else bags.classes.tolist()
    assert set(labels.tolist()) <= set(classes)
    for place, k in enumerate(classes):
        found = [rows_of(bags, place * bags.per_class + bag) for bag in range(bags.per_class)]
        assert all(len(rows) <= most for rows in found) or bags.per_class == len(labels) // len(classes)
        assert [row for rows in found for row in rows] == (labels == k).nonzero().flatten().tolist()
    assert len(bags.starts) - 1 == len(classes) * bags.per_class <= max(len(labels), len(classes))
    assert batch.bags(CPU, most) is bags  # made once for all layers


def test_every_sum_adds_the_rows_of_a_class_one_after_the_other() -> None:
    labels, rows = random_labels(300, 9), torch.randn(300, 33, dtype=torch.float64)
    bags = ClassBatch(labels, 9).bags(CPU, 64)
    sums = sorted_rows._bag_sums(rows, bags.order, bags.starts)
    for k in range(9):
        expected = torch.zeros(33, dtype=torch.float64)
        for row in rows[labels == k]:
            expected += row
        assert torch.equal(sums[k], expected)


def test_many_rows_of_a_class_are_added_up_in_float64() -> None:
    rows = torch.full((40_000, 300), 0.1)
    layer = MomentAccumulator(1, 300)
    layer.update(torch.cat([torch.zeros(3, 300), rows]), ClassBatch(torch.zeros(40_003, dtype=torch.int64), 1))
    total = float((layer.sums.total + 40_003 * layer.sums.reference.double())[0, 0])
    assert total == pytest.approx(40_000 * float(rows[0, 0]), rel=1e-9)
    one = torch.embedding_bag(rows, torch.arange(40_000), torch.tensor([0]), mode=0)[0]
    assert float(one[0, 0]) != pytest.approx(4_000, rel=1e-5)  # a float32 sum of them all is worse


@pytest.mark.parametrize("width", [1, 31, 128, 129, 784, 1000, 1009, 4096])
@pytest.mark.parametrize("num_samples", [20, 200], ids=["one bag", "several"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_squares_add_up_to_the_squared_norms_at_any_width(width: int, num_samples: int, dtype: torch.dtype) -> None:
    rows = torch.randn(num_samples, width, dtype=dtype, generator=torch.Generator().manual_seed(0))
    layer = MomentAccumulator(1, width, dtype=dtype)
    square, shifted = layer.kernel.add_rows(
        rows,
        ClassBatch(torch.zeros(num_samples, dtype=torch.int64), 1),
        layer.sums,
        settle=False,
        keep_shifted=True,
    )
    torch.testing.assert_close(square, rows.double().square().sum().view(1), rtol=1e-7, atol=0)
    torch.testing.assert_close(layer.sums.total, rows.double().sum(dim=0).view(1, -1), rtol=0, atol=1e-4)
    assert shifted is not None
    assert torch.equal(shifted, rows.to(layer.sums.reference.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("num_samples", [900, 5000], ids=["in turn", "in bags"])
def test_rows_are_left_out_of_sums_of_any_number(num_samples: int, dtype: torch.dtype) -> None:
    rows = torch.randn(num_samples, 150, dtype=dtype, generator=torch.Generator().manual_seed(0))
    kept = torch.arange(num_samples) % 7 != 3
    rows[~kept, 4] = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=dtype)[torch.arange(int((~kept).sum())) % 3]
    layer = MomentAccumulator(1, 150, dtype=dtype, skip_non_finite=True)
    batch = ClassBatch(torch.zeros(num_samples, dtype=torch.int64), 1)
    assert (batch.bags(CPU, sorted_rows.MOST_IN_TURN).per_class == 1) == (num_samples == 900)
    layer.kernel.add_rows(rows, batch, layer.sums, settle=False, keep_shifted=False)
    total, square, count = rows[kept].double().sum(dim=0), rows[kept].double().square().sum(), float(kept.sum())
    assert layer.sums.kept is not None
    assert layer.sums.kept.tolist() == [count]
    torch.testing.assert_close(layer.sums.total, total.view(1, -1), rtol=0, atol=1e-9)  # 5,000 float64 numbers about 1
    torch.testing.assert_close(layer.sums.square, square.view(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("width", [1, 2, 150])
@pytest.mark.parametrize("by_column", [False, True])
def test_rows_that_are_not_finite_become_zeros_and_all_others_stay(
    width: int, by_column: bool, dtype: torch.dtype
) -> None:
    features = torch.randn(12, width, dtype=dtype, generator=torch.Generator().manual_seed(0))
    features[0] = 0.0
    features[1] = -0.0
    largest = 0.99 * torch.finfo(dtype).max / 2  # of float64 numbers the squares are infinite
    for row, value in enumerate([torch.nan, torch.inf, -torch.inf, largest, -largest], start=2):
        features[row, width // 2] = value
    features[7] = torch.tensor([torch.inf, -torch.inf], dtype=dtype).repeat(width)[:width]
    features[8] = torch.nan
    if by_column:
        features = features.T.contiguous().T
    bad = torch.tensor([2, 3, 4, 7, 8])
    for _ in range(2):  # the second time in memory that has been used
        rows = torch.full((12, width + 3), torch.nan, dtype=torch.float64)
        shifted = rows[:, :width].copy_(features)
        counted = sorted_rows._counted(features, shifted, rows)
        expected = torch.cat([features.double(), features.double().square().sum(dim=1, keepdim=True)], dim=1)
        expected = torch.cat([expected, torch.ones(12, 1, dtype=torch.float64)], dim=1).index_fill(0, bad, 0.0)
        torch.testing.assert_close(counted, expected, rtol=1e-14, atol=0)


def test_a_layer_without_features_leaves_out_nothing() -> None:
    layer = MomentAccumulator(3, 0, skip_non_finite=True)
    layer.update(torch.empty(6, 0), ClassBatch(random_labels(6, 3), 3))
    assert layer.moments().count.sum() == 6


@pytest.mark.parametrize("options", [{"covariance": True}, {"state_bytes": 8}], ids=str)
def test_features_too_large_for_float32_are_refused_at_the_end(options: dict[str, Any]) -> None:
    features = torch.randn(64, 200, generator=torch.Generator().manual_seed(0))
    features[:30] = 3e38  # their float64 squares are finite
    with pytest.raises(nc.NonFiniteError, match=r"^layer '\(root\)': features are finite, but too large to square"):
        nc.collect(
            torch.nn.Identity(),
            [(features, torch.zeros(64, dtype=torch.int64))],
            num_classes=1,
            non_finite="skip",
            **options,
        )


@pytest.mark.parametrize("num_classes", [3, 100], ids=["all classes", "few of many"])
@pytest.mark.parametrize("options", [{}, {"skip_non_finite": True}, {"state_bytes": 8}], ids=str)
def test_bags_of_a_class_are_added_to_its_own_sums(num_classes: int, options: dict[str, Any]) -> None:
    labels = torch.cat([torch.zeros(4000, dtype=torch.int64), random_labels(2000, 3)]) * (num_classes // 3)
    labels = labels[torch.randperm(6000, generator=torch.Generator().manual_seed(1))]
    features = torch.randn(6000, 150, generator=torch.Generator().manual_seed(2)) + labels.unsqueeze(1)
    layer = MomentAccumulator(num_classes, 150, **options)
    for _ in range(2):
        layer.update(features, ClassBatch(labels, num_classes))
    expected = ClassMoments.from_features(features.double().repeat(2, 1), labels.repeat(2), num_classes=num_classes)
    found = layer.moments()
    assert torch.equal(found.count, expected.count)
    present = found.count > 0  # float32 samples about 1, in float64 sums; those of 8 bytes are float32
    torch.testing.assert_close(found.mean[present], expected.mean[present], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.scatter, expected.scatter, rtol=2e-6, atol=0)


def test_numbers_of_bags_leave_little_behind() -> None:
    sorted_rows._filled.cache_clear()
    for number in range(2, 65):
        rows, total = torch.ones(2, number, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
        bags = Bags(torch.empty(0), torch.empty(0), per_class=number)
        sorted_rows._add_by_class(rows.flatten(0, 1), bags, (total,))
        assert total.tolist() == [[number] * 3] * 2
    assert sorted_rows._filled.cache_info().currsize == 6  # 2, 4, …, 64


def test_rows_that_are_not_finite_are_found_also_among_the_largest_numbers() -> None:
    rows = torch.zeros(6, 5)
    rows[1, 2], rows[2, 0], rows[3, 4], rows[4] = torch.nan, torch.inf, -torch.inf, torch.finfo().max
    for some in (rows, rows.double()):
        assert adoption._all_finite(some).tolist() == [True, False, False, False, True, True]


class Late(Readback):
    """Numbers that are there when they have been asked for some times."""

    patience = 3

    @property
    def is_there(self) -> bool:
        self.patience -= 1
        return self.patience < 0


@pytest.mark.parametrize("num_classes", [3, 40])
def test_first_finite_samples_are_found_on_the_device_however_late_it_answers(
    num_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    features, labels = torch.randn(600, 150, generator=generator), random_labels(600, num_classes)
    features[torch.rand(600, generator=generator) < 0.4, 7] = torch.nan
    features[labels == 1] = torch.inf  # this class never has a sample

    def references(kernel: str) -> Tensor:
        monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", kernel)
        accumulator = MomentAccumulator(num_classes, 150, skip_non_finite=True)
        for some, own in zip(features.split(20), labels.split(20), strict=True):
            accumulator.update(some, ClassBatch(own, num_classes))
            accumulator._rebase = lambda *arguments: None  # type: ignore[method-assign]
        return accumulator.sums.reference

    expected = references("torch")
    assert torch.equal(references("sorted"), expected)
    monkeypatch.setattr(adoption, "Readback", Late)
    assert torch.equal(references("sorted"), expected)


def accumulated(features: Tensor, labels: Tensor, num_classes: int, **options: Any) -> dict[str, Tensor]:
    accumulator = MomentAccumulator(num_classes, features.shape[1], **options)
    for some, own in zip(features.split(100), labels.split(100), strict=True):
        accumulator.update(some, ClassBatch(own, num_classes))
    return accumulator.state()


@pytest.mark.parametrize("options", [{}, {"covariance": True}, {"skip_non_finite": True}, {"state_bytes": 8}], ids=str)
def test_two_runs_agree_to_the_last_bit(options: dict[str, Any]) -> None:
    features, labels = torch.randn(900, 200), random_labels(900, 5)
    first, second = (accumulated(features, labels, 5, **options) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("others", ["torch", "compiled"])
@pytest.mark.parametrize("sorted_first", [True, False])
def test_a_run_that_left_samples_out_goes_on_with_another_kernel(
    others: str, sorted_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if others == "compiled" and extension.MISSING:
        pytest.skip(f"no compiled kernel here: {extension.MISSING}")
    features, labels = torch.randn(600, 200, generator=torch.Generator().manual_seed(0)), random_labels(600, 5)
    features[::7, 3] = torch.nan
    state, layer = None, MomentAccumulator(5, 200, skip_non_finite=True)
    for kernel, rows in zip(
        ("sorted", others)[:: 1 if sorted_first else -1], (slice(300), slice(300, None)), strict=True
    ):
        monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", kernel)
        layer = MomentAccumulator(5, 200, skip_non_finite=True)
        if state is not None:
            layer.load_state(state)
        for some, own in zip(features[rows].split(50), labels[rows].split(50), strict=True):
            layer.update(some, ClassBatch(own, 5))
        state = layer.state()
    kept = features.isfinite().all(dim=1)
    expected = ClassMoments.from_features(features[kept].double(), labels[kept])
    assert torch.equal(layer.dropped, torch.bincount(labels[~kept], minlength=5))
    assert torch.equal(layer.moments().count, expected.count)
    torch.testing.assert_close(layer.moments().mean, expected.mean, rtol=0, atol=1e-7)  # of float32 samples about 1
    torch.testing.assert_close(layer.moments().scatter, expected.scatter, rtol=1e-7, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num_classes", [10, 1000])
def test_two_runs_on_a_gpu_agree_to_the_last_bit_and_with_the_cpu(num_classes: int) -> None:
    features, labels = torch.randn(2000, 2048), random_labels(2000, num_classes)
    expected = accumulated(features, labels, num_classes)
    first, second = (accumulated(features.cuda(), labels, num_classes, device="cuda") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(first["square"].cpu(), expected["square"], rtol=1e-7, atol=0)

"""The running state grows, resumes to the last bit, skips what is not finite, and works in every gradient mode."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neurocollapse.statistics import (
    ClassBatch,
    ClassMoments,
    MomentAccumulator,
    read_state,
    state_bytes,
    working_dtype,
    write_state,
)

Stream = Callable[..., Any]
Same = Callable[[ClassMoments, ClassMoments], bool]


def drifting_batches(num_batches: int = 12, num_features: int = 200) -> list[tuple[Tensor, Tensor]]:
    """Batches whose classes drift and begin with outliers, so that references move; class 2 comes late."""
    generator = torch.Generator().manual_seed(4)
    batches = []
    for index in range(num_batches):
        labels = torch.randint(2 if index < 5 else 3, (30,), generator=generator)
        features = torch.randn(30, num_features, generator=generator) * 1e-2 + labels.unsqueeze(1) + index / 10
        if index == 0:  # of three outliers even the median is one
            labels[:6] = torch.arange(6) % 2
            features[:6] += 100.0
            batches.append((features[:6], labels[:6]))  # too few to look at the references
            features, labels = features[6:], labels[6:]
        batches.append((features, labels))
    return batches


def accumulate(
    batches: list[tuple[Tensor, Tensor]], accumulator: MomentAccumulator, num_classes: int = 3
) -> MomentAccumulator:
    for features, labels in batches:
        accumulator.update(features, ClassBatch(labels, num_classes))
    return accumulator


OPTIONS: list[dict[str, Any]] = [
    {},
    {"precision": "double"},
    {"covariance": True},
    {"covariance": True, "precision": "double"},
    {"skip_non_finite": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_resumed_run_is_the_unbroken_one_to_the_last_bit(options: Any, tmp_path: Path) -> None:
    batches = drifting_batches()
    unbroken = accumulate(batches, MomentAccumulator(3, 200, **options))
    for stop in range(len(batches) + 1):
        write_state(
            tmp_path / "state", "test", {}, accumulate(batches[:stop], MomentAccumulator(3, 200, **options)).state()
        )
        resumed = MomentAccumulator(3, 200, **options)
        resumed.load_state(read_state(tmp_path / "state", "test")[1])
        accumulate(batches[stop:], resumed)
        expected, found = unbroken.state(), resumed.state()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected), stop


def test_the_outliers_of_the_drifting_stream_do_move_references() -> None:
    batches = drifting_batches()
    before = accumulate(batches[:1], MomentAccumulator(3, 200)).sums.reference.clone()
    assert not torch.equal(accumulate(batches, MomentAccumulator(3, 200)).sums.reference[:2], before[:2])


@pytest.mark.parametrize("options", [{"covariance": True}, {"precision": "double"}], ids=str)
def test_another_runs_state_is_refused_and_leaves_this_one_alone(options: Any) -> None:
    plain = accumulate(drifting_batches(3), MomentAccumulator(3, 200))
    before = {name: tensor.clone() for name, tensor in plain.state().items()}
    for other in (MomentAccumulator(3, 200, **options), MomentAccumulator(4, 200), MomentAccumulator(3, 201)):
        with pytest.raises(ValueError, match=r"saved (state|'\w+') has .* this run needs"):
            plain.load_state(accumulate([], other).state())
    assert all(torch.equal(before[name], tensor) for name, tensor in plain.state().items())


def test_taking_the_moments_does_not_disturb_the_stream(same_moments: Same) -> None:
    batches = drifting_batches()
    undisturbed = accumulate(batches, MomentAccumulator(3, 200, covariance=True))
    looked_at = MomentAccumulator(3, 200, covariance=True)
    for features, labels in batches:
        looked_at.moments()
        looked_at.update(features, ClassBatch(labels, 3))
    assert same_moments(looked_at.moments(), undisturbed.moments())


def test_moments_are_a_copy_that_later_updates_leave_alone() -> None:
    batches = drifting_batches()
    for options in OPTIONS:
        accumulator = accumulate(batches[:1], MomentAccumulator(3, 200, **options))
        moments, reference = accumulator.moments(), accumulator.sums.reference.clone()
        scatter, mean = moments.scatter.clone(), moments.mean[:2].clone()
        accumulate(batches[1:], accumulator)
        assert not torch.equal(accumulator.sums.reference[:2], reference[:2])  # they have moved
        assert torch.equal(moments.scatter, scatter)
        assert torch.equal(moments.mean[:2], mean)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_growing_is_as_if_the_room_had_always_been_there(options: Any, same_moments: Same) -> None:
    batches = drifting_batches()
    roomy = accumulate(batches, MomentAccumulator(3, 200, **options))
    growing = accumulate(batches[:5], MomentAccumulator(2, 200, **options), num_classes=2)
    growing.grow(3)
    accumulate(batches[5:], growing)
    assert same_moments(growing.moments(), roomy.moments())


@pytest.mark.parametrize("num_features", [4, 200])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_are_left_out_and_counted(bad: float, num_features: int, two_pass: Any) -> None:
    features, labels = (torch.cat(part) for part in zip(*drifting_batches(), strict=True))
    spoilt = torch.rand(len(labels), generator=torch.Generator().manual_seed(0)) < 0.2
    spoilt[[int((labels == k).nonzero()[0]) for k in range(3)]] = True  # the first of every class
    features, finite = features[:, :num_features].clone(), ~spoilt
    features[spoilt, 1] = bad
    accumulator = MomentAccumulator(3, num_features, skip_non_finite=True, covariance=True)
    accumulate(list(zip(features.split(30), labels.split(30), strict=True)), accumulator)
    moments, expected = accumulator.moments(), two_pass(features[finite], labels[finite], 3)
    assert accumulator.sums.reference.isfinite().all()
    assert accumulator.dropped.tolist() == torch.bincount(labels[spoilt], minlength=3).tolist()
    assert torch.equal(moments.count, expected.count)
    torch.testing.assert_close(moments.scatter, expected.scatter, rtol=1e-6, atol=0)
    torch.testing.assert_close(moments.mean, expected.mean, rtol=1e-6, atol=0)


def test_a_spoilt_first_sample_costs_a_class_no_accuracy(two_pass: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    features = 1.0 + 1e-6 * torch.randn(300, 200, generator=generator)
    features[:40] = torch.nan  # a whole batch, then some
    labels = torch.zeros(300, dtype=torch.int64)
    accumulator = MomentAccumulator(1, 200, skip_non_finite=True)
    accumulate(list(zip(features.split(30), labels.split(30), strict=True)), accumulator, num_classes=1)
    expected = two_pass(features[40:], labels[40:], 1).scatter
    torch.testing.assert_close(accumulator.moments().scatter, expected, rtol=1e-6, atol=0)


def test_a_class_of_spoilt_samples_only_is_absent() -> None:
    accumulator = MomentAccumulator(2, 3, skip_non_finite=True)
    features = torch.tensor([[1.0, 2.0, 3.0], [torch.nan, 0.0, 0.0]])
    accumulator.update(features, ClassBatch(torch.tensor([0, 1]), 2))
    moments = accumulator.moments()
    assert moments.count.tolist() == [1, 0]
    assert moments.mean[1].isnan().all()


@pytest.mark.parametrize("num_features", [4, 200])
def test_an_update_tells_which_sample_is_not_finite_and_where_numbers_come_late_which_class(
    num_features: int, kernel: str
) -> None:
    features = torch.ones(6, num_features)
    features[3, 0], features[5, 2] = torch.nan, torch.inf
    accumulator = MomentAccumulator(2, num_features)
    accumulator.update(torch.ones(2, num_features), ClassBatch(torch.tensor([0, 1]), 2))
    spoilt = accumulator.update(features, ClassBatch(torch.tensor([0, 1, 0, 1, 0, 1]), 2))
    if isinstance(spoilt, Tensor):
        assert kernel == "sorted"
        assert spoilt.isfinite().tolist() == [True, False]
    else:
        assert spoilt == 3


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "grad": nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("inside", MODES)
def test_gradient_modes_change_nothing(inside: str, precision: str, same_moments: Same) -> None:
    options: Any = {"covariance": True, "precision": precision}
    batches = drifting_batches()
    expected = accumulate(batches, MomentAccumulator(3, 200, **options)).moments()
    with MODES[inside]():
        accumulator = accumulate(batches[:4], MomentAccumulator(2, 200, **options), num_classes=2)
        accumulator.grow(3)
    accumulate(batches[4:8], accumulator)  # state made inside must be usable outside
    with MODES[inside]():
        accumulate(batches[8:11], accumulator)
        accumulator.moments()
    accumulate(batches[11:], accumulator)
    assert same_moments(accumulator.moments(), expected)


def test_features_that_require_a_gradient_are_taken_without_it(same_moments: Same) -> None:
    batches = drifting_batches()
    attached = [(features.requires_grad_() * 1.0, labels) for features, labels in drifting_batches()]
    accumulator = accumulate(attached, MomentAccumulator(3, 200))
    assert not any(tensor.requires_grad for tensor in accumulator.state().values())
    assert same_moments(accumulator.moments(), accumulate(batches, MomentAccumulator(3, 200)).moments())


def test_features_are_left_as_they_were() -> None:
    features, labels = drifting_batches(1)[0]
    before = features.clone()
    MomentAccumulator(3, 200, skip_non_finite=True, covariance=True).update(features, ClassBatch(labels, 3))
    assert torch.equal(features, before)


def test_strided_features_are_read_right(same_moments: Same) -> None:
    batches = drifting_batches()
    strided = [(features.T.contiguous().T, labels) for features, labels in batches]
    expected = accumulate(batches, MomentAccumulator(3, 200, covariance=True)).moments()
    found = accumulate(strided, MomentAccumulator(3, 200, covariance=True)).moments()
    torch.testing.assert_close(found.scatter, expected.scatter, rtol=1e-12, atol=0)


def test_features_on_another_device_are_refused_in_one_line() -> None:
    accumulator = MomentAccumulator(3, 200)
    with pytest.raises(
        ValueError, match=r"^`features` must be on cpu like the running sums, got meta; move them there$"
    ):
        accumulator.update(torch.empty(30, 200, device="meta"), ClassBatch(drifting_batches()[2][1], 3))
    assert accumulator.num_batches == 0


@pytest.mark.parametrize("shape", [(30, 1), (30, 201), (29, 200), (30, 200, 1), (30,)])
def test_features_of_another_shape_are_refused_in_one_line(shape: tuple[int, ...]) -> None:
    accumulator = accumulate(drifting_batches()[2:3], MomentAccumulator(3, 200))
    labels = drifting_batches()[2][1]
    with pytest.raises(ValueError, match=r"`features` must have shape \(30, 200\) .*; pool or crop to one size$"):
        accumulator.update(torch.zeros(shape), ClassBatch(labels, 3))


def test_layers_share_their_scratch_without_mixing(same_moments: Same) -> None:
    batches = drifting_batches()
    alone = accumulate(batches, MomentAccumulator(3, 200)).moments()
    layers = [MomentAccumulator(3, width) for width in (150, 200, 170)]
    for features, labels in batches:
        batch = ClassBatch(labels, 3)
        for layer in layers:
            layer.update(features[:, : layer.num_features], batch)
    assert same_moments(layers[1].moments(), alone)


def test_threads_do_not_share_their_scratch(same_moments: Same) -> None:
    wide = drifting_batches(30, 600)
    streams = [wide, [(5 - 3 * features, labels) for features, labels in wide]]
    alone = [accumulate(batches, MomentAccumulator(3, 600)).moments() for batches in streams]
    with ThreadPoolExecutor(max_workers=2) as threads:
        for _ in range(10):
            together = threads.map(lambda batches: accumulate(batches, MomentAccumulator(3, 600)), streams)
            assert all(same_moments(one.moments(), other) for one, other in zip(together, alone, strict=True))


@pytest.mark.parametrize("covariance", [False, True])
@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("num_features", [1, 128, 129, 500])
def test_the_planned_bytes_are_those_held(
    num_features: int, dtype: torch.dtype, precision: str, covariance: bool
) -> None:
    accumulator = MomentAccumulator(7, num_features, precision=precision, dtype=dtype, covariance=covariance)
    accumulator.update(torch.zeros(20, num_features, dtype=dtype), ClassBatch(torch.arange(20) % 7, 7))
    tensors = [value for name, value in accumulator.state().items() if name != "progress"]
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    working = working_dtype(num_features, precision=precision, dtype=dtype)
    assert sum(held.values()) == state_bytes(7, num_features, working=working, covariance=covariance)


def test_the_state_does_not_grow_with_the_samples() -> None:
    accumulator = MomentAccumulator(3, 200, covariance=True)
    sizes = set()
    for features, labels in drifting_batches(40):
        accumulator.update(features, ClassBatch(labels, 3))
        sizes.add(sum(tensor.nbytes for tensor in accumulator.state().values()))
    assert len(sizes) == 1


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="`precision` must be one of 'single', 'double', got 'half'"):
        MomentAccumulator(2, 3, precision="half")

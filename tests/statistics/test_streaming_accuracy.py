"""The streamed moments are those of a float64 two-pass computation, whatever the stream looks like."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from neurocollapse.metrics import between_trace, compression, within_trace
from neurocollapse.statistics import ClassMoments

Stream = Callable[..., Any]
TwoPass = Callable[..., Any]
Relative = Callable[[Any, Any], float]

SINGLE = 1e-6  # the project's promise; measured: below 3e-7 in every case here
DOUBLE = 1e-12  # some 1e3 roundings of float64


def clustered(num_classes: int, num_features: int, ratio: float, *, num_samples: int, seed: int = 0) -> Any:
    """Gaussian classes whose deviations are `ratio` of their means, in float32, in random order."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64)
    labels = torch.cat([torch.arange(num_classes), torch.randint(num_classes, (num_samples,), generator=generator)])
    noise = torch.randn(len(labels), num_features, generator=generator, dtype=torch.float64)
    return (means[labels] + ratio * noise).float(), labels


def check(moments: ClassMoments, reference: Any, relative: Relative, tolerance: float) -> None:
    """Counts, scatters, traces, compression and means against the reference."""
    assert torch.equal(moments.count, reference.count)
    present = reference.count > 0
    means = reference.mean[present]
    offsets = means - means.mean(dim=0)
    within = float((reference.scatter[present] / reference.count[present]).mean())
    between = float(offsets.square().sum()) / len(means)
    errors = {
        "scatter": relative(moments.scatter, reference.scatter),
        "within": abs(within_trace(moments) / within - 1),
        "between": abs(between_trace(moments) / between - 1),
        "compression": abs(compression(moments) * between / within - 1),
        "mean": relative(moments.mean[present] - means.mean(dim=0), offsets),
    }
    assert all(error <= tolerance for error in errors.values()), errors


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("ratio", [1e1, 1e-1, 1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize(("num_classes", "num_features"), [(2, 1), (10, 128), (10, 129), (3, 4096), (500, 200)])
def test_stream_equals_two_pass_at_every_degree_of_collapse(
    num_classes: int,
    num_features: int,
    ratio: float,
    precision: str,
    stream: Stream,
    two_pass: TwoPass,
    relative: Relative,
) -> None:
    features, labels = clustered(num_classes, num_features, ratio, num_samples=4 * num_classes + 60)
    moments = stream(features, labels, num_classes, precision=precision).moments()
    tolerance = SINGLE if precision == "single" else DOUBLE
    check(moments, two_pass(features, labels, num_classes), relative, tolerance)


def unbalanced(features: Tensor, labels: Tensor) -> Any:
    kept = (labels > 1) | (torch.arange(len(labels)) < 20)
    return features[kept], labels[kept]


def class_sorted(features: Tensor, labels: Tensor) -> Any:
    order = labels.argsort(stable=True)
    return features[order], labels[order]


def outlier_first(features: Tensor, labels: Tensor) -> Any:
    features = features.clone()
    for k in range(int(labels.max()) + 1):
        features[(labels == k).nonzero()[0]] += 1.0  # 1000 deviations
    return features, labels


def late_outlier_class(features: Tensor, labels: Tensor) -> Any:
    features, labels = outlier_first(features, labels)
    late = labels == 0
    return torch.cat([features[~late], features[late]]), torch.cat([labels[~late], labels[late]])


def drifting(features: Tensor, labels: Tensor) -> Any:
    return features + torch.linspace(0, 1, len(labels)).unsqueeze(1), labels


def heavy_tailed(features: Tensor, labels: Tensor) -> Any:
    generator = torch.Generator().manual_seed(5)
    scale = torch.rand(len(labels), 1, generator=generator).pow(-1.0).clamp(max=1e4)  # infinite variance
    return features * (1 + 1e-2 * scale), labels


def far_from_origin(features: Tensor, labels: Tensor) -> Any:
    return features + 1e3, labels


STREAMS = [unbalanced, class_sorted, outlier_first, late_outlier_class, drifting, heavy_tailed, far_from_origin]


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("arrange", STREAMS, ids=lambda arrange: arrange.__name__)
@pytest.mark.parametrize("batch_size", [1, 64, 10_000], ids="batch{}".format)
def test_hard_streams_keep_their_accuracy(
    arrange: Callable[[Tensor, Tensor], Any],
    precision: str,
    batch_size: int,
    stream: Stream,
    two_pass: TwoPass,
    relative: Relative,
) -> None:
    features, labels = arrange(*clustered(5, 256, 1e-3, num_samples=700))
    moments = stream(features, labels, 5, precision=precision, batch_size=batch_size).moments()
    tolerance = SINGLE if precision == "single" else DOUBLE
    check(moments, two_pass(features, labels, 5), relative, tolerance)


@pytest.mark.parametrize("batch_size", [100, 5_000], ids="batch{}".format)
def test_an_outlier_among_the_first_samples_is_no_reference_for_many(
    batch_size: int, stream: Stream, two_pass: TwoPass, relative: Relative
) -> None:
    features, labels = clustered(1, 256, 1e-3, num_samples=5_000)
    features[0] += 1.0  # as a reference it would make the float32 roundings of all that follow add up: error 7e-6
    moments = stream(features, labels, 1, batch_size=batch_size).moments()
    assert relative(moments.scatter, two_pass(features, labels, 1).scatter) <= 2e-7


def test_an_outlier_that_comes_first_and_alone_is_soon_left(
    stream: Stream, two_pass: TwoPass, relative: Relative
) -> None:
    features, labels = clustered(1, 256, 1e-3, num_samples=5_000)
    features[0] += 1.0
    moments = stream(features, labels, 1, batch_size=1).moments()
    assert relative(moments.scatter, two_pass(features, labels, 1).scatter) <= SINGLE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("num_features", [16, 200])
def test_every_feature_dtype_is_measured_as_it_came(
    dtype: torch.dtype, num_features: int, stream: Stream, two_pass: TwoPass, relative: Relative
) -> None:
    features, labels = clustered(4, num_features, 0.1, num_samples=200)
    features = features.to(dtype)
    tolerance = DOUBLE if dtype == torch.float64 else SINGLE
    check(stream(features, labels, 4).moments(), two_pass(features, labels, 4), relative, tolerance)


@pytest.mark.parametrize(("precision", "tolerance"), [("single", 1e-7), ("double", 1e-12)])
@pytest.mark.parametrize("ratio", [1e-1, 1e-5])
def test_order_batch_size_and_merge_tree_change_nothing(
    ratio: float, precision: str, tolerance: float, stream: Stream, relative: Relative
) -> None:
    features, labels = clustered(5, 300, ratio, num_samples=1200, seed=2)
    whole = stream(features, labels, 5, precision=precision, batch_size=len(labels)).moments()
    generator = torch.Generator().manual_seed(3)
    shuffled = torch.randperm(len(labels), generator=generator)
    parts = [
        stream(features[rows], labels[rows], 5, precision=precision, batch_size=17).moments()
        for rows in shuffled.split([1, 0, 400, 299, 5, 500])
    ]
    left_to_right = parts[0]
    for part in parts[1:]:
        left_to_right = left_to_right.merge(part)
    variants = {
        "batches of 7": stream(features, labels, 5, precision=precision, batch_size=7).moments(),
        "shuffled": stream(features[shuffled], labels[shuffled], 5, precision=precision).moments(),
        "reversed": stream(features.flip(0), labels.flip(0), 5, precision=precision).moments(),
        "merged left to right": left_to_right,
        "merged as a tree": (parts[5].merge(parts[3])).merge(parts[1].merge(parts[0])).merge(parts[4].merge(parts[2])),
    }
    for name, moments in variants.items():
        assert torch.equal(moments.count, whole.count), name
        assert relative(moments.scatter, whole.scatter) <= tolerance, name
        assert abs(compression(moments) / compression(whole) - 1) <= tolerance, name
        assert relative(moments.mean, whole.mean) <= tolerance, name


def test_float64_state_measures_features_too_small_for_float32_squares(stream: Stream, two_pass: TwoPass) -> None:
    features, labels = clustered(3, 200, 0.5, num_samples=100)
    features = features * 1e-25
    moments = stream(features, labels, 3, precision="double").moments()
    torch.testing.assert_close(moments.scatter, two_pass(features, labels, 3).scatter, rtol=DOUBLE, atol=0)


def test_rotation_keeps_and_scale_squares_the_scatter(stream: Stream, relative: Relative) -> None:
    features, labels = clustered(4, 150, 0.2, num_samples=300)
    rotation, _ = torch.linalg.qr(torch.randn(150, 150, dtype=torch.float64, generator=torch.manual_seed(1)))
    plain = stream(features.double(), labels, 4).moments()
    rotated = stream(features.double() @ rotation, labels, 4).moments()
    assert relative(rotated.scatter, plain.scatter) <= DOUBLE
    scaled = stream(features * 1024.0, labels, 4).moments()  # a power of two: exact
    assert torch.equal(scaled.scatter, stream(features, labels, 4).moments().scatter * 1024.0**2)


def test_relabelling_the_classes_permutes_the_moments(stream: Stream) -> None:
    features, labels = clustered(4, 150, 0.2, num_samples=300)
    order = torch.tensor([2, 0, 3, 1])
    plain, relabelled = stream(features, labels, 4).moments(), stream(features, order[labels], 4).moments()
    assert torch.equal(relabelled.scatter[order], plain.scatter)
    assert torch.equal(relabelled.mean[order], plain.mean)


def test_scatter_of_two_points_is_half_their_squared_distance(stream: Stream) -> None:
    features = torch.zeros(2, 200)
    features[0, 0], features[1, 0], features[1, 199] = 3.0, 1.0, 4.0
    moments = stream(features, torch.tensor([0, 0]), 1).moments()
    assert moments.scatter.tolist() == [10.0]
    assert moments.mean[0, [0, 199]].tolist() == [2.0, 2.0]

"""The pooled within-class scatter matrix is the naive one, for any stream, merge and matmul setting."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from neurocollapse.metrics import within_class_covariance, within_trace
from neurocollapse.statistics import ClassBatch, ClassMoments, MomentAccumulator

Stream = Callable[..., Any]
Relative = Callable[[Any, Any], float]

# Of the largest entry: 2,048 float32 sums round by √2048·2⁻²⁴/√3 = 1.6e-6 together, the worst of 40,000 five times.
SINGLE = 8e-6
DOUBLE = 1e-13


def correlated(num_samples: int, num_features: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Five classes with correlated features, far from the origin, the first samples outliers, one class late."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(num_features, num_features, generator=generator) / num_features**0.5
    labels = torch.randint(4, (num_samples,), generator=generator)
    labels[-num_samples // 4 :] = torch.randint(5, (len(labels[-num_samples // 4 :]),), generator=generator)
    labels[:3] = torch.arange(3)
    features = torch.randn(num_samples, num_features, generator=generator) @ mixing + 10 * labels.unsqueeze(1)
    features[:3] += 300.0
    return features, labels


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("num_samples", "num_features", "batch_size"), [(60, 1, 7), (300, 9, 300), (5000, 200, 2600)])
def test_scatter_matrix_equals_the_naive_one(
    num_samples: int,
    num_features: int,
    batch_size: int,
    dtype: torch.dtype,
    precision: str,
    stream: Stream,
    two_pass: Callable[..., Any],
    relative: Relative,
) -> None:
    features, labels = correlated(num_samples, num_features)
    features = features.to(dtype)
    accumulator = stream(features, labels, 5, batch_size=batch_size, precision=precision, covariance=True)
    within = accumulator.moments().within_scatter
    exact = precision == "double" or dtype == torch.float64 or num_features <= 128
    assert relative(within, two_pass(features, labels, 5).within_scatter) <= (DOUBLE if exact else SINGLE)
    assert torch.equal(within, within.T)


@pytest.mark.parametrize(("precision", "tolerance"), [("single", 2e-5), ("double", 1e-12)])
def test_moving_the_references_leaves_it_alone(
    precision: str, tolerance: float, two_pass: Callable[..., Any], relative: Relative
) -> None:
    features, labels = correlated(5000, 200)
    labels[:12] = torch.arange(12) % 4
    features[:12] += 300.0  # of three outliers even the median is one
    accumulator = MomentAccumulator(5, 200, precision=precision, covariance=True)
    for rows in torch.arange(5000).split(20):
        accumulator.update(features[rows], ClassBatch(labels[rows], 5))
    assert (accumulator.sums.reference < 100).all()
    within = accumulator.moments().within_scatter
    assert relative(within, two_pass(features, labels, 5).within_scatter) <= tolerance


@pytest.mark.parametrize("precision", ["single", "double"])
def test_its_trace_is_the_within_trace(precision: str, stream: Stream) -> None:
    moments = stream(*correlated(5000, 200), 5, precision=precision, covariance=True).moments()
    trace = float(within_class_covariance(moments).trace())
    assert trace == pytest.approx(
        within_trace(moments, weighting="frequency"), rel=DOUBLE if precision == "double" else 1e-6
    )


@pytest.mark.parametrize("precision", ["single", "double"])
def test_merging_parts_gives_the_matrix_of_the_whole(precision: str, stream: Stream, relative: Relative) -> None:
    features, labels = correlated(3000, 150)
    options: Any = {"precision": precision, "covariance": True}
    merged: Any = ClassMoments.empty(5, 150, covariance=True)
    for rows in torch.arange(3000).split([1, 700, 0, 2299]):
        merged = merged.merge(stream(features[rows], labels[rows], 5, **options).moments())
    whole = stream(features, labels, 5, **options).moments()
    assert relative(merged.within_scatter, whole.within_scatter) <= (DOUBLE if precision == "double" else SINGLE)
    assert torch.equal(merged.within_scatter, merged.within_scatter.T)


def test_it_is_positive_definite_where_the_samples_span_every_direction(stream: Stream) -> None:
    moments = stream(*correlated(3000, 150), 5, precision="double", covariance=True).moments()
    spectrum = torch.linalg.eigvalsh(within_class_covariance(moments))
    assert float(spectrum[0]) > 0


def test_it_has_no_more_rank_than_samples_leave(stream: Stream) -> None:
    features, labels = correlated(8, 150)  # eight samples of two to five classes
    moments = stream(features, labels, 5, covariance=True).moments()
    spectrum = torch.linalg.eigvalsh(within_class_covariance(moments))
    rank = int((spectrum > 1e-6 * spectrum[-1]).sum())  # float32 products leave 1e-7
    assert rank == 8 - moments.present.numel()


def test_rotating_the_features_rotates_it(stream: Stream, relative: Relative) -> None:
    features, labels = correlated(600, 40)
    rotation, _ = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    plain = stream(features.double(), labels, 5, covariance=True).moments().within_scatter
    rotated = stream(features.double() @ rotation, labels, 5, covariance=True).moments().within_scatter
    assert relative(rotated, rotation.T @ plain @ rotation) <= DOUBLE


def test_moving_the_classes_leaves_it_alone(stream: Stream, relative: Relative) -> None:
    features, labels = correlated(600, 40)
    offset = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    plain = stream(features.double(), labels, 5, covariance=True).moments().within_scatter
    moved = stream(features.double() + offset[labels], labels, 5, covariance=True).moments().within_scatter
    assert relative(moved, plain) <= DOUBLE


def test_two_points_have_half_the_outer_product_of_their_difference() -> None:
    moments = ClassMoments.from_features([[0.0, 1.0], [4.0, 3.0]], [0, 0], covariance=True)
    assert moments.within_scatter is not None
    assert moments.within_scatter.tolist() == [[8.0, 4.0], [4.0, 2.0]]


def test_layers_without_features_do_not_fail() -> None:
    moments = ClassMoments.from_features(torch.empty(2, 0), [0, 1], covariance=True)
    assert moments.within_scatter is not None
    assert moments.within_scatter.shape == (0, 0)


class MatmulSettings(TorchFunctionMode):
    """Notes the float32 precision in force at every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.addmm_:
            self.seen.add(precision_in_force())
        return function(*args, **kwargs or {})


def precision_in_force() -> str:
    """What the CUDA backend does with float32 products: "ieee" is full precision."""
    matmul: Any = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):
        return str(matmul.fp32_precision)
    return "tf32" if matmul.allow_tf32 else "ieee"


@pytest.mark.parametrize("setting", ["medium", "high", "highest"])
def test_the_users_matmul_precision_is_neither_used_nor_changed(
    setting: str,
    float32_matmul: Callable[[str], None],
    stream: Stream,
    two_pass: Callable[..., Any],
    relative: Relative,
) -> None:
    features, labels = correlated(5000, 200)
    float32_matmul(setting)
    before = precision_in_force()
    accumulator = MomentAccumulator(5, 200, covariance=True)
    with MatmulSettings() as settings:
        accumulator.update(features, ClassBatch(labels, 5))
    assert settings.seen == {"ieee"}
    assert (torch.get_float32_matmul_precision(), precision_in_force()) == (setting, before)
    expected = two_pass(features, labels, 5).within_scatter
    assert relative(accumulator.moments().within_scatter, expected) <= SINGLE

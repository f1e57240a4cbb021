"""What the README promises of single precision, at its limits and beyond them."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import neurocollapse as nc
from neurocollapse.metrics import compression, fuzziness

CLASSES, FEATURES = 6, 200


def clustered(ratio: float, *, scale: float = 1.0, each: int = 60) -> tuple[Tensor, Tensor]:
    """Float32 features whose classes are `ratio` times as wide as far from the origin."""
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES * each) % CLASSES
    means = torch.randn(CLASSES, FEATURES, generator=source)
    noise = torch.randn(len(labels), FEATURES, generator=source)
    return scale * (means[labels] + ratio * noise), labels


def streamed(
    features: Tensor, labels: Tensor, first: int = 64, *, small: int = 64, **options: Any
) -> nc.MomentCollection:
    """The moments of a stream that may begin with a batch of another size."""
    sizes = [first, *[small] * (len(labels) // small + 1)]
    ends = torch.tensor(sizes).cumsum(0).clamp(max=len(labels)).tolist()
    batches = [(features[start:end], labels[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    return nc.collect(torch.nn.Identity(), batches, progress=False, **options)


def naive(features: Tensor, labels: Tensor) -> float:
    """D in two passes over float64."""
    wide = features.double()
    means = torch.stack([wide[labels == index].mean(0) for index in range(CLASSES)])
    squares = (wide - means[labels]).square().sum(1)
    within = torch.stack([squares[labels == index].mean() for index in range(CLASSES)]).mean()
    return float(within / (means - means.mean(0)).square().sum(1).mean())


def warned(moments: nc.MomentCollection) -> bool:
    """Whether a measurement warns of tiny features."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nc.measure(moments)
    return any("float32 squares underflow" in str(one.message) for one in caught)


@pytest.mark.parametrize("exponent", [-10, -13, -14, -15, -16, -17, -19])
@pytest.mark.parametrize("ratio", [1e-1, 1e-3, 1e-5])
def test_tiny_features_keep_the_promise_or_are_warned_of(exponent: int, ratio: float) -> None:
    features, labels = clustered(ratio, scale=10.0**exponent)
    moments = streamed(features, labels)
    error = abs(compression(moments["(root)"]) / naive(features, labels) - 1)
    assert warned(moments) == (ratio * 10.0**exponent < 2e-19)  # whose square is float32's smallest normal number
    assert error < 1e-7 or warned(moments)
    double = streamed(features, labels, precision="double")
    assert abs(compression(double["(root)"]) / naive(features, labels) - 1) < 1e-11
    assert not warned(double)


@pytest.mark.parametrize("exponent", [-140, -154, -156, -158, -160])
def test_doubles_whose_squares_underflow_are_warned_of(exponent: int) -> None:
    features, labels = clustered(1.0)
    wide = features.double()
    found = streamed(10.0**exponent * wide, labels, precision="double")
    error = abs(compression(found["(root)"]) / naive(wide, labels) - 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nc.measure(found)
    assert any("float64 squares underflow" in str(one.message) for one in caught) == (exponent < -155)
    assert error < 1e-12 or exponent < -155


def test_features_that_underflow_to_collapse_are_warned_of() -> None:
    features, labels = clustered(1e-6, scale=1e-18)
    moments = streamed(features, labels)
    assert compression(moments["(root)"]) < 0.1 * naive(features, labels)
    assert warned(moments)


def test_collapse_at_an_ordinary_scale_is_no_underflow() -> None:
    features, labels = clustered(0.0, scale=1e-9)
    assert not warned(streamed(features, labels))


@pytest.mark.parametrize("along_one_feature", [True, False])
@pytest.mark.parametrize("distance", [1e3, 1e4, 1e6, 1e8])
@pytest.mark.parametrize(("first", "small"), [(CLASSES, 64), (CLASSES, CLASSES)])
@pytest.mark.parametrize("ratio", [1e-1, 1e-3])
def test_a_first_sample_of_every_class_that_lies_far_away(
    along_one_feature: bool, distance: float, first: int, small: int, ratio: float
) -> None:
    features, labels = clustered(ratio, each=300)
    source = torch.Generator().manual_seed(1)
    for index in range(CLASSES):
        if along_one_feature:
            features[index, index] += ratio * distance
        else:
            features[index] += ratio * distance * torch.randn(FEATURES, generator=source)
    found = compression(streamed(features, labels, first, small=small)["(root)"])
    # the README's limit; 5e-6 came of references that stayed until the 32nd sample
    assert abs(found / naive(features, labels) - 1) < 2e-6


@pytest.mark.parametrize("drift", [1.0, 100.0, 1000.0])
def test_fuzziness_under_drift_orthogonal_to_the_class_means(drift: float) -> None:
    features, labels = clustered(1e-1, each=200)
    wide = features.double()
    means = torch.stack([wide[labels == index].mean(0) for index in range(CLASSES)])
    axes = torch.linalg.svd(means - means.mean(0), full_matrices=False)[2][: CLASSES - 1]
    direction = torch.randn(FEATURES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    direction -= axes.T @ (axes @ direction)
    features = (wide + drift * torch.linspace(0, 1, len(wide)).double()[:, None] * direction).float()
    exact = streamed(features.double(), labels, covariance=True)
    found = streamed(features, labels, covariance=True)
    double = streamed(features, labels, covariance=True, precision="double")
    expected = fuzziness(exact["(root)"]).value
    assert fuzziness(found["(root)"]).value == pytest.approx(expected, rel=1e-5)
    assert fuzziness(double["(root)"]).value == pytest.approx(expected, rel=1e-12)

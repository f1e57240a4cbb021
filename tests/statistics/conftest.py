"""Reference answers and ways of streaming that the tests of the statistics share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from neurocollapse.statistics import ClassBatch, ClassMoments, MomentAccumulator, extension


@dataclass(frozen=True)
class Reference:
    """What a float64 two-pass computation says: shapes (classes,), (classes, features), (classes,), (d, d)."""

    count: Tensor
    mean: Tensor
    scatter: Tensor
    within_scatter: Tensor


def compute_two_pass(features: Tensor, labels: Tensor, num_classes: int) -> Reference:
    """Class by class in float64: first the mean, then the deviations from it."""
    values, width = features.double(), features.shape[1]
    mean = torch.full((num_classes, width), torch.nan, dtype=torch.float64)
    scatter = torch.zeros(num_classes, dtype=torch.float64)
    within = torch.zeros(width, width, dtype=torch.float64)
    for k in range(num_classes):
        members = values[labels == k]
        if len(members) == 0:
            continue
        mean[k] = members.mean(dim=0)
        mean[k] += (members - mean[k]).mean(dim=0)  # the mean's own rounding would show at 1e-7 of it
        deviation = members - mean[k]
        scatter[k] = (deviation**2).sum()
        within += deviation.T @ deviation
    return Reference(torch.bincount(labels, minlength=num_classes), mean, scatter, within)


def run_stream(
    features: Tensor, labels: Tensor, num_classes: int, *, batch_size: int = 64, **options: Any
) -> MomentAccumulator:
    """An accumulator that has seen the features in consecutive batches."""
    options = {"dtype": features.dtype} | options
    accumulator = MomentAccumulator(num_classes, features.shape[1], **options)
    for start in range(0, len(labels), batch_size):
        rows = slice(start, start + batch_size)
        accumulator.update(features[rows], ClassBatch(labels[rows], num_classes))
    return accumulator


@pytest.fixture(params=["torch", "compiled", "sorted"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test of the statistics runs on all kernels, also in the processes that it starts."""
    if request.param == "compiled" and extension.MISSING:
        pytest.skip(f"no compiled kernel here: {extension.MISSING}")
    monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def two_pass() -> Callable[..., Reference]:
    return compute_two_pass


@pytest.fixture(scope="session")
def stream() -> Callable[..., MomentAccumulator]:
    return run_stream


@pytest.fixture(scope="session")
def relative() -> Callable[[Any, Any], float]:
    """Largest absolute difference over the largest absolute reference value."""

    def difference(found: Any, expected: Any) -> float:
        found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
        return float((found - expected).abs().max() / expected.abs().max())

    return difference


@pytest.fixture
def float32_matmul() -> Iterator[Callable[[str], None]]:
    """Sets torch's float32 matmul precision for one test."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="session")
def same_moments() -> Callable[[ClassMoments, ClassMoments], bool]:
    """Whether two moments agree to the last bit."""

    def same(left: ClassMoments, right: ClassMoments) -> bool:
        names = ("count", "reference", "offset_sum", "offset_square", "within_scatter")
        pairs = [(getattr(left, name), getattr(right, name)) for name in names]
        return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)

    return same

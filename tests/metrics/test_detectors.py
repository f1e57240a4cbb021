"""Max-softmax and Mahalanobis: naive doubles, closed forms, invariances, and what is undefined."""

import math

import pytest
import torch
from torch import Tensor

from neurocollapse.metrics import mahalanobis, max_softmax
from neurocollapse.statistics import ClassMoments


def classes(features: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Three classes of correlated features."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    mixing = torch.randn(features, features, generator=generator, dtype=torch.float64)
    spread = torch.randn(90, features, generator=generator, dtype=torch.float64) @ mixing
    return (4 * torch.eye(3, features, dtype=torch.float64)[labels] + spread).to(dtype), labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_max_softmax_is_its_definition(dtype: torch.dtype) -> None:
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    expected = [max(math.exp(a) / sum(math.exp(b) for b in row) for a in row) for row in logits.tolist()]
    found = max_softmax(logits)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert max_softmax(logits + 1000.0).tolist() == pytest.approx(expected, rel=1e-3)  # and never overflows
    assert max_softmax(torch.zeros(2, 7)).tolist() == pytest.approx([1 / 7] * 2, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mahalanobis_is_its_definition(dtype: torch.dtype) -> None:
    features, labels = classes(dtype=dtype)
    rows = torch.randn(11, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    means = [features[labels == k].double().mean(dim=0) for k in range(3)]
    centred = features.double() - torch.stack(means)[labels]
    inverse = torch.linalg.inv(sum(torch.outer(one, one) for one in centred) / 90)
    expected = [-min(float((row - mean) @ inverse @ (row - mean)) for mean in means) for row in rows.double()]
    found = mahalanobis(ClassMoments.from_features(features, labels, covariance=True), rows)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-9)  # of a well-conditioned covariance


def test_mahalanobis_does_not_change_under_invertible_maps() -> None:
    features, labels = classes()
    rows = features[:20] + 1.0
    turned = torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = [
        mahalanobis(ClassMoments.from_features(one, labels, covariance=True), other)
        for one, other in ((features, rows), (features @ turned + 7.0, rows @ turned + 7.0))
    ]
    torch.testing.assert_close(*found, rtol=1e-8, atol=0)  # the map has a condition number near 30


def test_directions_in_which_no_class_varies_are_left_out() -> None:
    features, labels = classes()
    dead = torch.cat([features, torch.zeros(90, 2)], dim=1)
    rows = features[:20] + 1.0
    fires = torch.cat([rows, torch.ones(20, 2)], dim=1)
    expected = mahalanobis(ClassMoments.from_features(features, labels, covariance=True), rows)
    found = mahalanobis(ClassMoments.from_features(dead, labels, covariance=True), fires)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_what_mahalanobis_says_at_the_edges() -> None:
    collapsed = ClassMoments.from_features(torch.eye(3), [0, 1, 2], covariance=True)
    assert mahalanobis(collapsed, torch.ones(2, 3)).tolist() == [0.0, 0.0]
    nothing = ClassMoments.from_features(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 2, covariance=True)
    assert mahalanobis(nothing, torch.ones(2, 3)).isnan().all()
    with pytest.raises(ValueError, match="covariance=True"):
        mahalanobis(ClassMoments.from_features(torch.eye(3), [0, 1, 2]), torch.ones(2, 3))

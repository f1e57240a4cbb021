"""The nearest point is what float64 differences say, however close the call."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from neurocollapse.statistics import nearest
from neurocollapse.statistics.nearest import NearestMean


def expected(rows: Tensor, points: Tensor) -> list[int]:
    return cdist(rows.double().numpy(), points.numpy(), "sqeuclidean").argmin(axis=1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("num_points", "num_features"), [(1, 3), (2, 1), (7, 40), (300, 5)])
def test_rows_find_what_all_differences_find(num_points: int, num_features: int, dtype: torch.dtype) -> None:
    generator = np.random.default_rng(0)
    points = torch.from_numpy(generator.normal(size=(num_points, num_features)))
    rows = torch.from_numpy(generator.normal(size=(200, num_features))).to(dtype)
    assert NearestMean(points, like=rows)(rows).tolist() == expected(rows, points)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_close_calls_are_decided_by_differences(dtype: torch.dtype) -> None:
    # The points differ in the sixth digit: float32 scores about their mean, which a far point moves, do not tell.
    points = torch.tensor([[1.0, 0.0], [1.0, 1e-6], [1.0, 2e-6], [500.0, 500.0]], dtype=torch.float64)
    rows = torch.stack([torch.ones(50), torch.linspace(-1e-6, 3e-6, 50)], dim=1).to(dtype)
    assert NearestMean(points, like=rows)(rows).tolist() == expected(rows, points)


def test_the_first_of_equally_near_points_is_taken() -> None:
    grid = np.random.default_rng(0)
    points = torch.from_numpy(grid.integers(0, 3, size=(9, 2)).astype(float)) + 2.0**30
    rows = torch.from_numpy(grid.integers(0, 3, size=(60, 2)).astype(float)) + 2.0**30
    assert NearestMean(points, like=rows)(rows).tolist() == expected(rows, points)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_points_that_all_coincide_are_not_compared_row_by_row(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    points, rows = torch.full((5, 3), value).double(), torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(NearestMean, "_decided", None)
    assert NearestMean(points, like=rows)(rows).tolist() == expected(rows, points)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicates_and_near_duplicates_far_from_the_origin_give_the_first(dtype: torch.dtype, offset: float) -> None:
    generator = np.random.default_rng(1)
    points = torch.from_numpy(generator.normal(size=(40, 6))).to(dtype).double()
    points = torch.cat([points, points, points + 1e-7 * torch.from_numpy(generator.normal(size=(40, 6)))]) + offset
    rows = torch.cat([points[::3], torch.from_numpy(generator.normal(size=(60, 6))) + offset]).to(dtype)
    assert NearestMean(points, like=rows)(rows).tolist() == expected(rows, points)


def test_blocks_of_rows_and_of_close_calls_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.eye(6, dtype=torch.float64)
    rows = torch.ones(11, 6, dtype=torch.float64)
    monkeypatch.setattr(nearest, "SCORE_ELEMENTS", 20)
    monkeypatch.setattr(nearest, "PAIR_ELEMENTS", 30)
    assert NearestMean(points, like=rows)(rows).tolist() == [0] * 11
    assert NearestMean(points, like=rows)(rows[:0]).tolist() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("height", [1, 7, 500])
def test_what_is_asked_for_later_is_the_same(height: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    points = torch.from_numpy(generator.normal(size=(30, 6)))
    points = torch.cat([points, points[:3], points[:9] + 1e-7]) + 100.0
    rows = torch.cat([points[::3], torch.from_numpy(generator.normal(size=(60, 6))) + 100.0]).to(dtype)
    monkeypatch.setattr(nearest, "SCORE_ELEMENTS", height * len(points))
    find = NearestMean(points, like=rows)
    at_once, changed = find(rows), rows.clone()
    assert 0 < find._scored(rows).unclear.sum() < len(rows)
    with torch.inference_mode():
        later = find.later(changed)
    changed.zero_()
    assert torch.equal(later(), at_once)
    assert at_once.tolist() == expected(rows, points)
    assert torch.equal(find.later(rows[:0])(), at_once[:0])


def test_true_places_are_those_that_nonzero_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (0, 1, 1000):
        mask = torch.rand(size, generator=generator) < 0.1
        assert torch.equal(nearest._true_places(mask, int(mask.sum())), mask.nonzero().flatten())

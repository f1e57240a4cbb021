"""The sweep over pairs of classes gives the same numbers in tiles, in blocks, and in float32."""

import dataclasses
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import neurocollapse as nc
from neurocollapse.metrics import class_cdnv, class_cosine, class_distance, pairs
from neurocollapse.metrics.means import ClassMeans
from neurocollapse.metrics.pairs import PairStatistics, pair_statistics
from neurocollapse.statistics import ClassMoments


def random_moments(
    num_classes: int, num_features: int, *, groups: int = 0, noise: float = 1.0, offset: float = 0.3
) -> ClassMoments:
    """Normal class means, or clusters of them, unequal counts, and some spread; every seventh class is absent."""
    generator = np.random.default_rng(num_classes)
    means = generator.normal(size=(num_classes, num_features)) * noise + offset
    if groups:
        means += generator.normal(size=(groups, num_features))[generator.integers(groups, size=num_classes)]
    count = torch.from_numpy(generator.integers(1, 9, size=num_classes))
    count[3::7] = 0
    spread = torch.from_numpy(generator.uniform(1, 3, size=num_classes)) * count
    empty = torch.zeros(num_classes, num_features, dtype=torch.float64)
    return ClassMoments(count, torch.from_numpy(means), empty, spread)


def statistics(moments: ClassMoments) -> PairStatistics:
    return pair_statistics(ClassMeans(moments))


def assert_same(found: PairStatistics, expected: PairStatistics, tolerance: float) -> None:
    for field in dataclasses.fields(expected):
        value, other = (np.asarray(getattr(one, field.name)) for one in (found, expected))
        np.testing.assert_allclose(value, other, rtol=tolerance, atol=tolerance, err_msg=field.name)


@pytest.mark.parametrize(("num_classes", "num_features"), [(40, 60), (40, 6), (41, 1)])
def test_tiles_and_blocks_change_nothing(num_classes: int, num_features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = random_moments(num_classes, num_features)
    expected = statistics(moments)
    monkeypatch.setattr(pairs, "TILE", 7)
    assert_same(statistics(moments), expected, 1e-12)
    monkeypatch.setattr(pairs, "GROUP_ELEMENTS", 100)  # two tiles at once
    monkeypatch.setattr("neurocollapse.metrics.means.HELD_ELEMENTS", 10)
    monkeypatch.setattr("neurocollapse.statistics.moments.BLOCK_ELEMENTS", 200)
    monkeypatch.setattr("neurocollapse.metrics.tile.CHUNK_ELEMENTS", 30)
    assert_same(statistics(moments), expected, 1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"groups": 40, "noise": 0.3},
        {"groups": 100, "noise": 0.02},
        {"groups": 3, "noise": 0.05},
        {"offset": 50.0},
        {"offset": 1e6},
    ],
    ids=str,
)
def test_many_classes_in_float32_keep_nine_digits(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    moments = random_moments(700, 30, **options)
    expected = statistics(moments)
    monkeypatch.setattr(pairs, "DOUBLE_CLASSES", 100)
    monkeypatch.setattr(pairs, "TILE", 128)
    found = statistics(moments)
    # 180,000 pairs: a mean over n of them is off by about 1e-7/√n, and extremes are redone in float64.
    assert_same(found, expected, 1e-8)
    assert found.cosine == pytest.approx(expected.cosine, abs=1e-14)
    assert found.cdnv_max == pytest.approx(expected.cdnv_max, rel=1e-12)
    assert found.minority_angle == pytest.approx(expected.minority_angle, abs=1e-14)


def test_float32_is_not_used_where_classes_may_collapse_to_a_simplex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "DOUBLE_CLASSES", 10)
    found = statistics(ClassMoments.from_features(torch.eye(40), torch.arange(40)))
    assert max(found.nc2_angles, found.nc2_simplex, found.nc2_distance, found.gnc2_variation) <= 1e-12


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_float32_neither_overflows_nor_underflows(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "DOUBLE_CLASSES", 100)
    moments = random_moments(300, 10)
    scaled = dataclasses.replace(
        moments, reference=scale * moments.reference, offset_square=scale**2 * moments.offset_square
    )
    assert_same(statistics(scaled), statistics(moments), 1e-7)


def test_coinciding_class_means_are_found_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "DOUBLE_CLASSES", 100)
    monkeypatch.setattr(pairs, "TILE", 64)
    moments = random_moments(300, 10)
    moments.reference[250] = moments.reference[20]
    assert statistics(moments).cdnv == statistics(moments).cdnv_max == math.inf
    assert statistics(moments).cdnv_max_pair == (20 - 3, 250 - 36)  # positions among those that are present
    moments.offset_square[[20, 250]] = 0.0
    assert math.isnan(statistics(dataclasses.replace(moments)).cdnv_max)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        made = out if isinstance(out, tuple | list) else [out]
        self.elements = max([self.elements, *(one.numel() for one in made if isinstance(one, torch.Tensor))])
        return out


def test_nothing_as_large_as_all_pairs_is_formed() -> None:
    moments = random_moments(2600, 4)
    with Largest() as largest:
        statistics(moments)
    assert largest.elements <= pairs.TILE**2  # there are 20 times as many pairs


def naive_matrices(double: Any, features: Any, labels: Any, classes: int) -> dict[str, np.ndarray]:
    """The three matrices, pair by pair."""
    naive = double.naive(features, labels)
    found = {name: np.full((classes, classes), np.nan) for name in ("class_cosine", "class_distance", "class_cdnv")}
    for i, one in enumerate(naive.classes):
        found["class_cosine"][one, one] = 1.0 if naive.mu[i].any() else np.nan
        found["class_distance"][one, one] = 0.0
        for j, two in enumerate(naive.classes):
            if i != j:
                norms = np.linalg.norm(naive.mu[i]) * np.linalg.norm(naive.mu[j])
                found["class_cosine"][one, two] = naive.mu[i] @ naive.mu[j] / norms
                found["class_distance"][one, two] = np.linalg.norm(naive.m[i] - naive.m[j])
                found["class_cdnv"][one, two] = naive._cdnv(i, j)
    return found


@pytest.mark.parametrize("tile", [512, 2])
@pytest.mark.parametrize("sizes", [[4, 7, 2, 5], [3, 0, 5, 0, 0, 2, 9], [6], [0, 3]], ids=str)
def test_matrices_over_pairs_are_what_each_pair_gives(
    double: Any, sizes: list[int], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "TILE", tile)
    features, labels = double.blobs(sizes, 5)
    moments = ClassMoments.from_features(features, labels, len(sizes))
    expected = naive_matrices(double, features, labels, len(sizes))
    dataset = nc.measure({"a": moments, "b": moments}, quantities="compression", pairs=True)
    for function in (class_cosine, class_distance, class_cdnv):
        name = function.__name__
        np.testing.assert_allclose(function(moments), expected[name], rtol=1e-12, atol=1e-13)
        assert dataset[name].dims == ("layer", "class", "class_")
        np.testing.assert_array_equal(dataset[name].sel(layer="b"), function(moments))
    assert dataset["class_"].values.tolist() == list(range(len(sizes)))


def test_matrices_come_only_when_asked_for(double: Any) -> None:
    moments = ClassMoments.from_features(*double.blobs([3, 4], 5))
    assert "class_" not in nc.measure({"fc": moments}).dims
    assert set(nc.measure({"fc": moments}, quantities="pairs").data_vars) == {
        "class_cosine",
        "class_cosine_unbiased",
        "class_distance",
        "class_cdnv",
    }


def test_matrices_that_do_not_fit_are_refused_with_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = ClassMoments.empty(2_000, 2)
    monkeypatch.setattr(sys.modules["neurocollapse.metrics.measure"], "memory_limit", lambda device: 2**27)
    with pytest.raises(nc.MemoryPlanError, match=r"2000 classes at 1 layers need 0\.2 GiB, but only 0\.1 GiB"):
        nc.measure({"fc": moments}, pairs=True)


def test_class_means_at_the_centre_have_distances_but_no_cosines() -> None:
    moments = ClassMoments.from_features([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], [0, 1, 2])
    cosines = class_cosine(moments)
    assert cosines[0, 2] == -1.0
    assert cosines[1].isnan().all()
    assert cosines[:, 1].isnan().all()
    assert class_distance(moments)[0].tolist() == pytest.approx([0.0, 1.0, 2.0])
    assert math.isnan(float(class_cdnv(moments)[1, 1]))

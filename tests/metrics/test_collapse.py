"""Every metric of neural collapse is what its definition says, and has the limits it claims."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from neurocollapse import metrics
from neurocollapse.metrics import QUANTITIES
from neurocollapse.statistics import ClassBatch, ClassMoments, MomentAccumulator, Reader

FROM_MEANS = (
    *("compression", "separation", "separation_etf", "discrimination", "cdnv", "cdnv_max"),
    *("nc2_norms", "nc2_angles", "nc2_simplex", "nc2_distance", "nc2_orthogonal"),
    *("gnc2", "gnc2_variation", "minority_angle", "seli_distance"),
)
FROM_READER = ("nc3", "nc3_raw", "nc3_product", "unc3")
FROM_ROWS = ("nc1", "nc4", "ncm_error")
ZERO = (
    *("compression", "nc1", "cdnv", "cdnv_max", "nc2_norms", "nc2_angles", "nc2_simplex", "nc2_distance"),
    *("gnc2_variation", "nc3", "nc3_product", "unc3", "ncm_error", "seli_distance"),
)
"""What is zero at full collapse of balanced classes."""
CASES = {
    "balanced": ([8] * 5, 12),
    "unbalanced": ([3, 20, 1, 9, 9, 40], 10),
    "absent": ([4, 0, 7, 0, 0, 6, 5, 0], 9),
    "more classes than features": ([5, 4, 3, 6, 7, 8, 9, 5, 4, 3, 2, 12], 4),
    "as many classes as features": ([4] * 6, 6),
    "two classes": ([6, 3], 5),
    "one sample a class": ([1] * 6, 8),
    "one feature": ([7, 5, 9], 1),
}
cases = pytest.mark.parametrize("case", CASES)


def random_head(num_classes: int, num_features: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(num_classes, num_features)) + 0.2


@cases
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_number_is_what_its_definition_says(double: Any, case: str, dtype: str) -> None:
    sizes, width = CASES[case]
    features, labels = double.blobs(sizes, width)
    features = features.astype(dtype)
    weight = random_head(len(sizes), width)
    logits = features.astype(np.float64) @ weight.T
    found = double.two_passes(
        features, labels, num_classes=len(sizes), weight=weight, logits=logits, dtype=dtype,
        quantities=["collapse", "compression", "geometry", "one_vs_rest_margin"],
    )  # fmt: skip
    naive = double.naive(features, labels, weight, logits)
    for name in (*FROM_MEANS, *FROM_READER, *FROM_ROWS):
        # Moments are in float64 here; only the second pass works in the features' own dtype.
        tolerance = 1e-6 if dtype == "float32" and name == "nc1" else 1e-11
        expected = getattr(naive, name)()
        assert float(found[name]) == pytest.approx(expected, rel=tolerance, abs=1e-11, nan_ok=True), name
    # The double is an iterative solver.
    assert float(found["one_vs_rest_margin"]) == pytest.approx(naive.one_vs_rest_margin(), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4, 1e-6])
def test_streamed_float32_features_keep_six_digits_at_any_spread(double: Any, spread: float) -> None:
    features, labels = double.blobs([50] * 10, 300, spread=spread, offset=3.0)
    features, weight = features.astype(np.float32), random_head(10, 300)
    accumulator = MomentAccumulator(10, 300, precision="single", device="cpu")
    for start in range(0, 500, 64):
        part = slice(start, start + 64)
        accumulator.update(torch.from_numpy(features[part]), ClassBatch(torch.from_numpy(labels[part]), 10))
    logits = features.astype(np.float64) @ weight.T
    found = double.two_passes(
        features, labels, moments=accumulator.moments(), weight=weight, logits=logits, dtype="float32",
        quantities=["collapse", "compression", "geometry"],
    )  # fmt: skip
    naive = double.naive(features, labels, weight, logits)
    for name in (*FROM_MEANS, *FROM_READER, *FROM_ROWS):
        assert float(found[name]) == pytest.approx(getattr(naive, name)(), rel=1e-6), name


@cases
def test_the_pair_of_the_largest_cdnv_is_the_worst_told_one(double: Any, case: str) -> None:
    sizes, width = CASES[case]
    features, labels = double.blobs(sizes, width)
    found = double.two_passes(features, labels, num_classes=len(sizes), quantities=["cdnv_max", "cdnv_max_pair"])
    first, second = (int(np.searchsorted(np.unique(labels), index)) for index in found["cdnv_max_pair"].values)
    assert first < second
    assert double.naive(features, labels)._cdnv(first, second) == pytest.approx(float(found["cdnv_max"]), rel=1e-12)


@cases
@pytest.mark.parametrize("weighting", ["equal", "frequency"])
def test_nc1_is_the_same_from_a_second_pass_and_from_the_covariance(double: Any, case: str, weighting: str) -> None:
    sizes, width = CASES[case]
    features, labels = double.blobs(sizes, width)
    moments = ClassMoments.from_features(features, labels, len(sizes), covariance=True)
    again = double.two_passes(features, labels, moments=moments, quantities="nc1", weighting=weighting)
    expected = double.naive(features, labels).nc1(weighting)
    assert metrics.nc1(moments, weighting=weighting) == pytest.approx(expected, rel=1e-10, abs=1e-13)
    assert float(again["nc1"]) == pytest.approx(expected, rel=1e-10, abs=1e-13)
    with_covariance = metrics.measure({"fc": moments}, quantities="collapse", weighting=weighting)  # no second pass
    assert with_covariance["nc1"].item() == pytest.approx(expected, rel=1e-10, abs=1e-13)


def test_nc1_needs_a_second_pass_only_without_the_covariance() -> None:
    chosen = metrics.chosen_quantities("nc1")
    assert chosen.need("second_pass")
    assert not chosen.need("second_pass", given=("covariance",))
    assert metrics.chosen_quantities("collapse").need("second_pass", given=("covariance",))  # NC4 does
    with pytest.raises(metrics.QuantityError, match="'nc1' needs a second pass"):
        metrics.measure({"fc": ClassMoments.from_features(torch.eye(3), [0, 1, 2])}, quantities="nc1")


@pytest.mark.parametrize(("num_classes", "width"), [(2, 3), (3, 2), (4, 12), (10, 9), (10, 64), (100, 128)])
def test_a_simplex_without_spread_is_full_collapse(double: Any, num_classes: int, width: int) -> None:
    labels = np.tile(np.arange(num_classes), 3)
    vertices = 7 * double.simplex(num_classes, max(width, num_classes))[:, : max(width, num_classes)]
    features = vertices[labels]
    found = double.two_passes(
        features, labels, weight=0.3 * vertices, logits=features @ vertices.T,
        quantities=["collapse", "compression", "geometry", "one_vs_rest_margin"],
    )  # fmt: skip
    for name in ZERO:
        assert abs(float(found[name])) <= 1e-12, name
    assert float(found["compression"]) == float(found["nc1"]) == float(found["cdnv"]) == 0.0
    assert float(found["nc4"]) == 1.0
    assert float(found["gnc2"]) == pytest.approx(-math.log(2 * num_classes / (num_classes - 1)) / 2, abs=1e-12)
    assert float(found["one_vs_rest_margin"]) == pytest.approx(num_classes / (num_classes - 1), abs=1e-9)


def test_numbers_near_collapse_keep_their_digits(double: Any) -> None:
    # A simplex disturbed by 1e-9: differences of squares would read 0 or 1e-8.
    vertices = double.simplex(6, 9) + 1e-9 * np.random.default_rng(3).normal(size=(6, 9))
    labels = np.arange(6)
    found, naive = metrics_of(vertices, labels, vertices[::-1].copy()), double.naive(vertices, labels)
    for name in ("nc2_norms", "nc2_angles", "nc2_simplex", "nc2_distance", "gnc2_variation"):
        assert 1e-10 < found[name] < 1e-7
        assert found[name] == pytest.approx(getattr(naive, name)(), rel=1e-5), name  # 1e-16 of rounding in 1e-9


def metrics_of(features: Any, labels: Any, weight: Any = None) -> dict[str, float]:
    """The numbers from class means by their public functions."""
    moments = ClassMoments.from_features(features, labels)
    found = {name: getattr(metrics, name)(moments) for name in FROM_MEANS if name != "separation_etf"}
    if weight is not None:
        reader = Reader(torch.from_numpy(np.ascontiguousarray(weight)))
        found |= {name: getattr(metrics, name)(moments, reader) for name in FROM_READER}
    return found


def test_orthogonal_class_means_are_where_linear_networks_end() -> None:
    found = metrics_of(3 * np.eye(7, 11), np.arange(7))
    assert found["nc2_orthogonal"] <= 1e-12
    assert found["nc2_distance"] <= 1e-12  # about their mean they are a simplex
    assert found["discrimination"] == pytest.approx(1.0, abs=1e-15)


@cases
def test_rotation_scale_shift_and_names_of_classes_change_nothing(double: Any, case: str) -> None:
    sizes, width = CASES[case]
    features, labels = double.blobs(sizes, width)
    weight, classes = random_head(len(sizes), width), len(sizes)
    turn = np.linalg.qr(np.random.default_rng(7).normal(size=(width, width)))[0]
    renamed = np.random.default_rng(8).permutation(classes)
    options = {"num_classes": classes, "quantities": ["collapse", "geometry", "compression"]}
    expected = double.two_passes(features, labels, weight=weight, logits=features @ weight.T, **options)
    rotated = double.two_passes(
        3e4 * features @ turn, labels, weight=weight @ turn, logits=features @ weight.T, **options
    )
    other = weight[np.argsort(renamed)]
    named = double.two_passes(features, renamed[labels], weight=other, logits=features @ other.T, **options)
    moved = double.two_passes(features + 40, labels, weight=weight, logits=features @ weight.T, **options)
    for name in (*FROM_MEANS, *FROM_READER, *FROM_ROWS):
        value = float(expected[name])
        assert float(rotated[name]) == pytest.approx(value, rel=1e-9, abs=1e-10, nan_ok=True), name
        assert float(named[name]) == pytest.approx(value, rel=1e-9, abs=1e-10, nan_ok=True), name
        if name not in ("discrimination", "nc2_orthogonal"):  # about the origin
            assert float(moved[name]) == pytest.approx(value, rel=1e-9, abs=1e-10, nan_ok=True), name


@pytest.mark.parametrize("sizes", [[5], [0, 4, 0], [1]], ids=["one", "one of three", "one sample"])
def test_one_class_leaves_everything_undefined(double: Any, sizes: list[int]) -> None:
    features, labels = double.blobs(sizes, 4)
    weight = random_head(len(sizes), 4)
    found = double.two_passes(
        features, labels, num_classes=len(sizes), weight=weight, logits=features @ weight.T,
        quantities=["collapse", "compression", "geometry", "one_vs_rest_margin"],
    )  # fmt: skip
    for name in (*FROM_MEANS, *FROM_READER, *FROM_ROWS, "one_vs_rest_margin", "nc1_cutoff"):
        assert math.isnan(float(found[name])), name
    assert np.isnan(found["cdnv_max_pair"].values).all()
    assert int(found["nc1_rank"]) == 0


def test_no_samples_leave_everything_undefined() -> None:
    moments = ClassMoments.empty(4, 3)
    for name in FROM_MEANS:
        if name != "separation_etf":
            assert math.isnan(getattr(metrics, name)(moments)), name


def test_coinciding_class_means_have_no_geometry_about_their_centre() -> None:
    features, labels = np.array([[1.0, 2.0], [3.0, 2.0], [1.0, 2.0], [3.0, 2.0]]), np.array([0, 0, 1, 1])
    found = metrics_of(features, labels, np.eye(2))
    for name in ("separation", "nc2_norms", "nc2_angles", "nc2_simplex", "nc2_distance", "gnc2", "seli_distance"):
        assert math.isnan(found[name]), name
    assert found["cdnv"] == found["cdnv_max"] == math.inf
    assert found["discrimination"] == pytest.approx(0.0, abs=1e-15)
    assert math.isnan(found["nc3"])
    assert math.isnan(metrics.cdnv(ClassMoments.from_features(features[[0, 0]], [0, 1])))  # no spread either


def test_a_class_mean_at_the_centre_has_no_direction_but_a_distance() -> None:
    found = metrics_of(np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]), np.arange(3), np.eye(3, 2))
    for name in ("separation", "nc2_angles", "nc2_simplex", "gnc2", "gnc2_variation", "minority_angle", "unc3"):
        assert math.isnan(found[name]), name
    for name in ("nc2_norms", "nc2_distance", "seli_distance", "cdnv", "nc3", "nc3_product"):
        assert math.isfinite(found[name]), name


def test_equal_directions_have_infinite_energy() -> None:
    features = np.array([[1.0, 0.0], [2.0, 0.0], [-1.0, 1.0], [-2.0, -1.0]])
    moments = ClassMoments.from_features(features, np.arange(4))
    assert metrics.gnc2(moments) == math.inf
    assert math.isnan(metrics.gnc2_variation(moments))


@pytest.mark.parametrize("apart", [1e-2, 1e-5, 1e-8])
def test_close_class_means_keep_their_digits(double: Any, apart: float) -> None:
    features, labels = double.blobs([6, 5, 4, 7, 5], 8, offset=20.0)
    features[labels == 1] += (1 + apart) * features[labels == 0].mean(axis=0) - features[labels == 1].mean(axis=0)
    found, naive = metrics_of(features, labels), double.naive(features, labels)
    for name in ("cdnv", "cdnv_max", "gnc2", "gnc2_variation", "separation"):
        # The class means themselves are known to 1e-16 of 60, which is 1e-6 of a distance of 1e-8.
        assert found[name] == pytest.approx(getattr(naive, name)(), rel=max(1e-11, 1e-13 / apart)), name


def test_class_means_near_the_origin_keep_their_angles_about_it(double: Any) -> None:
    features, labels = double.blobs([1] * 5, 8, offset=1e4)
    features[:2] = 1e-4 * np.random.default_rng(1).normal(size=(2, 8))
    naive, found = double.naive(features, labels), metrics_of(features, labels)
    assert found["discrimination"] == pytest.approx(naive.discrimination(), abs=1e-12)
    assert found["nc2_orthogonal"] == pytest.approx(naive.nc2_orthogonal(), abs=1e-12)


@pytest.mark.parametrize("counts", [[5, 5, 5, 5], [40, 40, 4, 4], [9, 3, 1], [2, 7, 7, 7, 30, 2, 1]])
def test_the_geometry_of_unequal_counts_is_recognised(double: Any, counts: list[int]) -> None:
    classes = len(counts)
    labels = np.repeat(np.arange(classes), counts)
    encoded = (labels == np.arange(classes)[:, None]) - 1 / classes
    _, values, right = np.linalg.svd(encoded, full_matrices=False)
    features = 3 * (right.T * np.sqrt(values)) @ np.linalg.qr(np.random.default_rng(0).normal(size=(9, 9)))[0][:classes]
    found = metrics_of(features, labels)
    assert found["seli_distance"] <= 1e-12
    assert (found["nc2_distance"] > 0.1) == (len(set(counts)) > 1)


def test_collapsed_minorities_have_a_cosine_of_one(double: Any) -> None:
    vertices = double.simplex(6, 8)
    vertices[4] = vertices[5]
    labels = np.repeat(np.arange(6), [30, 30, 30, 30, 2, 3])
    assert metrics.minority_angle(ClassMoments.from_features(vertices[labels], labels)) == pytest.approx(1.0, abs=1e-12)
    labels = np.repeat(np.arange(6), [2, 3, 30, 30, 30, 30])  # now the rare ones are told apart
    assert metrics.minority_angle(ClassMoments.from_features(vertices[labels], labels)) < 0.1


def test_a_reader_of_another_size_has_no_duality(double: Any) -> None:
    features, labels = double.blobs([4] * 5, 6)
    moments = ClassMoments.from_features(features, labels)
    for name in FROM_READER:
        assert math.isnan(getattr(metrics, name)(moments, Reader(torch.randn(7, 6, dtype=torch.float64))))
    found = double.two_passes(features, labels, weight=random_head(7, 6), quantities="collapse")
    assert not set(FROM_READER) & set(found.data_vars)


def test_a_single_logit_decides_between_two_classes() -> None:
    features, labels = torch.tensor([[0.0], [1.0], [8.0], [9.0]]), torch.tensor([0, 0, 1, 1])
    moments = ClassMoments.from_features(features, labels)
    assert metrics.nc4(moments, features, torch.tensor([[-2.0], [3.0], [1.0], [2.0]])) == 0.75


def test_samples_of_absent_classes_are_nearest_to_none_of_them(double: Any) -> None:
    features, labels = double.blobs([5, 0, 5], 3, offset=50.0)  # a zero mean of class 1 would be far off, 0 and 2 not
    moments = ClassMoments.from_features(features, labels, 3)
    logits = np.zeros((10, 3))
    logits[:, 1] = 1.0
    assert metrics.nc4(moments, torch.from_numpy(features), torch.from_numpy(logits)) == 0.0
    assert metrics.ncm_error(moments, torch.from_numpy(features), torch.from_numpy(labels)) < 0.5


@pytest.mark.parametrize("num_features", [12, 4])
def test_duality_in_blocks_is_the_same(double: Any, num_features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = double.blobs([3] * 9, num_features)
    expected = metrics_of(features, labels, random_head(9, num_features))
    monkeypatch.setattr("neurocollapse.metrics.duality.PRODUCT_ELEMENTS", 20)
    monkeypatch.setattr("neurocollapse.statistics.moments.BLOCK_ELEMENTS", 20)
    assert metrics_of(features, labels, random_head(9, num_features)) == pytest.approx(expected, rel=1e-12)


def test_a_class_mean_at_the_origin_has_no_angle_there(double: Any) -> None:
    features, labels = double.blobs([1] * 5, 8)
    features[2] = 0.0
    found = metrics_of(features, labels)
    assert math.isnan(found["discrimination"])
    assert found["nc2_orthogonal"] == pytest.approx(double.naive(features, labels).nc2_orthogonal(), rel=1e-11)


def test_directions_that_rounding_alone_gives_do_not_count(double: Any) -> None:
    features, labels = double.blobs([20] * 6, 9)
    centres = np.random.default_rng(2).normal(size=(6, 2)) @ np.random.default_rng(3).normal(size=(2, 9))
    for k in range(6):  # class means in a plane, up to the last bits
        features[labels == k] += centres[k] - features[labels == k].mean(axis=0)
    found = double.two_passes(features, labels, quantities=["nc1", "nc1_rank", "nc1_cutoff"])
    assert int(found["nc1_rank"]) == 2
    assert 0 < float(found["nc1_cutoff"]) < 1e-12
    assert float(found["nc1"]) == pytest.approx(double.naive(features, labels).nc1(), rel=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_floor_of_nc1_is_that_of_noise_as_large_as_rounding(double: Any, dtype: str) -> None:
    labels = np.tile(np.arange(4), 500)
    vertices = double.simplex(4, 6)
    deviation = {"float32": 1.1e-6, "float64": 1.1e-14}[dtype]  # where D just is the network's
    noise = deviation * math.sqrt(3 / 4 / 6) * np.random.default_rng(0).normal(size=(2000, 6))
    found = double.two_passes(vertices[labels] + noise, labels, quantities=["nc1", "nc1_floor"], dtype=dtype)
    assert float(found["nc1"]) / float(found["nc1_floor"]) == pytest.approx(1.1**2, rel=0.1)


def test_many_classes_have_a_bound_for_their_margin(double: Any) -> None:
    moments = ClassMoments.from_features(torch.from_numpy(double.blobs([1] * 201, 30)[0]), torch.arange(201))
    with pytest.warns(metrics.PrecisionWarning, match="upper bound for 201 classes"):
        bound = metrics.one_vs_rest_margin(moments)
    directions = torch.nn.functional.normalize(moments.mean - moments.mean.mean(dim=0))
    assert bound == pytest.approx(float(torch.pdist(directions).min()), rel=1e-9)


def test_every_quantity_says_what_it_is() -> None:
    bare = {"nc1_rank", "nc1_cutoff", "nc1_floor", "cdnv_max_pair"}
    for quantity in QUANTITIES:
        if quantity.family in ("collapse", "pairs"):
            assert quantity.convention, quantity.name
            assert quantity.reference, quantity.name
            assert quantity.symbol, quantity.name
            assert bool(quantity.heading) == (quantity.family == "collapse" and quantity.name not in bare), (
                quantity.name
            )

"""What published implementations of neural-collapse metrics get wrong, and these do not."""

from typing import Any

import numpy as np
import pytest

from neurocollapse import metrics
from neurocollapse.statistics import ClassMoments


def test_nc1_does_not_grow_with_the_samples_of_a_class(double: Any) -> None:
    values = [float(double.two_passes(*double.blobs([n] * 10, 32), quantities="nc1")["nc1"]) for n in (50, 500)]
    assert values[0] == pytest.approx(values[1], rel=0.2)


def test_nc1_of_many_classes_keeps_its_digits_in_float32(double: Any) -> None:
    sizes, generator = [4] * 150, np.random.default_rng(0)
    features, labels = double.blobs(sizes, 160)
    features *= np.logspace(0, -3, 160)  # Σ_B has a condition number of 1e6 and more: a float32 inverse is far off
    features = features @ np.linalg.qr(generator.normal(size=(160, 160)))[0]
    single = double.two_passes(features.astype(np.float32), labels, quantities="nc1", dtype="float32")
    assert float(single["nc1"]) == pytest.approx(double.naive(features.astype(np.float32), labels).nc1(), rel=1e-6)


def test_absent_classes_are_no_classes_with_a_zero_mean(double: Any) -> None:
    features, labels = double.blobs([5, 0, 4, 0, 7, 6], 8)
    options = {"quantities": ["collapse", "geometry", "compression"], "logits": features[:, :6]}
    weight = np.random.default_rng(1).normal(size=(6, 8))
    sparse = double.two_passes(features, labels, num_classes=6, weight=weight, **options)
    present = np.array([0, 2, 4, 5])
    options["logits"] = np.where(np.isin(np.arange(6), present), features[:, :6], -np.inf)[:, present]
    dense = double.two_passes(features, np.searchsorted(present, labels), weight=weight[present], **options)
    for name in set(sparse.data_vars) - {"nc4", "cdnv_max_pair"}:  # a decision for an absent class agrees with none
        assert float(sparse[name]) == pytest.approx(float(dense[name]), rel=1e-12), name


def test_class_means_count_equally_however_many_samples_they_are_of(double: Any) -> None:
    features, labels = double.blobs([3, 5, 4, 6], 7)
    often = np.concatenate([np.arange(len(labels)), *[np.flatnonzero(labels == 2)] * 9])  # the same means and spreads
    found, expected = (
        metrics.measure(
            {"fc": ClassMoments.from_features(features[rows], labels[rows])}, quantities="collapse, geometry"
        )
        for rows in (often, slice(None))
    )
    for name in set(found.data_vars) - {"minority_angle", "seli_distance"}:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12, err_msg=name)


def test_no_class_is_compared_with_itself() -> None:
    # Of two classes there is one pair: with each class's own, the mean CDNV would be infinite and cosines half of 1.
    moments = ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1])
    assert metrics.cdnv(moments) == metrics.cdnv_max(moments) == 0.5 / 36
    assert metrics.nc2_simplex(moments) == pytest.approx(0.0, abs=1e-15)

"""Ranks and spectra of the total covariance: naive doubles, planted spectra, invariances, few samples."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import linalg

import neurocollapse as nc
from neurocollapse.metrics import SampleWarning, spectrum
from neurocollapse.statistics import ClassMoments, LayerRecord, MomentCollection

NAMES = {
    "covariance_effective_rank",
    "covariance_numerical_rank",
    "participation_ratio",
    "participation_ratio_corrected",
    "stable_rank",
    "spectral_decay",
    "lidar",
}


def naive(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every number from the features themselves: singular values, traces of products, an inverse."""
    count = len(features)
    centred = features - features.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)
    share = values[values > 1e-12 * values[0]] / values.sum()
    sample = centred.T @ centred / (count - 1)
    square, trace = np.trace(sample @ sample), np.trace(sample)
    nu = count - 1
    true_square = nu**2 / ((nu - 1) * (nu + 2)) * (square - trace**2 / nu)
    used = values[values > 1e-12 * values[0]] ** 2
    line = np.polyfit(np.log(np.arange(1, len(used) + 1)), np.log(used), 1, w=np.arange(1, len(used) + 1) ** -0.5)
    means = np.stack([features[labels == k].mean(axis=0) for k in np.unique(labels)])
    residual = features - means[np.searchsorted(np.unique(labels), labels)]
    offset = means - means.mean(axis=0)
    root = np.real(linalg.fractional_matrix_power(residual.T @ residual / count, -0.5))
    found = np.linalg.eigvalsh(root @ (offset.T @ offset / len(means)) @ root)[::-1][: len(means) - 1]
    return {
        "covariance_effective_rank": math.exp(-(share * np.log(share)).sum()),
        "covariance_numerical_rank": float(np.argmax(np.cumsum(values) >= 0.95 * values.sum()) + 1),
        "participation_ratio": values.dot(values) ** 2 / (values**4).sum(),
        "participation_ratio_corrected": (trace**2 - 2 * true_square / nu) / true_square,
        "stable_rank": (values**2).sum() / values[0] ** 2,
        "spectral_decay": -line[0],
        "lidar": math.exp(-(found / found.sum() * np.log(found / found.sum())).sum()),
    }


@pytest.mark.parametrize("sizes", [(20, 20, 20), (5, 0, 60, 40)])
def test_the_numbers_are_the_naive_ones(double: Any, sizes: tuple[int, ...]) -> None:
    features, labels = double.blobs(sizes, 9, spread=0.7)
    features = features * np.linspace(0.2, 2, 9)
    moments = ClassMoments.from_features(features, labels, len(sizes), covariance=True)
    dataset = nc.measure({"fc": moments}, quantities="spectrum")
    assert set(dataset.data_vars) == NAMES
    expected = naive(features, labels)
    assert {name: dataset[name].item() for name in NAMES} == pytest.approx(expected, rel=1e-9)


def test_equal_eigenvalues_are_all_counted_and_one_as_one() -> None:
    equal = np.concatenate([np.eye(6), -np.eye(6)])
    values = spectrum.total_spectrum(ClassMoments.from_features(equal, [0] * 12, covariance=True))
    assert values == pytest.approx(np.full(6, 1 / 6))
    for rank in (spectrum.participation_ratio, spectrum.stable_rank, spectrum.covariance_effective_rank):
        assert rank(values) == pytest.approx(6)
    assert spectrum.spectral_decay(values) == pytest.approx(0, abs=1e-12)
    line = np.outer(np.arange(5.0), [1, 2, 0, 0])
    values = spectrum.total_spectrum(ClassMoments.from_features(line, [0, 0, 1, 1, 1], covariance=True))
    assert np.count_nonzero(values) == 1
    assert [f(values) for f in (spectrum.participation_ratio, spectrum.stable_rank)] == pytest.approx([1, 1])
    assert spectrum.covariance_numerical_rank(values) == 1


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_the_corrected_participation_ratio_beats_the_raw_one_at_as_many_samples_as_features(decay: float) -> None:
    """Planted spectra i^−α of 60 features, 60 samples: the raw ratio misses by up to one half."""
    generator = np.random.default_rng(0)
    planted = np.arange(1, 61) ** -decay
    truth = planted.sum() ** 2 / (planted**2).sum()
    found = []
    for _ in range(60):
        features = generator.normal(size=(60, 60)) * np.sqrt(planted)
        values = spectrum.total_spectrum(ClassMoments.from_features(features, [0] * 60, covariance=True))
        found.append([spectrum.participation_ratio(values), spectrum.participation_ratio_corrected(values, 60)])
    raw, corrected = np.mean(found, axis=0)
    assert abs(corrected / truth - 1) < 0.06
    assert abs(corrected - truth) < 0.3 * abs(raw - truth)
    errors = np.abs(np.array(found) - truth).mean(axis=0)
    assert errors[1] < 0.7 * errors[0]  # and draw by draw, noise included


def test_the_traces_behind_the_correction_are_unbiased() -> None:
    """2,000 draws of 6 normal samples: the corrected numerator and denominator meet tr Σ² and (tr Σ)² on average."""
    generator = np.random.default_rng(1)
    planted = np.array([3.0, 1.0, 0.5])
    draws = generator.normal(size=(2000, 6, 3)) * np.sqrt(planted)
    centred = draws - draws.mean(axis=1, keepdims=True)
    sample = np.einsum("rni,rnj->rij", centred, centred) / 5
    square, trace_square = (sample**2).sum(axis=(1, 2)), np.trace(sample, axis1=1, axis2=2) ** 2
    estimate = 25 / (4 * 7) * (square - trace_square / 5)
    assert estimate.mean() == pytest.approx((planted**2).sum(), abs=4 * estimate.std() / math.sqrt(2000))
    other = trace_square - 2 * estimate / 5
    assert other.mean() == pytest.approx(planted.sum() ** 2, abs=4 * other.std() / math.sqrt(2000))


def test_rotation_scale_shift_and_labels_change_nothing(double: Any) -> None:
    features, labels = double.blobs((12, 15, 20), 6, spread=0.4)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
    values = [
        nc.measure({"fc": ClassMoments.from_features(z, y, covariance=True)}, quantities="spectrum")
        for z, y in [(features, labels), (3 * features @ turn + 2, labels), (features, (labels + 1) % 3)]
    ]
    for name in NAMES:
        assert [one[name].item() for one in values] == pytest.approx([values[0][name].item()] * 3, rel=1e-8)


def test_at_collapse_there_are_as_many_directions_as_class_means_span(double: Any) -> None:
    features, labels = np.repeat(double.simplex(5, 8), 3, axis=0), np.repeat(np.arange(5), 3)
    moments = ClassMoments.from_features(features, labels, covariance=True)
    dataset = nc.measure({"fc": moments}, quantities="spectrum")
    for name in ("participation_ratio", "stable_rank", "covariance_effective_rank", "covariance_numerical_rank"):
        assert dataset[name].item() == pytest.approx(4), name
    assert math.isnan(dataset["lidar"].item())  # no variability within classes to compare with


def test_too_few_samples_are_said_and_positions_are_not_corrected(double: Any) -> None:
    features, labels = double.blobs((8, 8), 9)
    moments = ClassMoments.from_features(features, labels, covariance=True)
    records = {"rows": LayerRecord("rows", 1, positions=2), "samples": LayerRecord("samples", 2)}
    collection = MomentCollection(dict.fromkeys(records, moments), records)
    said = r"^16 samples for 9 features at rows: ranks .*; this is the worst of 2 layers$"
    with pytest.warns(SampleWarning, match=said):
        dataset = nc.measure(collection, quantities="spectrum")
    assert np.isnan(dataset["participation_ratio_corrected"].values).tolist() == [True, False]
    assert math.isnan(spectrum.participation_ratio_corrected(np.array([1.0, 0.0]), 2))


def test_features_without_variation_have_no_rank() -> None:
    moments = ClassMoments.from_features(np.ones((6, 3)), [0, 0, 0, 1, 1, 1], covariance=True)
    dataset = nc.measure({"fc": moments}, quantities="spectrum")
    assert all(math.isnan(dataset[name].item()) for name in NAMES - {"covariance_numerical_rank"})
    assert dataset["covariance_numerical_rank"].item() == 0


def test_they_are_measured_only_with_the_covariance() -> None:
    moments = ClassMoments.from_features(np.eye(4), [0, 0, 1, 1])
    with pytest.raises(nc.QuantityError, match=r"'lidar' needs the within-class scatter matrix"):
        nc.measure({"fc": moments}, quantities="lidar")
    assert not NAMES & set(nc.measure({"fc": moments}).data_vars)


@pytest.mark.parametrize("family", ["spectrum", "transfer", "ood", "uncertainty"])
def test_a_family_of_which_nothing_can_be_measured_is_refused(family: str) -> None:
    collection = {"fc": ClassMoments.from_features(np.eye(4), [0, 0, 1, 1])}
    with pytest.raises(nc.QuantityError, match=r"^quantity '\w+' needs .*; (pass|call) "):
        nc.measure(collection, quantities=["variability", family])
    assert set(nc.measure(collection, quantities="plasticity").data_vars) == {"feature_norm"}
    assert "compression" in nc.measure(collection, quantities="all")


@pytest.mark.parametrize("scale", [1e-120, 1e120])
def test_squares_of_eigenvalues_stay_in_range(double: Any, scale: float) -> None:
    features, labels = double.blobs((20, 20), 9, spread=0.7)
    one, other = (
        nc.measure(
            {"fc": ClassMoments.from_features(factor * features, labels, covariance=True)}, quantities="spectrum"
        )
        for factor in (1.0, scale)
    )
    for name in NAMES:
        assert other[name].item() == pytest.approx(one[name].item(), rel=1e-9), name

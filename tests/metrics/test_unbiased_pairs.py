"""Angles and distances between class means without their noise: naive doubles, averages over draws, invariances."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

import neurocollapse as nc
from neurocollapse.metrics import discrimination, separation
from neurocollapse.metrics.means import ClassMeans
from neurocollapse.metrics.unbiased import cdnv_unbiased, discrimination_unbiased, separation_unbiased
from neurocollapse.metrics.unbiased_pairs import unbiased_cosines
from neurocollapse.statistics import ClassMoments, LayerRecord, MomentCollection

EXACT = 1e-9  # differences of Gram matrices keep fewer digits than their entries


def naive(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every number from the Gram matrix of the class means and a noise matrix, written out."""
    parts = [features[labels == k] for k in np.unique(labels)]
    means, count = np.stack([part.mean(axis=0) for part in parts]), len(parts)
    trace = np.array([((part - part.mean(axis=0)) ** 2).sum() / (len(part) - 1) for part in parts])
    noise = trace / [len(part) for part in parts]
    raw = means @ means.T - np.diag(noise)
    centre = np.eye(count) - 1 / count
    gram = centre @ raw @ centre
    pairs = list(itertools.permutations(range(count), 2))
    cosine = [gram[i, j] / math.sqrt(gram[i, i] * gram[j, j]) for i, j in pairs]
    raw_cosine = [raw[i, j] / math.sqrt(raw[i, i] * raw[j, j]) for i, j in pairs]
    distance = [raw[i, i] + raw[j, j] - 2 * raw[i, j] for i, j in pairs]
    return {
        "cdnv_unbiased": float(
            np.mean([(trace[i] + trace[j]) / 2 / d for (i, j), d in zip(pairs, distance, strict=True)])
        ),
        "separation_unbiased": 1 - min(1.0, max(map(abs, cosine))),
        "discrimination_unbiased": 1 - min(1.0, max(raw_cosine)),
    }


@pytest.mark.parametrize("sizes", [(9, 9, 9), (4, 30, 0, 12, 7), (40, 50)])
def test_the_numbers_are_the_naive_ones(double: Any, sizes: tuple[int, ...]) -> None:
    features, labels = double.blobs(sizes, 12, spread=0.5, seed=len(sizes))
    moments = ClassMoments.from_features(features, labels, len(sizes))
    expected = naive(features, labels)
    for function in (cdnv_unbiased, separation_unbiased, discrimination_unbiased):
        assert function(moments) == pytest.approx(expected[function.__name__], rel=EXACT, abs=EXACT)
    dataset = nc.measure({"fc": moments}, quantities="unbiased")
    assert {name: dataset[name].item() for name in expected} == pytest.approx(expected, rel=EXACT, abs=EXACT)


def test_they_are_right_on_average_where_the_raw_ones_are_not() -> None:
    """Eight classes of 6 samples in 60 dimensions, two of them near each other."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(8, 60))
    centres[1] = centres[0] + 0.8 * generator.normal(size=60)
    labels = np.repeat(np.arange(8), 6)
    exact = ClassMoments.from_features(centres, np.arange(8))
    apart = [((centres[i] - centres[j]) ** 2).sum() for i, j in itertools.permutations(range(8), 2)]
    truth = [float(np.mean(60 * 1.44 / np.array(apart))), separation(exact), discrimination(exact)]
    found, raw = [], []
    for _ in range(150):
        moments = ClassMoments.from_features(centres[labels] + 1.2 * generator.normal(size=(48, 60)), labels)
        found.append([one(moments) for one in (cdnv_unbiased, separation_unbiased, discrimination_unbiased)])
        raw.append([nc.metrics.cdnv(moments), separation(moments), discrimination(moments)])
    error, raw_error = (np.abs(np.mean(one, axis=0) - truth) for one in (found, raw))
    assert (error < 0.04 * np.array(truth)).all()  # a ratio is unbiased to first order only
    assert (error < 0.25 * raw_error).all()


def test_the_gram_matrix_about_the_mean_is_unbiased() -> None:
    """What the noise adds about the mean of the class means is C diag(s) C: 4,000 draws of unequal classes."""
    generator = np.random.default_rng(1)
    sizes, deviations = np.array([2, 5, 9]), np.array([2.0, 1.0, 0.5])
    centres, labels = generator.normal(size=(3, 4)), np.repeat(np.arange(3), sizes)
    centre = np.eye(3) - 1 / 3
    expected = centre @ (centres @ centres.T + np.diag(4 * deviations**2 / sizes)) @ centre
    noise = generator.normal(size=(4000, 16, 4)) * deviations[labels][:, None]
    means = np.stack([(centres[labels] + noise)[:, labels == k].mean(axis=1) for k in range(3)], axis=1)
    grams = centre @ np.einsum("rkd,rld->rkl", means, means) @ centre
    assert np.abs(grams.mean(axis=0) - expected).max() < 4 * grams.std(axis=0).max() / math.sqrt(4000)


def test_cosines_are_the_naive_ones_and_symmetric(double: Any) -> None:
    features, labels = double.blobs((9, 0, 14, 20), 10, spread=0.3)
    matrix = unbiased_cosines(ClassMeans(ClassMoments.from_features(features, labels, 4))).numpy()
    present = matrix[np.ix_([0, 2, 3], [0, 2, 3])]
    assert 1 - np.abs(present - np.eye(3)).max() == pytest.approx(naive(features, labels)["separation_unbiased"])
    assert present == pytest.approx(present.T, rel=1e-14)
    assert np.isnan(matrix[1]).all()
    assert "class_cosine_unbiased" in nc.measure({"fc": ClassMoments.from_features(features, labels, 4)}, pairs=True)


def test_collapse_leaves_nothing_to_correct(double: Any) -> None:
    features, labels = np.repeat(double.simplex(5, 8), 3, axis=0), np.repeat(np.arange(5), 3)
    moments = ClassMoments.from_features(features, labels)
    assert cdnv_unbiased(moments) == pytest.approx(0, abs=1e-28)
    assert separation_unbiased(moments) == pytest.approx(0.75, rel=1e-12)


def test_rotation_scale_and_labels_change_nothing(double: Any) -> None:
    features, labels = double.blobs((9, 14, 20), 6, spread=0.4)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
    for function in (cdnv_unbiased, separation_unbiased, discrimination_unbiased):
        values = [
            function(ClassMoments.from_features(z, y))
            for z, y in [(features, labels), (3 * features @ turn, labels), (features, (labels + 1) % 3)]
        ]
        assert values == pytest.approx([values[0]] * 3, rel=EXACT)


def test_single_samples_noise_and_positions_have_no_unbiased_angles(double: Any) -> None:
    single = ClassMoments.from_features(*double.blobs((1, 9), 5))
    noise = ClassMoments.from_features(np.random.default_rng(0).normal(size=(9, 50)), np.arange(9) % 3)
    assert math.isnan(separation_unbiased(single))
    assert math.isnan(cdnv_unbiased(noise))
    moments = ClassMoments.from_features(*double.blobs((6, 6), 3, spread=0.2))
    records = {"rows": LayerRecord("rows", 1, positions=2), "samples": LayerRecord("samples", 2)}
    dataset = nc.measure(MomentCollection(dict.fromkeys(records, moments), records), quantities="unbiased")
    assert np.isnan(dataset["cdnv_unbiased"].values).tolist() == [True, False]

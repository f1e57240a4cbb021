"""Unbiased traces: right on average at any number of samples, exact at collapse, NaN where nothing can be said."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import neurocollapse as nc
from neurocollapse.metrics import Weighting
from neurocollapse.metrics.unbiased import (
    between_trace_unbiased,
    class_traces,
    compression_unbiased,
    within_trace_unbiased,
)
from neurocollapse.statistics import ClassMoments, LayerRecord, MomentCollection

EXACT = 1e-12  # some hundred roundings of float64


def naive(features: np.ndarray, labels: np.ndarray, weighting: str) -> tuple[float, float]:
    """Both unbiased traces, sample by sample and class by class."""
    classes = np.unique(labels)
    parts = [features[labels == k] for k in classes]
    shares = [len(part) / len(labels) for part in parts]
    even = [1 / len(classes)] * len(classes)
    weights, inside = shares if weighting == "frequency" else even, even if weighting == "equal" else shares
    means = [part.mean(axis=0) for part in parts]
    traces = [sum(float(((z - m) ** 2).sum()) for z in p) / (len(p) - 1) for p, m in zip(parts, means, strict=True)]
    centre = sum(p * m for p, m in zip(weights, means, strict=True))
    between = sum(p * float(((m - centre) ** 2).sum()) for p, m in zip(weights, means, strict=True))
    noise = sum(p * (1 - p) * t / len(part) for p, t, part in zip(weights, traces, parts, strict=True))
    return sum(s * t for s, t in zip(inside, traces, strict=True)), between - noise


@pytest.mark.parametrize("weighting", ["equal", "frequency", "papers"])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (2, 9, 0, 30), (2, 3)])
def test_unbiased_traces_equal_the_naive_ones(double: Any, sizes: tuple[int, ...], weighting: Weighting) -> None:
    features, labels = double.blobs(sizes, 5, seed=len(sizes))
    moments = ClassMoments.from_features(features, labels, len(sizes))
    within, between = naive(features, labels, weighting)
    assert within_trace_unbiased(moments, weighting=weighting) == pytest.approx(within, rel=EXACT)
    assert between_trace_unbiased(moments, weighting=weighting) == pytest.approx(between, rel=1e-10)
    expected = within / between if between > 0 else math.nan
    assert compression_unbiased(moments, weighting=weighting) == pytest.approx(expected, rel=1e-10, nan_ok=True)
    dataset = nc.measure({"a": moments}, weighting=weighting)
    assert dataset["compression_unbiased"].item() == pytest.approx(expected, rel=1e-10, nan_ok=True)


@pytest.mark.parametrize("weighting", ["equal", "frequency", "papers"])
def test_unbiased_traces_are_right_on_average(weighting: Weighting) -> None:
    """600 draws of 2 to 6 samples per class: the raw traces are off by 30 and 40 %, the unbiased ones are not."""
    generator = np.random.default_rng(3)
    sizes, deviations = np.array([2, 3, 4, 6]), np.array([0.5, 1.0, 1.5, 2.0])
    centres, labels = generator.normal(size=(4, 10)), np.repeat(np.arange(4), sizes)
    shares, even = sizes / sizes.sum(), np.full(4, 0.25)
    weights, inside = shares if weighting == "frequency" else even, even if weighting == "equal" else shares
    within = 10 * (inside * deviations**2).sum()
    between = (weights @ (centres - weights @ centres) ** 2).sum()
    found = []
    for _ in range(600):
        features = centres[labels] + deviations[labels, None] * generator.normal(size=(15, 10))
        moments = ClassMoments.from_features(features, labels)
        both = within_trace_unbiased, between_trace_unbiased
        found.append([one(moments, weighting=weighting) for one in both])
    means, errors = np.mean(found, axis=0), np.std(found, axis=0) / math.sqrt(600)
    assert np.abs(means - [within, between]) == pytest.approx(0, abs=4 * errors.max())  # four standard errors
    assert errors.max() < 0.02 * min(within, between)
    raw = nc.measure({"a": moments}, weighting=weighting)
    assert raw["within_trace"] < 0.9 * within


def test_the_bias_of_few_samples_is_undone() -> None:
    """64 features, 10 classes, D = 10: 20 samples per class read 64 · 19/20 / (6.4 + 0.9 · 64/20) = 6.55."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(10, 64))
    centres -= centres.mean(axis=0)
    centres *= math.sqrt(10 * 6.4 / (centres**2).sum())  # tr Σ_B = 6.4, a tenth of tr Σ_W = 64
    labels = np.repeat(np.arange(10), 20)
    values = []
    for _ in range(200):
        moments = ClassMoments.from_features(centres[labels] + generator.normal(size=(200, 64)), labels)
        values.append([nc.metrics.compression(moments), compression_unbiased(moments)])
    raw, unbiased = np.mean(values, axis=0)
    assert raw == pytest.approx(64 * 19 / 20 / (6.4 + 0.9 * 64 / 20), rel=0.01)
    assert unbiased == pytest.approx(10, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("size", [5, 10, 20, 50])
@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_the_unbiased_number_is_within_two_per_cent_where_the_raw_one_is_far_too_low(size: int, tails: str) -> None:
    """500 draws of 20 classes, D = 3: the raw number is 7 to 49 % too low on average."""
    generator = np.random.default_rng(size)
    centres = generator.normal(size=(20, 64))
    centres -= centres.mean(axis=0)
    centres *= math.sqrt(20 * 64 / 3 / (centres**2).sum())
    labels = np.repeat(np.arange(20), size)
    values = []
    for _ in range(500):
        shape = (len(labels), 64)
        noise = generator.normal(size=shape) if tails == "normal" else generator.standard_t(5, shape) * math.sqrt(0.6)
        moments = ClassMoments.from_features(centres[labels] + noise, labels)
        values.append([nc.metrics.compression(moments), compression_unbiased(moments)])
    raw, unbiased = np.mean(values, axis=0) / 3
    assert abs(unbiased - 1) < 0.02
    assert raw == pytest.approx((1 - 1 / size) / (1 + 0.95 * 3 / size), rel=0.02)


def test_exact_collapse_is_zero_and_one_sample_says_nothing() -> None:
    collapsed = ClassMoments.from_features(np.repeat(np.eye(3), 4, axis=0), np.repeat(np.arange(3), 4))
    assert (within_trace_unbiased(collapsed), compression_unbiased(collapsed)) == (0.0, 0.0)
    single = ClassMoments.from_features(np.eye(3), np.arange(3))
    assert nc.metrics.compression(single) == 0.0  # what a user would read as collapse
    assert math.isnan(compression_unbiased(single))
    assert class_traces(single).isnan().all()
    assert math.isnan(within_trace_unbiased(ClassMoments.empty(2, 3)))


def test_classes_that_cannot_be_told_from_noise_have_no_unbiased_compression() -> None:
    features = np.random.default_rng(1).normal(size=(12, 50))
    shuffled = (np.random.default_rng(seed).permutation(12) % 3 for seed in range(20))
    tried = (ClassMoments.from_features(features, labels) for labels in shuffled)
    negative = next(moments for moments in tried if between_trace_unbiased(moments) < 0)
    assert math.isnan(compression_unbiased(negative))
    assert nc.metrics.compression(negative) > 0


def test_unbiased_compression_ignores_rotation_scale_and_labels(double: Any) -> None:
    features, labels = double.blobs((5, 8, 3), 4, seed=2)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))[0]
    values = [
        compression_unbiased(ClassMoments.from_features(z, y))
        for z, y in [(features, labels), (features @ turn * 7 + 3, labels), (features, (labels + 1) % 3)]
    ]
    assert all(one == pytest.approx(two, rel=1e-9) for one, two in pairwise(values))  # the shift costs digits


def test_rows_that_are_positions_have_no_unbiased_numbers(double: Any) -> None:
    moments = ClassMoments.from_features(*double.blobs((6, 6), 3))
    records = {"rows": LayerRecord("rows", 1, positions=2), "samples": LayerRecord("samples", 2)}
    dataset = nc.measure(MomentCollection({"rows": moments, "samples": moments}, records))
    for name in ("within_trace_unbiased", "between_trace_unbiased", "compression_unbiased"):
        assert math.isnan(dataset[name].sel(layer="rows").item())
        assert math.isfinite(dataset[name].sel(layer="samples").item())


def test_the_plain_functions_need_no_torch_tensors() -> None:
    moments = ClassMoments.from_features(torch.tensor([[0.0], [2.0], [7.0], [7.0]]), [0, 0, 1, 1])
    assert between_trace_unbiased(moments, weighting="frequency") == pytest.approx(9 - 0.25)

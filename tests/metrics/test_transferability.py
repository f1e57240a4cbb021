"""H-score and variability collapse index: naive doubles, canonical correlations, limits, invariances."""

import math

import numpy as np
import pytest
import torch

import neurocollapse as nc
from neurocollapse.metrics import few_shot_bound, h_score, vci
from neurocollapse.statistics import ClassMoments, LayerRecord, MomentCollection


def samples(seed=0, *, num_classes=4, num_features=6, spread=1.0, counts=(40, 25, 60, 33)):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(num_classes), torch.tensor(counts[:num_classes]))
    means = torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), num_features, generator=generator, dtype=torch.float64)
    return means[labels] + spread * noise, labels


def moments_of(features, labels):
    return ClassMoments.from_features(features, labels, covariance=True)


def naive(features, labels):
    """tr(pinv(Σ_T) Σ_B) and the rank, from the samples."""
    values, targets = np.asarray(features), np.asarray(labels)
    centred = values - values.mean(axis=0)
    total = centred.T @ centred / len(values)
    between = np.zeros_like(total)
    for k in np.unique(targets):
        offset = centred[targets == k].mean(axis=0)
        between += (targets == k).mean() * np.outer(offset, offset)
    return float(np.trace(np.linalg.pinv(total) @ between)), int(np.linalg.matrix_rank(between))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [{"num_classes": 2}, {"num_features": 2}, {"spread": 1e-3}, {"spread": 100.0}, {}])
def test_equal_the_definition(seed, shape):
    features, labels = samples(seed, **shape)
    value, rank = naive(features, labels)
    moments = moments_of(features, labels)
    assert h_score(moments) == pytest.approx(value, rel=1e-9)
    assert vci(moments) == pytest.approx(1 - value / rank, rel=1e-6, abs=1e-9)  # 1 − a ratio near 1 loses digits


def test_the_h_score_is_the_sum_of_squared_canonical_correlations():
    from sklearn.cross_decomposition import CCA

    features, labels = samples(3)
    one_hot = np.eye(4)[labels.numpy()][:, :3]
    left, right = CCA(n_components=3, max_iter=5_000, tol=1e-12).fit_transform(features.numpy(), one_hot)
    correlations = [np.corrcoef(left[:, i], right[:, i])[0, 1] for i in range(3)]
    assert h_score(moments_of(features, labels)) == pytest.approx(float(np.square(correlations).sum()), rel=1e-6)


def test_limits():
    features, labels = samples(spread=0.0)
    collapsed = moments_of(features, labels)
    assert h_score(collapsed) == pytest.approx(3.0, rel=1e-12)
    assert vci(collapsed) == pytest.approx(0.0, abs=1e-12)
    one = moments_of(features, torch.zeros_like(labels))
    constant = moments_of(torch.ones(8, 3, dtype=torch.float64), torch.arange(8) % 2)
    for moments in (one, constant):
        assert math.isnan(h_score(moments))
        assert math.isnan(vci(moments))
    same = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]], dtype=torch.float64)
    equal_means = moments_of(same, torch.tensor([0, 0, 1, 1]))
    assert h_score(equal_means) == 0.0
    assert math.isnan(vci(equal_means))


def test_invariant_under_affine_maps_and_names_of_classes():
    features, labels = samples(1)
    generator = torch.Generator().manual_seed(2)
    linear = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    expected = h_score(moments_of(features, labels))
    assert h_score(moments_of(features @ linear + 3, labels)) == pytest.approx(expected, rel=1e-9)
    assert h_score(moments_of(features, 3 - labels)) == pytest.approx(expected, rel=1e-12)


def test_features_that_do_not_span_the_space():
    features, labels = samples(1, num_features=4)
    wide = torch.cat([features, features[:, :2] + features[:, 2:]], dim=1)
    assert h_score(moments_of(wide, labels)) == pytest.approx(h_score(moments_of(features, labels)), rel=1e-9)


def test_planted_sources_are_ranked_rightly():
    scores = [
        (h_score(moments), vci(moments))
        for moments in (moments_of(*samples(4, spread=spread)) for spread in (0.1, 0.5, 1.0, 2.0, 5.0))
    ]
    ascending = sorted(scores, key=lambda pair: -pair[0])
    assert scores == ascending
    assert [pair[1] for pair in scores] == sorted(pair[1] for pair in scores)


def test_they_are_quantities_of_a_family_that_needs_the_covariance():
    features, labels = samples()
    collection = MomentCollection({"fc": moments_of(features, labels)}, {"fc": LayerRecord("fc", 1)})
    dataset = nc.measure(collection, quantities="transfer")
    assert float(dataset["h_score"].item()) == h_score(collection["fc"])
    assert float(dataset["vci"].item()) == vci(collection["fc"])
    plain = MomentCollection({"fc": ClassMoments.from_features(features, labels)}, {"fc": LayerRecord("fc", 1)})
    with pytest.raises(nc.QuantityError, match="covariance=True"):
        nc.measure(plain, quantities="vci")


def told_apart(num_classes: int, spread: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes at distance √2 from each other."""
    random = np.random.default_rng(seed)
    labels = np.arange(40 * num_classes) % num_classes
    return np.eye(num_classes, 12)[labels] + spread * random.standard_normal((len(labels), 12)), labels


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("spread", [0.003, 0.03, 0.3])
def test_the_few_shot_bound_is_that_of_a_loop_over_the_pairs(shots: int, spread: float) -> None:
    features, labels = told_apart(4, spread)
    means = [features[labels == k].mean(axis=0) for k in range(4)]
    deviation = [math.sqrt(((features[labels == k] - means[k]) ** 2).sum(axis=1).mean()) for k in range(4)]
    expected = 0.0
    for k in range(4):
        missed = 0.0
        for other in {0, 1, 2, 3} - {k}:
            reach = 2 * deviation[k] + (deviation[k] + deviation[other]) / math.sqrt(shots)
            missed += reach**2 / ((means[k] - means[other]) ** 2).sum()
        expected += min(1.0, missed) / 4
    assert few_shot_bound(moments_of(features, labels), shots) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shots", [1, 3, 10])
def test_nearest_means_of_few_samples_err_less_than_the_bound(shots: int) -> None:
    random = np.random.default_rng(1)
    for spread in (0.02, 0.04, 0.06):
        features, labels = told_apart(5, spread)
        bound = few_shot_bound(moments_of(features, labels), shots)
        wrong = []
        for _ in range(200):
            own = [random.choice(np.flatnonzero(labels == k), shots) for k in range(5)]
            means = np.stack([features[rows].mean(axis=0) for rows in own])
            distance = ((features[:, None] - means) ** 2).sum(axis=2)
            wrong.append((distance.argmin(axis=1) != labels).mean())
        assert np.mean(wrong) <= bound < 1 or bound == 1


def test_the_few_shot_bound_falls_with_the_samples_and_ends_at_collapse() -> None:
    moments = moments_of(*told_apart(4, 0.03))
    values = [few_shot_bound(moments, shots) for shots in (1, 2, 8, 1000)]
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < values[0] < 1
    assert few_shot_bound(moments_of(*told_apart(4, 0.0)), 1) == 0.0
    assert few_shot_bound(moments_of(*told_apart(4, 9.0)), 1) == 1.0
    assert math.isnan(few_shot_bound(moments_of(np.ones((3, 2)), np.zeros(3, dtype=int)), 1))


def test_classes_of_equal_means_are_not_told_apart() -> None:
    features = np.array([[1.0], [3.0], [2.0], [2.0]])
    assert few_shot_bound(moments_of(features, np.array([0, 0, 1, 1])), 5) == 1.0


def test_the_few_shot_bound_stays_under_rotation_scale_and_other_labels() -> None:
    features, labels = told_apart(4, 0.03)
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((12, 12)))[0]
    expected = few_shot_bound(moments_of(features, labels), 2)
    assert few_shot_bound(moments_of(1e3 * features @ turn + 5, 3 - labels), 2) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shots", [0, -1, 2.5, True])
def test_shots_that_are_no_positive_integer_are_refused(shots: object) -> None:
    with pytest.raises((ValueError, TypeError), match="`shots` must be"):
        few_shot_bound(moments_of(*told_apart(3, 0.1)), shots)  # type: ignore[arg-type]

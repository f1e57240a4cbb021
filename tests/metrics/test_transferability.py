"""H-score and variability collapse index: naive doubles, canonical correlations, limits, invariances."""

import math

import numpy as np
import pytest
import torch

import neurocollapse as nc
from neurocollapse.metrics import h_score, vci
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

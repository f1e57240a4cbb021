"""Dead and dormant units and the norm of the features: naive doubles, planted units, invariances."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.metrics.plasticity import dead_share, dormant_share, feature_norm
from neurocollapse.statistics import ClassMoments


def planted() -> tuple[np.ndarray, np.ndarray]:
    """Twenty units: three dead, two of a hundredth of the usual size, one zero but for one sample."""
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(90, 20)), np.arange(90) % 3
    features[:, [1, 5, 9]] = 0
    features[:, [2, 3]] *= 0.01
    features[:, 7] = 0
    features[4, 7] = 1.0
    features[:, 0] *= 50  # the average is meant, not the largest
    return features, labels


def naive(features: np.ndarray) -> tuple[float, float, float]:
    """Unit by unit."""
    size = [sum(abs(h) for h in unit) / len(unit) for unit in features.T]
    average = sum(size) / len(size)
    dead = sum(all(h == 0 for h in unit) for unit in features.T) / len(size)
    return dead, sum(one / average <= 0.025 for one in size) / len(size), math.sqrt((features**2).sum(axis=1).mean())


def test_planted_units_are_counted(double: Any) -> None:
    features, labels = planted()
    expected = naive(features)
    assert expected[:2] == (0.15, 0.3)
    values = torch.tensor(features)
    found = dead_share(values), dormant_share(values), feature_norm(ClassMoments.from_features(features, labels))
    assert found == pytest.approx(expected, rel=1e-12)
    dataset = double.two_passes(features, labels, quantities="plasticity")
    names = ("dead_share", "dormant_share", "feature_norm")
    assert [dataset[name].item() for name in names] == pytest.approx(expected, rel=1e-12)
    assert dormant_share(values, threshold=0.0) == dead_share(values)


def test_scale_and_order_change_no_share_and_a_rotation_not_the_norm() -> None:
    features, labels = planted()
    turned = features @ np.linalg.qr(np.random.default_rng(1).normal(size=(20, 20)))[0]
    for other in (1e-6 * features, features[:, ::-1].copy(), -features[::-1].copy()):
        assert naive(other)[:2] == (dead_share(torch.tensor(other)), dormant_share(torch.tensor(other))) == (0.15, 0.3)
    norms = [feature_norm(ClassMoments.from_features(one, labels)) for one in (features, turned, 3 * features)]
    assert norms == pytest.approx([norms[0], norms[0], 3 * norms[0]], rel=1e-12)


def test_nothing_is_undefined_and_zeros_are_all_dead() -> None:
    assert (dead_share(torch.zeros(3, 4)), dormant_share(torch.zeros(3, 4))) == (1.0, 1.0)
    assert math.isnan(dead_share(torch.zeros(0, 4)))
    assert math.isnan(dormant_share(torch.zeros(0, 4)))
    assert math.isnan(feature_norm(ClassMoments.empty(2, 3)))


def test_dead_units_of_a_network_are_found_over_all_batches() -> None:
    """A unit that one sample of the last batch wakes is not dead."""
    layer = nn.Linear(4, 4, bias=True)
    layer.weight.data = torch.eye(4)
    layer.bias.data = torch.tensor([0.0, -100.0, -2.5, 0.0])
    inputs = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
    inputs[29, 2] = 2.6
    batches = [(inputs[:20], torch.arange(20) % 2), (inputs[20:], torch.arange(10) % 2)]
    dataset = nc.analyze(nn.Sequential(layer, nn.ReLU()), batches, quantities="plasticity")
    assert dataset["dead_share"].values.tolist() == [0.0, 0.25]
    assert dataset["dormant_share"].sel(layer="1").item() == 0.5

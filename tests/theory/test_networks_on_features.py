"""Trained, half-trained and perturbed networks on made-up and on real features: no bracket is left, nothing raises."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from neurocollapse import data
from neurocollapse.data.synthetic import balanced_labels, near_orthonormal, one_hot
from neurocollapse.models import HybridMLP, init_weights
from neurocollapse.theory import verify
from neurocollapse.theory.tail import linear_tail
from neurocollapse.train.descent import descend

MADE = ("orthonormal", "gaussian", "digits", "converged")
REAL = ("mnist", "cifar10")


@pytest.fixture(scope="module")
def features() -> dict[str, tuple[Tensor, Tensor]]:
    """Images of MNIST and CIFAR-10, averaged over squares to 49 and 64 features, with their labels."""
    place = os.environ.get("NEUROCOLLAPSE_DATA")
    if not place:
        pytest.skip("real data is not part of the repository: set NEUROCOLLAPSE_DATA to its folder to run this")
    found = {}
    for name in REAL:
        opened = data.open(f"{name}:{Path(place) / name}", split="test")
        images = torch.nn.functional.avg_pool2d(opened.inputs.double().mean(1, keepdim=True), 4)
        found[name] = images.flatten(1), opened.labels
    return found


def chosen(rows: Tensor, labels: Tensor, K: int, n: int, seed: int) -> Tensor:
    """n samples of each of K classes, of length 1."""
    of_class = [rows[labels == k] for k in range(K)]
    samples = torch.cat([one[torch.arange(seed, seed + n) % len(one)] for one in of_class]).double()
    return samples / samples.norm(dim=1, keepdim=True)


def draw_data(kind: str, seed: int, features: dict[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Inputs in rows, and labels of two to five classes."""
    K, n = 2 + seed % 4, 4 + seed % 5
    if kind in ("orthonormal", "converged"):
        return near_orthonormal(K * n, 48, theta=0.1 * (seed % 4), seed=seed), balanced_labels(K, n)
    if kind == "gaussian":
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(K * n, 48, generator=generator).double() / 48**0.5, balanced_labels(K, n)
    if kind == "digits":
        rows, numbers = (torch.tensor(one) for one in load_digits(return_X_y=True))
        return chosen(rows, numbers, K, n, seed), balanced_labels(K, n)
    return chosen(*features[kind], K, n, seed), balanced_labels(K, n)


def draw_network(kind: str, seed: int, features: dict[str, tuple[Tensor, Tensor]]) -> tuple[HybridMLP, Tensor, Tensor]:
    """One ReLU layer or none, then two to four linear ones with biases; trained, half-trained or perturbed.

    "converged" is nearer to what the a-priori theorems are about: no ReLU, no biases, small orthogonal weights, and
    losses from 1e−2 down to 1e−12.
    """
    inputs, labels = draw_data(kind, seed, features)
    generator, converged = torch.Generator().manual_seed(seed), kind == "converged"
    options = {"num_nonlinear": 0 if converged else seed % 2, "num_linear": 1 + seed % 3, "batch_norm": False}
    width, K = 48 if converged else 24, int(labels.max()) + 1
    network = HybridMLP(inputs.shape[1], width, K, **options, bias=not converged).double()
    if converged:
        init_weights(network, "orth", 0.1 + 0.1 * (seed % 4), seed=seed)
        rate, steps, tolerance = 0.1, 2000, 10.0 ** -(2 + seed % 11)
    else:
        init_weights(network, "norm" if seed % 5 == 0 else "orth", 0.3 + 0.1 * (seed % 6), seed=seed)
        # Images have one large direction, the mean, in which larger steps diverge.
        rate, steps, tolerance = (0.1 if kind in REAL else 0.2) / len(inputs), (250, 250, 30)[seed % 3], 1e-10
    descend(network, inputs, one_hot(labels), learning_rate=rate, num_steps=steps, tolerance=tolerance)
    if seed % 3 == 1:
        size = 10 ** (-5 + 4 * float(torch.rand(1, generator=generator)))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += size * torch.randn(parameter.shape, generator=generator).double()
    return network, inputs, labels


def naive_compression(network: HybridMLP, inputs: Tensor, labels: Tensor) -> np.ndarray:
    """D_l at the tail's layers sample by sample, every layer applied to the features before."""
    tail = linear_tail(network, inputs, labels)
    features, found = tail.features.double(), []
    for weight, bias in zip(tail.weights, tail.biases, strict=True):
        means = torch.stack([features[labels == k].mean(0) for k in range(int(labels.max()) + 1)])
        within = (features - means[labels]).square().sum() / len(labels)
        found.append(float(within / (means - means.mean(0)).square().sum(1).mean()))
        features = features @ weight.T + bias
    return np.array(found)


def count_checked(kind: str, seeds: range, features: dict[str, tuple[Tensor, Tensor]]) -> Counter[str]:
    """Steps with a bracket of each theorem; every measurement must lie in every bracket."""
    checked: Counter[str] = Counter()
    for seed in seeds:
        network, inputs, labels = draw_network(kind, seed, features)
        verification = verify(network, inputs, labels)
        outcomes = {name: one.status for name, one in verification.theorems.items() if name != "printed"}
        assert "violated" not in outcomes.values(), (kind, seed, outcomes)
        table, compression = verification.to_dataset(), naive_compression(network, inputs, labels)
        ratio = compression[1:] / compression[:-1]
        # The a-priori theorem takes zero loss and balance as exact, so only the others bound any network.
        for name in ("robust", "posterior", "split", "split_spectral"):
            lower, upper = (table[f"{name}_{side}"].values[1:] for side in ("lower", "upper"))
            assert not (ratio > upper * (1 + 1e-9)).any(), (kind, seed, name)
            assert not (ratio < lower * (1 - 1e-9)).any(), (kind, seed, name)
        assert not (compression > table["certified_upper"].values * (1 + 1e-9)).any(), (kind, seed)
        assert not (compression < table["certified_lower"].values * (1 - 1e-9)).any(), (kind, seed)
        assert not compression[-1] > float(table["balance_upper"][-1]) * (1 + 1e-9), (kind, seed)
        for name in ("separation_split_lower", "separation_certified_lower"):
            assert not (table[name] > table["separation_uncentred"] + 1e-9).any(), (kind, seed, name)
        for name in ("robust", "posterior", "split"):
            checked[name] += int(np.isfinite(table[f"{name}_upper"].values).sum())
    return checked


def check(kind: str, seeds: range, features: dict[str, tuple[Tensor, Tensor]]) -> None:
    """A bracket of the split certificate for every network, and of the others where they have something to say."""
    checked = count_checked(kind, seeds, features)
    assert checked["split"] >= len(seeds)
    assert kind in REAL or checked["posterior"] >= len(seeds) / 3
    assert kind != "converged" or checked["robust"] >= len(seeds) / 3


@pytest.mark.parametrize("kind", MADE)
def test_no_network_on_features_leaves_a_bracket(kind: str) -> None:
    check(kind, range(3), {})


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
@pytest.mark.parametrize("kind", MADE)
def test_none_of_eight_hundred_networks_on_features_leaves_a_bracket(kind: str, block: int) -> None:
    check(kind, range(100 + 50 * block, 150 + 50 * block), {})


@pytest.mark.data
@pytest.mark.parametrize("kind", REAL)
def test_no_network_on_real_images_leaves_a_bracket(kind: str, features: dict[str, tuple[Tensor, Tensor]]) -> None:
    check(kind, range(3), features)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("block", range(4))
@pytest.mark.parametrize("kind", REAL)
def test_none_of_four_hundred_networks_on_real_images_leaves_a_bracket(
    kind: str, block: int, features: dict[str, tuple[Tensor, Tensor]]
) -> None:
    check(kind, range(100 + 50 * block, 150 + 50 * block), features)

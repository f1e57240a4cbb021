"""Features whose accuracies and ranks are known, and the naive doubles."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


def blobs(
    num_samples: int, num_features: int, *, num_classes: int = 3, spread: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Normal clusters around one centre a class, every class present."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(num_samples) % num_classes)
    centres = np.random.default_rng(99).normal(size=(num_classes, num_features))
    return centres[labels] + spread * generator.normal(size=(num_samples, num_features)), labels


def rotation(size: int, seed: int = 1) -> np.ndarray:
    """A random orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def nearest_by_hand(train: Any, labels: Any, test: Any, targets: Any) -> float:
    """Share of test samples whose nearest class mean is their own, sample by sample."""
    classes = sorted(set(labels.tolist()))
    hits = 0
    for sample, target in zip(test, targets, strict=True):
        distances = []
        for k in classes:
            members = [row for row, label in zip(train, labels, strict=True) if label == k]
            mean = [sum(column) / len(members) for column in zip(*members, strict=True)]
            distances.append(math.dist(sample, mean))
        hits += classes[distances.index(min(distances))] == target
    return hits / len(test)


def spectrum_by_hand(features: Any) -> list[float]:
    """Singular values from the eigenvalues of the Gram matrix, in descending order."""
    values = np.linalg.eigvalsh(np.asarray(features, dtype=np.float64).T @ features)
    return sorted((math.sqrt(max(value, 0.0)) for value in values), reverse=True)


@pytest.fixture(scope="session")
def double() -> SimpleNamespace:
    """Everything above, for tests that cannot import it."""
    return SimpleNamespace(blobs=blobs, rotation=rotation, nearest=nearest_by_hand, spectrum=spectrum_by_hand)

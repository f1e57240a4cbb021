"""Naive doubles of the metrics of neural collapse, in plain NumPy, and a second pass over features in memory."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from neurocollapse.metrics import Layer, Quantity, Rows
from neurocollapse.metrics.catalogue import chosen_quantities
from neurocollapse.metrics.layer import Later
from neurocollapse.metrics.measure import Extra, measured
from neurocollapse.statistics import ClassMoments, LayerRecord, MomentCollection, Reader


class Naive:
    """Every number as its definition says, pair by pair and class by class; W rows are those of all classes."""

    def __init__(self, features: Any, labels: Any, weight: Any = None, logits: Any = None) -> None:
        self.z, self.y = np.asarray(features, dtype=np.float64), np.asarray(labels)
        self.classes = np.unique(self.y)
        self.m = np.stack([self.z[self.y == k].mean(axis=0) for k in self.classes])
        self.mu = self.m - self.m.mean(axis=0)
        self.K, self.n = len(self.classes), np.array([(self.y == k).sum() for k in self.classes])
        self.v = np.array(
            [((self.z[self.y == k] - m) ** 2).sum(axis=1).mean() for k, m in zip(self.classes, self.m, strict=True)]
        )
        self.w = None if weight is None else np.asarray(weight, dtype=np.float64)[self.classes]
        self.logits = logits
        self.pairs = [(i, j) for i in range(self.K) for j in range(self.K) if i != j]

    def compression(self) -> float:
        return self.within() / ((self.mu**2).sum() / self.K)

    def within(self) -> float:
        parts = zip(self.classes, self.m, strict=True)
        return float(np.mean([((self.z[self.y == k] - m) ** 2).sum(axis=1).mean() for k, m in parts]))

    def nc1(self, weighting: str = "equal") -> float:
        p = self.n / self.n.sum() if weighting == "frequency" else np.full(self.K, 1 / self.K)
        offset = self.m - p @ self.m
        between = (offset.T * p) @ offset
        residual = self.z - self.m[np.searchsorted(self.classes, self.y)]
        within = residual.T @ residual / len(self.z)
        return float(np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True))) / self.K

    def _cdnv(self, i: int, j: int) -> float:
        return (self.v[i] + self.v[j]) / (2 * ((self.m[i] - self.m[j]) ** 2).sum())

    def cdnv(self) -> float:
        return float(np.mean([self._cdnv(*pair) for pair in self.pairs]))

    def cdnv_max(self) -> float:
        return max(self._cdnv(*pair) for pair in self.pairs)

    def nc2_norms(self) -> float:
        norms = np.linalg.norm(self.mu, axis=1)
        return norms.std() / norms.mean()

    def _cosines(self) -> np.ndarray:
        unit = self.mu / np.linalg.norm(self.mu, axis=1, keepdims=True)
        return np.array([unit[i] @ unit[j] for i, j in self.pairs])

    def nc2_angles(self) -> float:
        return self._cosines().std()

    def nc2_simplex(self) -> float:
        return np.abs(self._cosines() + 1 / (self.K - 1)).mean()

    def _simplex(self) -> np.ndarray:
        return (np.eye(self.K) - 1 / self.K) / math.sqrt(self.K - 1)

    def nc2_distance(self) -> float:
        gram = self.mu @ self.mu.T
        return np.linalg.norm(gram / np.linalg.norm(gram) - self._simplex())

    def nc2_orthogonal(self) -> float:
        gram = self.m @ self.m.T
        return np.linalg.norm(gram / np.linalg.norm(gram) - np.eye(self.K) / math.sqrt(self.K))

    def _logarithms(self) -> np.ndarray:
        unit = self.mu / np.linalg.norm(self.mu, axis=1, keepdims=True)
        with np.errstate(divide="ignore"):
            return -np.log([np.linalg.norm(unit[i] - unit[j]) for i, j in self.pairs])

    def gnc2(self) -> float:
        return self._logarithms().mean()

    def gnc2_variation(self) -> float:
        energy = self.gnc2()
        return self._logarithms().std() / abs(energy) if math.isfinite(energy) else math.nan

    def minority_angle(self) -> float:
        rare = self.n <= np.sort(self.n)[max(2, self.K // 3) - 1]
        return max(c for c, (i, j) in zip(self._cosines(), self.pairs, strict=True) if rare[i] and rare[j])

    def seli_distance(self) -> float:
        labels = np.repeat(np.arange(self.K), self.n)
        encoded = (labels == np.arange(self.K)[:, None]) - 1 / self.K  # K × N
        _, values, right = np.linalg.svd(encoded, full_matrices=False)
        first = np.concatenate([[0], np.cumsum(self.n)[:-1]])  # one sample of each class
        wanted = (right[:, first].T * values) @ right[:, first]
        gram = self.mu @ self.mu.T
        return np.linalg.norm(gram / np.linalg.norm(gram) - wanted / np.linalg.norm(wanted))

    def separation(self) -> float:
        return 1 - np.abs(self._cosines()).max()

    def separation_etf(self) -> float:
        return 1 - self._cosines().max()

    def discrimination(self) -> float:
        unit = self.m / np.linalg.norm(self.m, axis=1, keepdims=True)
        return 1 - max(unit[i] @ unit[j] for i, j in self.pairs)

    def nc3(self) -> float:
        centred = self.w - self.w.mean(axis=0)
        return np.linalg.norm(centred / np.linalg.norm(centred) - self.mu / np.linalg.norm(self.mu))

    def nc3_raw(self) -> float:
        return np.linalg.norm(self.w / np.linalg.norm(self.w) - self.mu / np.linalg.norm(self.mu))

    def nc3_product(self) -> float:
        product = (self.w - self.w.mean(axis=0)) @ self.mu.T
        return np.linalg.norm(product / np.linalg.norm(product) - self._simplex())

    def unc3(self) -> float:
        rows = zip(self.w - self.w.mean(axis=0), self.mu, strict=True)
        return np.std([w @ mu / np.linalg.norm(w) / np.linalg.norm(mu) for w, mu in rows])

    def _nearest(self) -> np.ndarray:
        return self.classes[[((z - self.m) ** 2).sum(axis=1).argmin() for z in self.z]]

    def nc4(self) -> float:
        return (np.asarray(self.logits).argmax(axis=1) == self._nearest()).mean()

    def ncm_error(self) -> float:
        return (self._nearest() != self.y).mean()

    def one_vs_rest_margin(self) -> float:
        unit = self.mu / np.linalg.norm(self.mu, axis=1, keepdims=True)
        return min(hull_distance(np.delete(unit, k, axis=0) - unit[k]) for k in range(self.K))


def hull_distance(points: np.ndarray) -> float:
    """From the origin to the convex hull of some points, by a general solver."""
    count = len(points)
    found = minimize(
        lambda share: ((share @ points) ** 2).sum(),
        np.full(count, 1 / count),
        jac=lambda share: 2 * points @ (share @ points),
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda share: share.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return math.sqrt(found.fun)


def measured_in_two_passes(
    features: Any,
    labels: Any,
    *,
    quantities: Any = ("collapse", "compression", "geometry"),
    num_classes: int | None = None,
    weight: Any = None,
    logits: Any = None,
    weighting: str = "equal",
    batch: int = 7,
    moments: ClassMoments | None = None,
    dtype: str = "float64",
    pairs: bool = False,
) -> Any:
    """The dataset of one layer whose features come in batches, twice."""
    values = torch.as_tensor(np.array(features))
    if moments is None:
        moments = ClassMoments.from_features(values, labels, num_classes)
    reader = {} if weight is None else {"layer": Reader(torch.as_tensor(np.array(weight)).double())}
    collection = MomentCollection(
        {"layer": moments}, {"layer": LayerRecord("layer", 1, feature_dtype=dtype)}, readers=reader
    )
    chosen = chosen_quantities(list(quantities) if not isinstance(quantities, str) else quantities, pairs=pairs)
    layer = Layer(moments, weighting, reader.get("layer"), collection.record("layer"))
    totals = {}
    for quantity in chosen.quantities:
        if quantity.gather is not None and ("logits" not in quantity.needs or logits is not None):
            totals[quantity.gather] = _gathered(layer, quantity, values, torch.as_tensor(labels), logits, batch)
    return measured(collection, chosen, weighting, Extra(totals={"layer": totals})).isel(layer=0)


def _gathered(layer: Layer, quantity: Quantity, features: Any, labels: Any, logits: Any, batch: int) -> Any:
    """What one gather function adds up over the batches."""
    total = 0.0
    for start in range(0, len(features), batch):
        part = slice(start, start + batch)
        found = quantity.gather(layer, Rows(features[part], labels[part]))
        if callable(found):
            found = found(torch.as_tensor(np.array(logits[part])))
        if isinstance(found, Later):
            found = found.tensor()
        total = total + found.double()
    return total


def blobs(
    sizes: Any, num_features: int, *, spread: float = 1.0, offset: float = 0.3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Normal classes of these sizes, in random order; a size of zero is an absent class."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = generator.normal(size=(len(sizes), num_features)) + offset
    return centres[labels] + spread * generator.normal(size=(len(labels), num_features)), labels


def simplex(num_classes: int, num_features: int, seed: int = 0) -> np.ndarray:
    """A simplex of this many vertices about the origin, turned at random."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(num_features, num_features)))[0]
    return (np.eye(num_classes) - 1 / num_classes) @ np.eye(num_classes, num_features) @ turn


@pytest.fixture
def double() -> SimpleNamespace:
    """The doubles, and data to try them on."""
    return SimpleNamespace(naive=Naive, two_passes=measured_in_two_passes, blobs=blobs, simplex=simplex)

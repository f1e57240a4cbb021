"""Networks that satisfy the theorem's assumptions exactly, and trained ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from neurocollapse.data.synthetic import balanced_labels, near_orthonormal, one_hot
from neurocollapse.models.initialise import initial_weight
from neurocollapse.models.linear import linear_weights
from neurocollapse.train.descent import descend


@dataclass
class Case:
    """A network with its data: weights (out, in), inputs in rows."""

    weights: list[Tensor]
    inputs: Tensor
    labels: Tensor
    epsilon: float
    rho: float
    theta: float


def build_exact(
    seed: int,
    *,
    classes: tuple[int, int] = (2, 4),
    samples: tuple[int, int] = (4, 9),
    depth: tuple[int, int] = (2, 9),
    epsilon: tuple[float, float] = (0.05, 0.7),
    rho_part: float | None = None,
    theta: float | None = None,
    turn: float | None = None,
    shrink: float = 1.0,
    wide_top: float = 0.02,
    wide_low: float = 0.3,
) -> Case:
    """Draw weights that satisfy A1-A4 exactly; `shrink` scales the leading singular values away from the truth."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=generator, dtype=torch.float64))

    K, n, L = (int(uniform(low, high + 0.999)) for low, high in (classes, samples, depth))
    d = max(K * n, 2 * K + 2) + int(uniform(0, 8))
    scale = uniform(*epsilon)
    rho = (uniform(0, 0.4) if rho_part is None else rho_part) * scale
    theta = (uniform(0, 1) if uniform(0, 1) < 0.7 else 0.0) if theta is None else theta
    inputs, labels = near_orthonormal(K * n, d, theta=theta, seed=seed), balanced_labels(K, n)
    least_norm = one_hot(labels).T @ torch.linalg.pinv(inputs.T)
    _, top, right = torch.linalg.svd(least_norm, full_matrices=True)
    skew = torch.randn(d, d, generator=generator, dtype=torch.float64)
    skew = (skew - skew.T) / torch.linalg.matrix_norm(skew - skew.T, 2)
    turned = (uniform(0, 1e-4) if turn is None else turn) * scale ** (L - 1)
    frame = right.T @ torch.linalg.matrix_exp(turned * skew)
    leading = shrink * top ** (1 / L) * (1 + wide_top * (2 * torch.rand(K, generator=generator).double() - 1))
    middle = scale - rho * torch.rand(d - 2 * K, generator=generator, dtype=torch.float64)
    middle[0], middle[-1] = scale, scale - rho
    low = (scale - rho) * (1 - wide_low * torch.rand(K, generator=generator, dtype=torch.float64))
    values = torch.cat([part.sort(descending=True).values for part in (leading, middle, low)])
    weights, before = [], frame
    for _ in range(L - 1):
        after = initial_weight(d, d, "orth", 1.0, generator=generator)
        weights.append(after @ torch.diag(values) @ before.T)
        before = after
    last = shrink**L * least_norm @ frame @ torch.diag(values ** -(L - 1)) @ before.T
    return Case([*weights, last], inputs, labels, scale, rho, theta)


def build_trained(
    seed: int,
    inputs: Tensor,
    labels: Tensor,
    *,
    hidden: int,
    depth: int,
    epsilon: float,
    loss: float = 1e-12,
    steps: int = 6000,
    init: str = "orth",
) -> list[Tensor]:
    """Train a deep linear network on ½‖W_{L:1}X − Y‖² down to `loss`."""
    targets = one_hot(labels)
    size = max(float(torch.linalg.matrix_norm(inputs, 2)), 1.0)
    gain = max(float(torch.linalg.matrix_norm(targets.T @ torch.linalg.pinv(inputs.T), 2)), 1.0)
    rate = 0.4 / (depth * size**2 * gain ** (2 - 2 / depth))
    weights = linear_weights([inputs.shape[1], *[hidden] * (depth - 1), targets.shape[1]], init, epsilon, seed=seed)
    return list(descend(weights, inputs, targets, learning_rate=rate, num_steps=steps, tolerance=loss).weights)


@pytest.fixture(scope="session")
def exact() -> Callable[..., Case]:
    """Build an exact case from a seed."""
    return build_exact


@pytest.fixture(scope="session")
def train() -> Callable[..., list[Tensor]]:
    """Train a network."""
    return build_trained


@pytest.fixture(scope="session")
def trained_case() -> Case:
    """A well-trained network of five layers on orthonormal data."""
    inputs, labels = near_orthonormal(30, 40, seed=0), balanced_labels(3, 10)
    weights = build_trained(1, inputs, labels, hidden=40, depth=5, epsilon=0.3)
    return Case(weights, inputs, labels, 0.3, math.nan, 0.0)

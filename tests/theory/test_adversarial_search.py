"""Adversarial search: random ascent of measured/upper and lower/measured over weights and data ends below 1."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from neurocollapse.theory import (
    PRACTICAL,
    Case,
    LinearProblem,
    SplitCertificate,
    Tail,
    balanced_compression,
    certified_compression,
    posterior_certificate,
    prior_certificate,
    separation_bounds,
)
from neurocollapse.theory.assumptions import balance, spectrum_split
from neurocollapse.theory.measured import Measured
from neurocollapse.theory.robust import ROBUST

Array = np.ndarray
SHAPES = ((6, 6, 2), (5, 7, 4, 2), (7, 4, 6, 2), (6, 5, 5, 5, 2), (6, 8, 5, 3))
"""Widths d₀, …, d_{L−1}, K."""
EXACT_SHAPES = ((2, 3, 8, 2), (2, 3, 8, 3), (2, 4, 8, 4))
"""K, n, d, L."""
ROOM = 1e-9
"""Rounding: candidates whose output has a condition above 1e5 are left out."""


class Network:
    """Weights, biases and data from one vector of parameters, and what is measured of them sample by sample."""

    def __init__(self, weights: list[Tensor], biases: list[Tensor], inputs: Tensor, labels: Tensor) -> None:
        self.weights, self.labels = weights, labels
        self.problem = LinearProblem.of(weights, inputs, labels, biases=biases)
        self.tail = Tail(self.problem)
        self.compression, self.separation = self._measured(biases, inputs)
        self.ratio = self.compression[1:] / self.compression[:-1]

    def _measured(self, biases: list[Tensor], inputs: Tensor) -> tuple[Array, Array]:
        features, labels, found = inputs.numpy().T, self.labels.numpy(), []
        for weight, bias in zip(self.weights, biases, strict=True):
            means = np.stack([features[:, labels == k].mean(1) for k in range(labels.max() + 1)], 1)
            within = np.square(features - means[:, labels]).sum() / len(labels)
            between = np.square(means - means.mean(1, keepdims=True)).sum() / means.shape[1]
            unit = means / np.linalg.norm(means, axis=0)
            cosines = np.abs(unit.T @ unit)[np.triu_indices(means.shape[1], 1)]
            found.append((within / between, 1 - cosines.max()))
            features = weight.numpy() @ features + bias.numpy()[:, None]
        return np.array([one for one, _ in found]), np.array([one for _, one in found])


class Parameters:
    """A vector, taken apart from its front."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.place = values, 0

    def take(self, *shape: int) -> Tensor:
        self.place += math.prod(shape)
        return self.values[self.place - math.prod(shape) : self.place].reshape(shape)


def free(shape: tuple[int, ...], parameters: Tensor) -> Network:
    """A network without any assumption: the parameters are its weights, half its biases and its data."""
    given = Parameters(parameters)
    weights = [given.take(after, before) for before, after in itertools.pairwise(shape)]
    biases = [0.5 * given.take(after) for after in shape[1:]]
    samples = 3 * shape[-1]
    return Network(weights, biases, given.take(samples, shape[0]), torch.arange(samples) % shape[-1])


def exact(shape: tuple[int, ...], parameters: Tensor, noise: float = 0.0) -> Network:
    """Zero loss, least norm, balance inside and the given spectra, then `noise` times at most .1 of what is given."""
    (K, n, d, L), given = shape, Parameters(parameters)
    labels = torch.arange(K * n) % K
    skewed, sizes = given.take(d, d), torch.sigmoid(given.take(4))
    frame = torch.linalg.qr(given.take(d, d)).Q
    inputs = (torch.eye(K * n).double() + 10 ** (-6 * sizes[0]) * 0.3 * given.take(K * n, K * n)) @ frame[:, : K * n].T
    least_norm = torch.nn.functional.one_hot(labels).double().T @ torch.linalg.pinv(inputs.T)
    _, top, right = torch.linalg.svd(least_norm)
    turn = torch.linalg.matrix_exp(10 ** (-1 - 8 * sizes[1]) * (skewed - skewed.T))
    first = right.T @ turn
    leading = top ** (1 / L) * torch.exp(0.02 * sizes[2] * given.take(K))
    trailing = 0.1 + 0.8 * torch.sigmoid(given.take(d - K)).sort(descending=True).values
    values = torch.cat([leading.sort(descending=True).values, trailing])
    middle = [torch.linalg.qr(given.take(d, d)).Q for _ in range(L - 1)]
    chain = [after * values @ before.T for before, after in itertools.pairwise([first, *middle])]
    weights = [*chain, least_norm @ (first * values ** -(L - 1)) @ middle[-1].T]
    size = noise * 10 ** (-1 - 7 * sizes[3])
    weights = [weight + size * given.take(*weight.shape) for weight in weights]
    return Network(weights, [torch.zeros(len(weight)).double() for weight in weights], inputs, labels)


def perturbed(shape: tuple[int, ...], parameters: Tensor) -> Network:
    return exact(shape, parameters, noise=1.0)


Sides = list[Array]


def of_prior(network: Network) -> Sides:
    given = _measured_constants(network)
    found = prior_certificate(
        num_classes=network.problem.num_classes,
        samples_per_class=network.problem.samples_per_class,
        depth=network.problem.depth,
        theta=given.gram.theta_spectral,
        delta=given.balance.last_spectral,
        epsilon=given.split.epsilon,
        rho=given.split.rho,
    )
    below = found.separation_lower / network.separation
    return [network.ratio / found.ratio_upper, found.ratio_lower / network.ratio, below]


def of_robust(network: Network) -> Sides:
    found = ROBUST.certify(Case(network.problem, _measured_constants(network), PRACTICAL, 0.0))
    return [network.ratio / found.ratio_upper, found.ratio_lower / network.ratio]


def of_posterior(network: Network) -> Sides:
    found = posterior_certificate(network.problem)
    return [network.ratio / found.ratio_upper, found.ratio_lower / network.ratio]


def of_split(network: Network, bands: int = 16) -> Sides:
    lower, upper = SplitCertificate(network.tail).ratio_bounds(bands)
    return [network.ratio / upper, lower / network.ratio]


def of_spectra(network: Network) -> Sides:
    return of_split(network, 1)


def of_certified(network: Network) -> Sides:
    # At the input D is measured, so the bound is the measurement.
    found = certified_compression(network.tail)
    return [(network.compression / found.upper)[1:], (found.lower / network.compression)[1:]]


def of_separation(network: Network) -> Sides:
    local, overall = separation_bounds(network.tail)
    steps, beyond = local / network.separation, overall / network.separation
    return [steps[1:], beyond[2:], steps[:1]]


def of_balance(network: Network) -> Sides:
    excess = balance(network.weights).last_excess
    return [network.compression[-1:] / balanced_compression(network.tail, excess)]


def _measured_constants(network: Network) -> Measured:
    """Imbalances, spectra and the Gram matrix; the theorems of this file read nothing else."""
    nothing = np.full(network.problem.depth, math.nan)
    values = [torch.linalg.svdvals(weight) for weight in network.weights[:-1]]
    split = spectrum_split(values, network.problem.num_classes)
    return Measured(nothing, nothing, nothing, nothing, nothing, network.problem.gram, balance(network.weights), split)


Build = Callable[[tuple[int, ...], Tensor], Network]


def climb(build: Build, shapes: tuple[tuple[int, ...], ...], bounds: Callable[[Network], Sides], count: int) -> float:
    """The largest ratio of `count` evaluations: ascent with steps that adapt, from another start once it stands still.

    Starts take turns among the shapes and the sides of the theorem, so that one side at its bound hides no other.
    """
    generator, best, restarts, done = torch.Generator().manual_seed(0), 0.0, 0, 0
    while done < count:
        shape, value, step = shapes[restarts % len(shapes)], -math.inf, 0.5
        # As many parameters as any of the networks has; those that are left over change nothing.
        place = torch.randn(800, generator=generator).double()
        trial, since = place, 0
        while done < count and step > 1e-6 and value < 1 - 1e-10 and since < 300:
            done, since = done + 1, since + 1
            found = _largest(build(shape, trial), bounds, restarts // len(shapes))
            if found > value:
                since = 0 if found > value * 1.001 else since
                place, value, step = trial, found, min(1.5 * step, 2.0)
            else:
                step *= 0.93
            sparse = torch.rand(800, generator=generator) < (0.05 if done % 2 else 1.0)
            trial = place + step * sparse * torch.randn(800, generator=generator).double()
        best, restarts = max(best, value), restarts + 1
    return best


def _largest(network: Network, bounds: Callable[[Network], Sides], turn: int) -> float:
    if network.tail.conditions[0] > 1e5:
        return -math.inf
    sides = bounds(network)
    ratios = sides[turn % len(sides)]
    return float(ratios[np.isfinite(ratios)].max(initial=0.0))


SEARCHES = {
    "prior": (exact, EXACT_SHAPES, of_prior),
    "robust": (perturbed, EXACT_SHAPES, of_robust),
    "posterior": (perturbed, EXACT_SHAPES, of_posterior),
    "posterior, any weights": (free, SHAPES, of_posterior),
    "split": (free, SHAPES, of_split),
    "spectra": (free, SHAPES, of_spectra),
    "certified": (free, SHAPES, of_certified),
    "separation": (free, SHAPES, of_separation),
    "balance": (free, SHAPES, of_balance),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_short_search_comes_near_the_bound_and_not_above(name: str) -> None:
    assert 0.05 < climb(*SEARCHES[name], count=200) < 1 + ROOM


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_twenty_thousand_evaluations_find_no_ratio_above_one(name: str) -> None:
    found = climb(*SEARCHES[name], count=20_000)
    print(f"{name}: {found:.12f}")
    assert 0.3 < found < 1 + ROOM

"""How near the certificates come to the measurements; weights that are not the measured ones are noticed."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from neurocollapse.data.synthetic import balanced_labels, one_hot
from neurocollapse.models import HybridMLP, init_weights
from neurocollapse.models.linear import linear_weights
from neurocollapse.theory import LinearProblem, SplitCertificate, certified_compression, separation_bounds
from neurocollapse.theory.measured import measure_problem
from neurocollapse.theory.tail import linear_tail
from neurocollapse.train.descent import descend


class Hybrid(NamedTuple):
    """Classes, samples of each, layers with and without ReLU, and width."""

    num_classes: int
    samples: int
    nonlinear: int
    linear: int
    width: int


SMALL = Hybrid(4, 10, 1, 3, 48)
LARGE = Hybrid(10, 20, 2, 4, 64)


def digits(num_classes: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of length 1, the classes one after the other."""
    rows, numbers = load_digits(return_X_y=True)
    start = 7 * seed % 50
    inputs = torch.tensor(np.concatenate([rows[numbers == k][start : start + samples] for k in range(num_classes)]))
    return inputs.double() / inputs.norm(dim=1, keepdim=True), balanced_labels(num_classes, samples)


def hybrid(shape: Hybrid, seed: int, steps: int = 2000) -> LinearProblem:
    """The tail of a perceptron with biases, trained on the squared error from orthogonal weights."""
    K, n, nonlinear, linear, width = shape
    inputs, labels = digits(K, n, seed)
    network = HybridMLP(64, width, K, num_nonlinear=nonlinear, num_linear=linear, batch_norm=False, bias=True).double()
    init_weights(network, "orth", 0.7, seed=seed)
    descend(network, inputs, one_hot(labels), learning_rate=0.3 / len(inputs), num_steps=steps, tolerance=1e-10)
    tail = linear_tail(network, inputs, labels)
    assert any(bool(bias.any()) for bias in tail.biases)
    return LinearProblem.of(tail.weights, tail.features, labels, biases=tail.biases)


def deep_linear(seed: int) -> LinearProblem:
    """Four layers without biases."""
    inputs, labels = digits(4, 10, seed)
    targets = one_hot(labels)
    start = linear_weights([64, 48, 48, 48, 4], "orth", 0.3, seed=seed)
    options = {"learning_rate": 0.3 / len(inputs), "num_steps": 2000, "tolerance": 1e-10}
    return LinearProblem.of(descend(start, inputs, targets, **options).weights, inputs, labels)


class Tightness(NamedTuple):
    """Upper bound over measurement with 16 bands, with one and of D_l, and the local bound of S_l over S_l."""

    bands: np.ndarray
    spectra: np.ndarray
    certified: np.ndarray
    separation: np.ndarray


def tightness(problem: LinearProblem) -> Tightness:
    measured, certificate = measure_problem(problem), SplitCertificate.of(problem)
    ratio = measured.decay_ratio[1:]
    local = separation_bounds(certificate.tail)[0]
    found = Tightness(
        certificate.ratio_bounds()[1] / ratio,
        certificate.ratio_bounds(1)[1] / ratio,
        (certified_compression(certificate.tail).upper / measured.compression)[1:],
        (local / measured.separation_uncentred)[2:],
    )
    for upper in found[:3]:
        assert (upper >= 1 - 1e-9).all()
    assert ((local >= 0) & (local <= measured.separation_uncentred + 1e-9)).all()
    return found


def check_hybrids(found: list[Tightness]) -> None:
    """The thresholds that are claimed for hybrids."""
    bands, spectra, certified, separation = (np.concatenate(one) for one in zip(*found, strict=True))
    for values in (bands, spectra, certified):
        assert np.isfinite(values).all()  # a bracket at every linear step
    assert np.median(bands) <= 1.02
    assert np.quantile(bands, 0.9) <= 1.10
    assert np.median(spectra) <= 1.10
    assert np.median(certified) <= 1.15
    assert (separation >= 0.8).all()


def test_certificates_are_tight_on_a_hybrid_with_biases() -> None:
    check_hybrids([tightness(hybrid(SMALL, 0))])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_certificates_are_tight_on_hybrids_with_biases(shape: Hybrid) -> None:
    check_hybrids([tightness(hybrid(shape, seed)) for seed in range(5, 8)])


def test_sixteen_bands_are_tight_on_deep_linear_networks() -> None:
    found = np.concatenate([tightness(deep_linear(seed)).bands for seed in range(1)])
    assert np.isfinite(found).all()
    assert np.median(found) <= 1.05


@pytest.mark.slow
def test_sixteen_bands_are_tight_on_many_deep_linear_networks() -> None:
    found = np.concatenate([tightness(deep_linear(seed)).bands for seed in range(5, 8)])
    assert np.isfinite(found).all()
    assert np.median(found) <= 1.05


def misses(problem: LinearProblem, size: float) -> int:
    """Steps whose bracket, computed from weights with noise of relative size `size`, is without the measurement."""
    generator, weights = torch.Generator().manual_seed(0), []
    for weight in problem.weights:
        noise = torch.randn(weight.shape, generator=generator).double()
        weights.append(weight + size * noise * weight.norm() / noise.norm())
    lower, upper = SplitCertificate.of(replace(problem, weights=tuple(weights))).ratio_bounds()
    ratio = measure_problem(problem).decay_ratio[1:]
    return int(((ratio < lower * (1 - 1e-9)) | (ratio > upper * (1 + 1e-9))).sum())


def test_noise_of_thirty_per_cent_of_the_weights_is_noticed() -> None:
    """Noise spreads over all directions, so that a tenth of the norm still moves no gain out of its bracket."""
    problem = hybrid(SMALL, 0)
    assert [misses(problem, size) for size in (0.0, 0.1)] == [0, 0]
    assert misses(problem, 0.3) > 0

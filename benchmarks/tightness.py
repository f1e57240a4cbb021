"""How tight the certificates are on trained networks: `python benchmarks/tightness.py --seeds 5`.

Prints, for each kind of data and network, the share of the ratios that Theorem 2 has a bracket for, and upper bound
over measurement (median / 90 %) of Theorem 2, of the split certificate with spectra alone, with 8 and with 16 bands,
and of the global bound of D. Every number is of `nc.verify`'s own theorems on networks trained here.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from neurocollapse.data.synthetic import balanced_labels, noisy_orthonormal, one_hot
from neurocollapse.models import HybridMLP, init_weights
from neurocollapse.models.linear import linear_weights
from neurocollapse.theory import LinearProblem, SplitCertificate, certified_compression, posterior_certificate
from neurocollapse.theory.measured import measured_compression
from neurocollapse.theory.tail import linear_tail
from neurocollapse.train.descent import descend

KINDS = ("orthonormal", "noisy", "gaussian", "digits", "hybrid orth", "hybrid norm")
BANDS = (1, 8, 16)


class Setting(NamedTuple):
    """How large the networks are, and how long they train."""

    num_classes: int = 4
    samples_per_class: int = 10
    width: int = 48
    num_steps: int = 2000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind")
    parser.add_argument("--steps", type=int, default=Setting().num_steps)
    options = parser.parse_args()
    setting = Setting(num_steps=options.steps)
    columns = ("data", "has Theorem 2", "Theorem 2", *(f"split, B = {bands}" for bands in BANDS), "D, global")
    print(" | ".join(columns))
    for kind in KINDS:
        print(" | ".join(row(kind, options.seeds, setting)))


def row(kind: str, seeds: int, setting: Setting) -> tuple[str, ...]:
    """One line of the table, over networks of one kind."""
    found = [tightness(problem) for problem in problems(kind, seeds, setting)]
    merged = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    share = f"{100 * np.isfinite(merged['posterior']).mean():.0f} %"
    return kind, share, *(_median(merged[name]) for name in merged)


def tightness(problem: LinearProblem) -> dict[str, np.ndarray]:
    """Upper bound over measurement, of every step and of every D_l behind the input."""
    compressions = measured_compression(problem.normalised)
    ratios, certificate = compressions[1:] / compressions[:-1], SplitCertificate.of(problem)
    found = {"posterior": posterior_certificate(problem).ratio_upper / ratios}
    found |= {f"split {bands}": certificate.ratio_bounds(bands)[1] / ratios for bands in BANDS}
    return found | {"certified": (certified_compression(certificate.tail).upper / compressions)[1:]}


def problems(kind: str, seeds: int, setting: Setting) -> Iterator[LinearProblem]:
    """Trained networks of one kind with the data that enter their linear layers."""
    for seed in range(seeds):
        yield _hybrid(kind, seed, setting) if kind.startswith("hybrid") else _linear(kind, seed, setting)


def _linear(kind: str, seed: int, setting: Setting) -> LinearProblem:
    """A deep linear network of four layers."""
    inputs, labels = _data(kind, seed, setting)
    widths = [inputs.shape[1], setting.width, setting.width, setting.width, setting.num_classes]
    start = linear_weights(widths, "orth", 0.3, seed=seed)
    largest = max(float(torch.linalg.matrix_norm(inputs, 2)), 1.0)
    gain = max(float(torch.linalg.matrix_norm(one_hot(labels).T @ torch.linalg.pinv(inputs.T), 2)), 1.0)
    rate = 0.4 / (4 * largest**2 * gain**1.5)  # the curvature at the least-norm fit is 4 ‖X‖² ‖YX⁺‖^{2 − 2/4}
    options = {"learning_rate": rate, "num_steps": setting.num_steps, "tolerance": 1e-10}
    return LinearProblem.of(descend(start, inputs, one_hot(labels), **options).weights, inputs, labels)


def _hybrid(kind: str, seed: int, setting: Setting) -> LinearProblem:
    """Digits through one ReLU layer and four linear ones, all of them trained, with biases."""
    inputs, labels = _data("digits", seed, setting)
    network = HybridMLP(
        64, setting.width, setting.num_classes, num_nonlinear=1, num_linear=3, batch_norm=False, bias=True
    )
    init_weights(network.double(), kind.split()[1], 0.7, seed=seed)
    options = {"learning_rate": 0.3 / len(inputs), "num_steps": setting.num_steps, "tolerance": 1e-10}
    descend(network, inputs, one_hot(labels), **options)
    tail = linear_tail(network, inputs, labels)
    return LinearProblem.of(tail.weights, tail.features, labels, biases=tail.biases)


def _data(kind: str, seed: int, setting: Setting) -> tuple[Tensor, Tensor]:
    """Inputs in rows, and labels."""
    K, n = setting.num_classes, setting.samples_per_class
    if kind == "digits":
        digits, numbers = load_digits(return_X_y=True)
        rows = np.concatenate([digits[numbers == k][seed % 50 : seed % 50 + n] for k in range(K)])
        inputs = torch.tensor(rows, dtype=torch.float64)
        return inputs / inputs.norm(dim=1, keepdim=True), balanced_labels(K, n)
    if kind == "gaussian":
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(K * n, setting.width, generator=generator, dtype=torch.float64)
        return inputs / setting.width**0.5, balanced_labels(K, n)
    noise = 0.0 if kind == "orthonormal" else 0.8
    return noisy_orthonormal(K * n, setting.width, noise=noise, seed=seed), balanced_labels(K, n)


def _median(values: np.ndarray) -> str:
    """Median and 90 % quantile of what is defined."""
    known = values[np.isfinite(values)]
    return f"{np.median(known):.3g} / {np.quantile(known, 0.9):.3g}" if known.size else "–"


if __name__ == "__main__":
    main()

"""The split certificate and what follows from it: one implementation more, no violation, closed forms, invariances."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from neurocollapse.data.synthetic import balanced_labels
from neurocollapse.statistics import ClassMoments
from neurocollapse.theory.assumptions import balance
from neurocollapse.theory.balance_bound import balanced_compression
from neurocollapse.theory.bands import Gains, band_bounds, resolved_bounds
from neurocollapse.theory.blocks import Tail
from neurocollapse.theory.certified import certified_compression
from neurocollapse.theory.measured import measure_problem
from neurocollapse.theory.problem import LinearProblem
from neurocollapse.theory.separation_bound import separation_bounds, separation_floor
from neurocollapse.theory.split import SplitCertificate, step_bounds

Network = tuple[list[Tensor], list[Tensor], Tensor, Tensor]


def draw(seed: int, *, scales: float = 20.0, repeated: bool = False) -> Network:
    """Weights, biases, inputs and labels of any shape, the weights of sizes from 10^−scales to 10^scales."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    K, L = whole(2, 5), whole(2, 6)
    widths, samples = [whole(K + 1, 18) for _ in range(L)] + [K], K * whole(2, 10)
    weights, biases, reached = [], [], 1.0
    for fan_in, fan_out in itertools.pairwise(widths):
        weight = torch.randn(fan_out, fan_in, generator=generator).double()
        if repeated:
            left, _, right = torch.linalg.svd(weight, full_matrices=False)
            weight = left @ right
        size = 10 ** (scales * (2 * float(torch.rand(1, generator=generator)) - 1))
        weights.append(size * weight)
        # As large as the features: larger ones would leave the naive measurement nothing but rounding.
        reached *= size
        biases.append(seed % 2 * reached * torch.randn(fan_out, generator=generator).double())
    return weights, biases, torch.randn(samples, widths[0], generator=generator).double(), torch.arange(samples) % K


def problem_of(network: Network) -> LinearProblem:
    weights, biases, inputs, labels = network
    return LinearProblem.of(weights, inputs, labels, biases=biases)


def naive_measurements(network: Network) -> tuple[list[float], list[float]]:
    """D_l and S_l sample by sample."""
    weights, biases, inputs, labels = network
    features, compressions, separations = inputs.numpy().T, [], []
    K = weights[-1].shape[0]
    for weight, bias in zip(weights, biases, strict=True):
        means = [features[:, labels.numpy() == k].mean(1) for k in range(K)]
        centre = sum(means) / K
        within = sum(((features[:, i] - means[int(k)]) ** 2).sum() for i, k in enumerate(labels)) / len(labels)
        compressions.append(within / (sum(((mean - centre) ** 2).sum() for mean in means) / K))
        cosines = [abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) for i, a in enumerate(means) for b in means[:i]]
        separations.append(1 - max(cosines))
        features = weight.numpy() @ features + bias.numpy()[:, None]
    return compressions, separations


class Naive:
    """THEORY's statements in numpy with explicit bases of kernels and pseudo-inverses, for moderate scales."""

    def __init__(self, network: Network) -> None:
        self.W, self.b = [one.numpy() for one in network[0]], [one.numpy() for one in network[1]]
        inputs, labels = network[2].numpy().T, network[3].numpy()
        self.K, self.L, self.N = self.W[-1].shape[0], len(self.W), inputs.shape[1]
        self.means = np.stack([inputs[:, labels == k].mean(1) for k in range(self.K)], 1)
        self.R, self.M = inputs - self.means[:, labels], self.means - self.means.mean(1, keepdims=True)
        B = [None] * self.L
        B[-1] = self.W[-1]
        for layer in range(self.L - 2, -1, -1):
            B[layer] = B[layer + 1] @ self.W[layer]
        self.B = B
        self.Q = [np.linalg.svd(one)[2][self.K :].T for one in B]
        self.T = [self.Q[i + 1].T @ self.W[i] @ self.Q[i] for i in range(self.L - 1)]
        full = [np.linalg.svd(one, compute_uv=False) for one in self.T]
        self.gains = [
            (values[-1] if len(values) == one.shape[1] else 0.0, values[0])
            for values, one in zip(full, self.T, strict=True)
        ]
        self.F, self.Y = B[0] @ self.R, B[0] @ self.M
        right = np.linalg.svd(self.F)[2]
        self.projectors = [right[:j].T @ right[:j] for j in range(min(self.K, self.N) + 1)]

    def push(self, start: np.ndarray) -> list[np.ndarray]:
        found = [start]
        for weight in self.W[:-1]:
            found.append(weight @ found[-1])
        return found

    def families(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for projector in self.projectors:
            yield self.R @ projector, self.R - self.R @ projector

    def one_step(self, layer: int, features: np.ndarray, output: np.ndarray, bands: int) -> tuple[float, float]:
        W, low, high = self.W[layer], *self.gains[layer]
        q = np.linalg.norm(self.Q[layer].T @ features)
        kappa = np.linalg.norm(self.Q[layer + 1].T @ W @ np.linalg.pinv(self.B[layer]) @ output)
        fixed = np.linalg.norm(np.linalg.pinv(self.B[layer + 1]) @ output) ** 2
        sides = [(fixed + max(0, low * q - kappa, kappa - high * q) ** 2, fixed + (high * q + kappa) ** 2)]
        if bands > 1:
            values = np.zeros(W.shape[1])
            _, found, right = np.linalg.svd(W)
            values[: len(found)] = found**2
            energies = ((right @ features) ** 2).sum(1)
            sides.append(self.quantiles(values, energies, bands))
            rest = self.quantiles(values[self.K :], energies[self.K :], bands)
            leading = (values * energies)[: self.K].sum()
            sides.append((leading + rest[0], leading + rest[1]))
        return max(side[0] for side in sides), min(side[1] for side in sides)

    @staticmethod
    def quantiles(values: np.ndarray, energies: np.ndarray, bands: int) -> tuple[float, float]:
        total, high, low = energies.sum(), values[0], values[-1]
        if total == 0:
            return 0.0, 0.0
        for step in range(1, bands):
            value = values[int((np.cumsum(energies) / total > step / bands).argmax())]
            high, low = high + value, low + value
        return total * low / bands, total * high / bands

    def ratio(self, layer: int, bands: int) -> tuple[float, float]:
        M, spread = self.push(self.M)[layer], np.linalg.norm(self.push(self.R)[layer]) ** 2
        means = self.one_step(layer, M, self.Y, bands)
        lower, upper = [], []
        for seen, rest in self.families():
            sides = [self.one_step(layer, self.push(part)[layer], self.B[0] @ part, bands) for part in (seen, rest)]
            lower.append((sides[0][0] + sides[1][0]) / spread * np.linalg.norm(M) ** 2 / means[1])
            upper.append((sides[0][1] + sides[1][1]) / spread * np.linalg.norm(M) ** 2 / means[0])
        return max(lower), min(upper)

    def certified(self) -> tuple[list[float], list[float]]:
        """Theorem 4 column by column of F's right singular vectors, with T_l ⋯ T_1 as one matrix."""
        right = np.linalg.svd(self.F)[2][: np.linalg.matrix_rank(self.F)].T
        visible, invisible = self.R @ right, self.R - self.R @ right @ right.T
        share, width = self.K / self.N, self.Q[0].shape[1]
        lower = [share * np.linalg.norm(self.R) ** 2 / np.linalg.norm(self.M) ** 2]
        upper, spread, product = [*lower], sorted_values(self.Q[0].T @ invisible, width), np.ones(width)
        first = sorted_values(self.T[0], width)
        for layer in range(1, self.L):
            product = product * sorted_values(self.T[layer - 1], width)
            seen, means = (
                sum((self.column(one, layer, product[0]) for one in columns.T), np.zeros(2))
                for columns in (visible, self.M)
            )
            others = np.prod([low for low, _ in self.gains[1:layer]])
            rest = ((spread * first[::-1] * others) ** 2).sum(), ((spread * product) ** 2).sum()
            lower.append(share * (seen[0] + rest[0]) / means[1])
            upper.append(share * (seen[1] + rest[1]) / means[0])
        return lower, upper

    def column(self, column: np.ndarray, layer: int, most: float) -> np.ndarray:
        """Bounds of ‖W_{l:1}x‖² for a column x of the input."""
        known, hidden = np.linalg.pinv(self.B[0]) @ self.B[0] @ column, np.eye(self.Q[0].shape[1])
        for weight, block in zip(self.W[:layer], self.T, strict=False):
            known, hidden = weight @ known, block @ hidden
        fixed = np.linalg.norm(np.linalg.pinv(self.B[layer]) @ self.B[0] @ column) ** 2
        g, q = self.Q[layer].T @ known, np.linalg.norm(self.Q[0].T @ column)
        k, cross = np.linalg.norm(g), 2 * q * np.linalg.norm(hidden.T @ g)
        low, high = np.prod([low for low, _ in self.gains[:layer]]) * q, most * q
        below = max(0, low - k, k - high) ** 2
        return np.array([fixed + max(below, low**2 + k**2 - cross), fixed + high**2 + k**2 + cross])

    def iterated(self) -> list[float]:
        """Upper bounds of D_l by Lemma 2 step after step, best over the ranks of Π."""

        def iterate(start: np.ndarray) -> list[tuple[float, float]]:
            output, q = self.B[0] @ start, [np.linalg.norm(self.Q[0].T @ start)] * 2
            found = []
            for layer in range(self.L):
                fixed = np.linalg.norm(np.linalg.pinv(self.B[layer]) @ output) ** 2
                found.append((fixed + q[0] ** 2, fixed + q[1] ** 2))
                if layer < self.L - 1:
                    low, high = self.gains[layer]
                    image = self.W[layer] @ np.linalg.pinv(self.B[layer]) @ output
                    kappa = np.linalg.norm(self.Q[layer + 1].T @ image)
                    q = [max(0, low * q[0] - kappa, kappa - high * q[1]), high * q[1] + kappa]
            return found

        means, upper = iterate(self.M), np.full(self.L, np.inf)
        for parts in self.families():
            for layer, (one, other) in enumerate(zip(*(iterate(part) for part in parts), strict=True)):
                upper[layer] = min(upper[layer], self.K / self.N * (one[1] + other[1]) / means[layer][0])
        return list(upper)

    def separation(self) -> tuple[list[float], list[float]]:
        """Theorem 8 in homogeneous coordinates, its inner maximum on a grid of angles."""
        row = [np.vstack([w, np.zeros(w.shape[1])]) for w in self.W]
        lifts = [np.hstack([one, np.append(b, 1.0)[:, None]]) for one, b in zip(row, self.b, strict=True)]
        maps = [np.eye(self.K + 1)]
        for lift in lifts[::-1]:
            maps.insert(0, maps[0] @ lift)
        kernels = [np.linalg.svd(one)[2][self.K + 1 :].T for one in maps[:-1]]
        means, fixed, near, far = [np.vstack([self.means, np.ones(self.K)])], [], [], []
        for layer, kernel in enumerate(kernels):
            fixed.append(np.linalg.pinv(maps[layer]) @ maps[0] @ means[0])
            hidden = [np.linalg.norm(one.T @ mean, axis=0) for one, mean in zip(kernels, means, strict=False)]
            if layer == 0:
                near, far = [hidden[0]], [hidden[0]]
            else:
                gain = np.linalg.norm(kernel.T @ lifts[layer - 1] @ kernels[layer - 1], 2)
                leak = np.linalg.norm(kernel.T @ lifts[layer - 1] @ fixed[-2], axis=0)
                near.append(gain * hidden[layer - 1] + leak)
                far.append(gain * far[-1] + leak)
            means.append(lifts[layer] @ means[-1])
        local, overall = ([grid_floor(v[:-1], h) for v, h in zip(fixed, one, strict=True)] for one in (near, far))
        return local, overall


def sorted_values(matrix: np.ndarray, count: int) -> np.ndarray:
    """The largest singular values, zeros behind."""
    values = np.linalg.svd(matrix, compute_uv=False)[:count]
    return np.append(values, np.zeros(count - len(values)))


def grid_floor(fixed: np.ndarray, hidden: np.ndarray) -> float:
    """The least separation by trying angles on a fine grid."""
    lengths, largest = np.linalg.norm(fixed, axis=0), 0.0
    for i in range(fixed.shape[1]):
        for j in range(i):
            c = abs(fixed[:, i] @ fixed[:, j]) / lengths[i] / lengths[j]
            a, b = (np.linspace(0, math.atan(hidden[k] / lengths[k]), 2001) for k in (i, j))
            largest = max(largest, (c * np.outer(np.cos(a), np.cos(b)) + np.outer(np.sin(a), np.sin(b))).max())
    return 1 - largest


@pytest.mark.parametrize("seed", range(12))
def test_every_certificate_equals_an_independent_implementation(seed: int) -> None:
    network = draw(seed, scales=0.5)
    problem, naive = problem_of(network), Naive(network)
    certificate = SplitCertificate.of(problem)
    for bands in (1, 2, 7, 16):
        lower, upper = certificate.ratio_bounds(bands)
        expected = [naive.ratio(layer, bands) for layer in range(problem.depth - 1)]
        np.testing.assert_allclose(lower, [side[0] for side in expected], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(upper, [side[1] for side in expected], rtol=1e-9)
    found, (lower, upper) = certified_compression(certificate.tail), naive.certified()
    np.testing.assert_allclose(found.lower, lower, rtol=1e-9)
    np.testing.assert_allclose(found.upper, upper, rtol=1e-9)
    for bound, expected in zip(separation_bounds(certificate.tail), naive.separation(), strict=True):
        # A grid of 2001 angles finds a maximum to a millionth of its curvature.
        np.testing.assert_allclose(bound, expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_the_global_bound_is_at_least_as_tight_as_step_after_step(seed: int) -> None:
    """Gains of all of the hidden spread, exact leaks and a cross term with the leak: each can only tighten Lemma 2."""
    network = draw(seed, scales=0.5)
    upper = certified_compression(Tail(problem_of(network))).upper
    iterated = np.array(Naive(network).iterated())
    assert (upper <= iterated * (1 + 1e-9)).all()
    assert (upper[1:] < 0.99 * iterated[1:]).any()


def check_no_violation(network: Network, room: float = 1e-9) -> None:
    problem = problem_of(network)
    compressions, separations = (np.array(one) for one in naive_measurements(network))
    certificate, ratios = SplitCertificate.of(problem), compressions[1:] / compressions[:-1]
    for bands in (1, 3, 16):
        lower, upper = certificate.ratio_bounds(bands)
        assert (ratios <= upper * (1 + room)).all()
        assert (ratios >= lower * (1 - room)).all()
    found = certified_compression(certificate.tail)
    assert (compressions <= found.upper * (1 + room)).all()
    assert (compressions >= found.lower * (1 - room)).all()
    np.testing.assert_allclose(found.visible + found.invisible, compressions, rtol=room)
    for bound in separation_bounds(certificate.tail):
        assert (bound <= separations + room).all()
        assert (bound >= 0).all()
    balanced = balanced_compression(certificate.tail, balance(certificate.tail.problem.weights).last_excess)
    assert compressions[-1] <= balanced * (1 + room)


def test_no_network_leaves_its_bracket() -> None:
    for seed in range(60):
        check_no_violation(draw(seed, repeated=seed % 3 == 0))
        check_no_violation(draw(seed, scales=0.5))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_none_of_two_thousand_networks_leaves_its_bracket(block: int) -> None:
    for seed in range(1000 + 200 * block, 1200 + 200 * block):
        check_no_violation(draw(seed, repeated=seed % 3 == 0))


def test_blocks_are_the_weight_in_the_bases_of_the_output() -> None:
    problem = problem_of(draw(4, scales=1.0))
    tail = Tail(problem)
    readers = [problem.weights[-1]]
    for weight in reversed(problem.weights[:-1]):
        readers.insert(0, readers[0] @ weight)
    for basis, reader in zip(tail.bases, readers, strict=True):
        torch.testing.assert_close(reader @ basis @ basis.T, reader, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(tail.conditions, [float(torch.linalg.cond(one)) for one in readers], rtol=1e-9)
    for layer, step in enumerate(tail.blocks):
        weight, before, after = problem.normalised.weights[layer], tail.bases[layer], tail.bases[layer + 1]
        kernel = torch.eye(len(before)).double() - before @ before.T
        assert float((after.T @ weight @ kernel).norm()) < 1e-13 * float(weight.norm())
        values = torch.linalg.svdvals(weight)
        if len(values) > problem.num_classes:
            assert step.gain_high >= float(values[problem.num_classes])


def test_the_invisible_part_is_unseen_at_every_layer_and_the_parts_add_up() -> None:
    problem = problem_of(draw(6, scales=1.0))
    tail = Tail(problem)
    for layer in range(problem.depth):
        rest = tail.bases[layer].T @ tail.invisible[layer]
        assert float(rest.norm()) < 1e-12 * float(problem.normalised.spreads[layer].norm())
        parts = tail.visible[layer].square().sum() + tail.invisible[layer].square().sum()
        torch.testing.assert_close(parts, problem.normalised.spreads[layer].square().sum(), rtol=1e-10, atol=0)


def test_an_orthonormal_construction_meets_every_bound() -> None:
    """Leading gain s, all others ε, data orthonormal: D_{l+1}/D_l = ε²/s² exactly, and S_l = 1."""
    K, n, epsilon, leading = 3, 4, 0.2, 1.5
    inputs, labels = torch.eye(K * n, dtype=torch.float64), balanced_labels(K, n)
    means = torch.zeros(K * n, K, dtype=torch.float64)
    means[torch.arange(K * n), labels] = n**-0.5
    weight = epsilon * torch.eye(K * n).double() + (leading - epsilon) * means @ means.T
    certificate = SplitCertificate.of(LinearProblem.of([weight, weight, leading * means.T], inputs, labels))
    for bands in (1, 16):
        for side in certificate.ratio_bounds(bands):
            np.testing.assert_allclose(side, (epsilon / leading) ** 2, rtol=1e-12)
    found = certified_compression(certificate.tail)
    expected = (n - 1) * K / (K - 1) * (epsilon / leading) ** (2 * np.arange(3))
    for values in (found.lower, found.upper, found.law, found.invisible):
        np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert found.floor == pytest.approx(0, abs=1e-30)
    np.testing.assert_allclose(separation_bounds(certificate.tail)[1], 1.0, rtol=1e-12)
    assert certificate.explanation_length(np.full(2, (epsilon / leading) ** 2)).tolist() == [1.0, 1.0]


def test_rotations_scales_and_the_order_of_samples_and_classes_change_nothing() -> None:
    network = draw(8, scales=1.0)
    weights, biases, inputs, labels = network
    generator = torch.Generator().manual_seed(1)

    def all_of(problem: LinearProblem) -> list[np.ndarray]:
        certificate = SplitCertificate.of(problem)
        found = certified_compression(certificate.tail)
        return [
            *certificate.ratio_bounds(),
            *certificate.ratio_bounds(1),
            found.lower,
            found.upper,
            *separation_bounds(certificate.tail),
        ]

    plain = all_of(problem_of(network))
    order, names = (
        torch.randperm(len(labels), generator=generator),
        torch.randperm(len(weights[-1]), generator=generator),
    )
    turn = torch.linalg.qr(torch.randn(len(weights[0]), len(weights[0]), generator=generator).double()).Q
    turned = [turn @ weights[0], weights[1] @ turn.T, *weights[2:]]
    moved = [turn @ biases[0], *biases[1:]]
    others = [
        LinearProblem.of(weights, inputs[order], labels[order], biases=biases),
        LinearProblem.of(weights, inputs, names[labels], biases=biases),
        LinearProblem.of(turned, inputs, labels, biases=moved),
        LinearProblem.of([1e30 * weights[0], *weights[1:]], inputs, labels, biases=[1e30 * biases[0], *biases[1:]]),
    ]
    for other in others[:3]:
        for one, two in zip(plain, all_of(other), strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-8, atol=1e-12)
    for one, two in zip(plain[:6], all_of(others[3])[:6], strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-8, atol=1e-12)


def test_second_moments_are_enough() -> None:
    inputs = torch.randn(60, 30, generator=torch.Generator().manual_seed(3)).double()
    labels = torch.arange(60) % 3
    weights = [torch.randn(30, 30, generator=torch.Generator().manual_seed(layer)).double() for layer in range(3)]
    weights.append(torch.randn(3, 30, generator=torch.Generator().manual_seed(9)).double())
    moments = ClassMoments.from_features(inputs, labels, covariance=True)
    given, streamed = LinearProblem.of(weights, inputs, labels), LinearProblem.of_moments(weights, moments)
    for bands in (1, 16):
        for one, two in zip(
            SplitCertificate.of(given).ratio_bounds(bands),
            SplitCertificate.of(streamed).ratio_bounds(bands),
            strict=True,
        ):
            np.testing.assert_allclose(two, one, rtol=1e-6)


def test_a_bracket_of_other_weights_misses_the_measurement() -> None:
    """Weights moved by 1 % at the next-to-last layer give a bracket without the measurement; by 1e−6, one with it."""
    K, n = 3, 4
    inputs, labels = torch.eye(K * n, dtype=torch.float64), balanced_labels(K, n)
    means = torch.zeros(K * n, K, dtype=torch.float64)
    means[torch.arange(K * n), labels] = n**-0.5
    weight = 0.2 * torch.eye(K * n).double() + 1.3 * means @ means.T
    noise = torch.randn(K * n, K * n, generator=torch.Generator().manual_seed(0)).double()
    inside = []
    for size in (1e-6, 1e-2):
        weights = [weight + size * noise, weight + size * noise, 1.5 * means.T]
        lower, upper = SplitCertificate.of(LinearProblem.of(weights, inputs, labels)).ratio_bounds(16)
        measured = (0.2 / 1.5) ** 2
        inside.append(bool((lower <= measured * (1 + 1e-4)).all() and (measured <= upper * (1 + 1e-4)).all()))
    assert inside == [True, False]


def test_bands_converge_to_the_mean_from_both_sides() -> None:
    generator = torch.Generator().manual_seed(5)
    squares = torch.rand(200, generator=generator).double().sort(descending=True).values
    energies = torch.rand(200, 1, generator=generator).double()
    exact, gap = float(squares @ energies[:, 0]), math.inf
    gains = Gains(squares, squares, torch.eye(200).double())
    for bands in (1, 2, 4, 8, 64):
        low, high = (float(side) for side in band_bounds(gains, energies, bands))
        assert low <= exact <= high
        assert high - low == pytest.approx(float(energies.sum() * (squares[0] - squares[-1])) / bands, rel=0.02)
        assert high - low < gap
        gap = high - low
    low, high = resolved_bounds(gains, energies, 200 - 1, 3)
    torch.testing.assert_close(low, high)
    assert float(low) == pytest.approx(exact, rel=1e-12)


def test_one_step_is_exact_where_nothing_leaks() -> None:
    one = torch.ones(1, dtype=torch.float64)
    low, high = step_bounds(3 * one, 2 * one, 0 * one, 0.5, 0.5)
    assert float(low) == float(high) == 4.0
    low, high = step_bounds(0 * one, 1 * one, 5 * one, 0.0, 1.0)
    assert (float(low), float(high)) == (16.0, 36.0)


@pytest.mark.parametrize("c", [0.0, 0.3, 0.9, 1.0])
def test_the_separation_of_two_means_is_the_worst_of_all_angles(c: float) -> None:
    fixed = np.array([[1.0, c], [0.0, math.sqrt(1 - c**2)]])
    for hidden in ([0.0, 0.0], [0.1, 2.0], [3.0, 0.2], [1.0, 1.0], [0.0, 5.0]):
        found = separation_floor(torch.tensor(fixed), torch.tensor(hidden, dtype=torch.float64))
        assert found == pytest.approx(max(0, grid_floor(fixed, np.array(hidden))), abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_parallel_means_are_no_violation(seed: int) -> None:
    """Means that are parallel but for rounding: S_l is 1e−16 or so, and its bound no larger."""
    weights, biases, inputs, labels = draw(seed, scales=0.5)
    direction = torch.randn(inputs.shape[1], generator=torch.Generator().manual_seed(seed)).double()
    for size in (1e4, 1e7, 1e9):
        case = weights, [0 * bias for bias in biases], inputs + size * direction, labels
        problem = problem_of(case)
        measured = measure_problem(problem).separation_uncentred
        for bound in separation_bounds(Tail(problem)):
            assert (bound <= measured * (1 + 1e-6)).all()


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_tail_that_cannot_tell_all_classes_apart_has_no_certificate(layer: int) -> None:
    weights, biases, inputs, labels = draw(4, scales=0.5)
    weights[min(layer, len(weights) - 1)][1:] = 0
    certificate = SplitCertificate.of(LinearProblem.of(weights, inputs, labels, biases=biases))
    assert not certificate.applies
    assert np.isnan(certificate.ratio_bounds()[1]).all()
    assert np.isnan(certified_compression(certificate.tail).upper).all()
    assert np.isnan(separation_bounds(certificate.tail)[0]).all()
    assert math.isnan(balanced_compression(certificate.tail, 0.1))


def test_balance_implies_collapse() -> None:
    """W_LᵀW_L = W_{L−1}W_{L−1}ᵀ and zero loss: D of the last features is 0, and so is the bound."""
    inputs, labels = torch.eye(6, dtype=torch.float64), balanced_labels(2, 3)
    means = torch.zeros(6, 2, dtype=torch.float64)
    means[torch.arange(6), labels] = 3**-0.5
    tail = Tail(LinearProblem.of([means @ means.T, means.T], inputs, labels))
    assert balance(tail.problem.weights).last_excess == pytest.approx(0, abs=1e-15)
    assert balanced_compression(tail, balance(tail.problem.weights).last_excess) == pytest.approx(0, abs=1e-15)
    loose = Tail(LinearProblem.of([means @ means.T + 0.1 * torch.eye(6).double(), 1.1 * means.T], inputs, labels))
    assert balance(loose.problem.weights).last_excess == pytest.approx(0.01, rel=1e-9)
    expected = 2 / 6 * 0.01 * 4 / ((1.1**2) * (1 / 3))  # δ⁺‖R‖² over ‖M_{L−1}‖² = 1.1² · ‖M‖², ‖R‖² = 4
    assert balanced_compression(loose, balance(loose.problem.weights).last_excess) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([torch.eye(4)[:2]], "needs two weights"),
        ([torch.eye(4)[:2], torch.eye(2)], "every width to exceed the 2 outputs"),
    ],
)
def test_networks_without_a_certificate_are_one_clear_line(weights: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitCertificate.of(LinearProblem.of(weights, torch.eye(4), torch.tensor([0, 0, 1, 1])))

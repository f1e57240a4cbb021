"""Theorem 1': the a-priori certificate with measured imbalance, loss and distance to the least-norm fit."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from neurocollapse.data.synthetic import balanced_labels
from neurocollapse.theory import prior_certificate, robust_certificate, verify


def drifting(num_classes: int = 2, samples: int = 4, depth: int = 8, epsilon: float = 0.05, imbalance: float = 0.0099):
    """A1, A2 and A4 exact; the leading values grow by the same small imbalance from layer to layer, so it adds up."""
    count = num_classes * samples
    labels, width = balanced_labels(num_classes, samples), count + 2
    inputs = torch.eye(width, dtype=torch.float64)[:count]
    means = torch.zeros(width, num_classes, dtype=torch.float64)
    means[torch.arange(count), labels] = samples**-0.5
    inside = means @ means.T
    scale = 1 + imbalance * torch.arange(depth, dtype=torch.float64)
    scale *= (samples / scale.prod()) ** (1 / depth)
    outside = epsilon * (torch.eye(width, dtype=torch.float64) - inside)
    weights = [scale[layer].sqrt() * inside + outside for layer in range(depth - 1)]
    return [*weights, scale[-1].sqrt() * means.T], inputs, labels


def naive_robust(weights: list[Tensor], inputs: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """The statement once more: numpy, dense, square hidden layers, bisection for the roots."""
    W, X, K, L = [w.numpy() for w in weights], inputs.numpy().T, weights[-1].shape[0], len(weights)
    N, d = X.shape[1], X.shape[0]
    n, Y = N / K, np.eye(K)[labels.numpy()].T
    theta = np.linalg.norm(X.T @ X - np.eye(N), 2)
    product = np.linalg.multi_dot(W[::-1])
    E = {j: W[j].T @ W[j] - W[j - 1] @ W[j - 1].T for j in range(1, L - 1)}
    beta = {j: np.linalg.norm(E[j], 2) for j in E} | {0: 0.0}
    b = [sum(beta[j] for j in range(max(i, 1), L - 1)) for i in range(L)]
    delta = np.linalg.norm(W[-1].T @ W[-1] - W[-2] @ W[-2].T, 2)
    svds = [np.linalg.svd(one) for one in W[:-1]]
    eps, top = max(one[1][K] for one in svds), max(one[1][0] for one in svds) ** 2
    rho = eps - min(one[1][d - K - 1] for one in svds)
    inner = {j: np.linalg.norm(svds[j - 1][0][:, K:].T @ E[j] @ svds[j - 1][0][:, K:], 2) for j in E}
    mu = np.linalg.norm(product - Y @ np.linalg.pinv(X), 2)
    nu = np.linalg.norm((product @ X - Y) @ Y.T / n, 2)
    means = X @ Y.T / n
    R = X - means @ Y
    before = np.linalg.multi_dot([*W[:-1][::-1], R]) if L > 2 else W[0] @ R
    A1 = W[-1] @ svds[-1][0][:, :K]
    e = np.linalg.norm(np.linalg.solve(A1, W[-1] @ before)) / np.linalg.norm(before)
    low, high = (math.sqrt(n / (1 + theta)) - mu) ** 2, (math.sqrt(n / (1 - theta)) + mu) ** 2
    eta = top ** (L - 2) * (top + delta) * sum(j * beta[j] for j in E)

    def root(function, start: float, stop: float) -> float:
        for _ in range(300):
            middle = (start + stop) / 2
            start, stop = (middle, stop) if function(middle) < 0 else (start, middle)
        return start

    s_minus = root(lambda s: s ** (L - 1) * (s + delta) - low + eta, 0, low + 1)
    s_plus = root(lambda s: s ** (L - 1) * (s - delta) - high - eta, delta, delta + high + 2)
    s = [beta[i] / (s_minus - b[i + 1] - eps**2) for i in range(L - 1)]
    c = [math.sqrt(1 - one**2) for one in s]
    x = {L - 1: (delta / (s_minus - delta) + e) / (1 - e)}
    for i in range(L - 2, 0, -1):
        k = eps / math.sqrt(s_minus - b[i + 1])
        x[i] = (x[i + 1] * k + s[i]) / (c[i] - x[i + 1] * k * s[i])
    u, w = 0.0, eps
    for i in range(1, L - 1):
        u, w = math.sqrt(s_plus + b[i + 1]) * (u + s[i] * w), eps * (w + s[i] * u)
    t = (math.sqrt(s_plus + delta) * u + math.sqrt(eps**2 + delta) * w) * math.sqrt((1 + theta) / n)
    g0 = (1 - nu - t) ** 2 / high
    y = [math.sqrt(max(0, (1 + theta) / n - g0) / g0)]
    f0 = 1 / (1 + (x[1] * eps / math.sqrt(s_minus - b[1])) ** 2)
    f0 -= K * (1 + theta) / ((n - 1) * K * (1 - theta))
    lower, upper, loss = [], [], 0.0
    for i in range(L - 1):
        loss += inner[i] + 2 * beta[i] * x[i] + beta[i] * x[i] ** 2 if i else 0.0
        lower.append(max(0, (eps - rho) ** 2 * f0 - loss) / (s_plus + b[i + 1]))
        gain = c[i] - s[i] * y[i]
        upper.append((1 + x[i + 1] ** 2) * (1 + y[i] ** 2) * eps**2 / ((s_minus - b[i + 1]) * gain**2))
        y.append(eps * (y[i] + s[i]) / (math.sqrt(s_minus - b[i + 1]) * gain))
    return lower, upper


def perturbed(exact, seed: int, size: float):
    """An exact construction with noise of relative size `size` in every weight."""
    case = exact(seed, theta=0.2 * (seed % 3))
    generator = torch.Generator().manual_seed(seed)
    for layer, weight in enumerate(case.weights):
        noise = torch.randn(weight.shape, dtype=torch.float64, generator=generator)
        case.weights[layer] = weight + size * noise * case.epsilon**2 / weight.shape[1] ** 0.5
    return case


def test_imbalance_that_adds_up_is_in_the_bracket() -> None:
    weights, inputs, labels = drifting()
    verification = verify(weights, inputs, labels)
    table = verification.to_dataset()
    assert verification.assumptions["interior_balance"].met
    assert (table["decay_ratio"].values[1:4] > table["prior_upper"].values[1:4] * 1.001).all()  # the exact form fails
    assert (table["decay_ratio"].values[1:] <= table["robust_upper"].values[1:]).all()
    assert (table["robust_lower"].values[1:] <= table["decay_ratio"].values[1:]).all()
    assert "violated" not in {verdict.outcome for verdict in verification.verdicts}


@pytest.mark.parametrize("seed", range(0, 40, 4))
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-4])
def test_the_bounds_equal_an_independent_implementation(exact, seed: int, size: float) -> None:
    case = perturbed(exact, seed, size)
    table = verify(case.weights, case.inputs, case.labels).to_dataset()
    lower, upper = naive_robust(case.weights, case.inputs, case.labels)
    np.testing.assert_allclose(table["robust_lower"].values[1:], lower, rtol=1e-9)
    # e compares what the last layer leaves of the spread with a spread that is 1e-8 of the one it started from.
    np.testing.assert_allclose(table["robust_upper"].values[1:], upper, rtol=1e-8)


def test_no_perturbed_construction_leaves_the_bracket(exact) -> None:
    judged = 0
    for seed, size in itertools.product(range(14), [0.0, 1e-5, 1e-3, 1e-2, 1e-1]):
        case = perturbed(exact, seed, size)
        table = verify(case.weights, case.inputs, case.labels).to_dataset().isel(layer=slice(1, None))
        known = np.isfinite(table["robust_upper"].values)
        judged += int(known.sum())
        ratios = table["decay_ratio"].values[known]
        assert (ratios <= table["robust_upper"].values[known] * (1 + 1e-9)).all(), (seed, size)
        assert (ratios >= table["robust_lower"].values[known] * (1 - 1e-9)).all(), (seed, size)
    assert judged > 150


def test_without_residuals_on_orthonormal_data_it_is_the_law_itself() -> None:
    given = {"num_classes": 4, "samples_per_class": 16, "depth": 4, "theta": 0.0, "delta": 0.0, "rho": 0.0}
    found = robust_certificate(**given, epsilon=0.01, largest=2.0, imbalance=(0.0, 0.0))
    np.testing.assert_allclose(found.ratio_upper, 1e-4 / 2, rtol=1e-3)  # ε²/n^{1/L}, up to terms of order ε⁴
    np.testing.assert_allclose(found.ratio_lower, 1e-4 / 2 * (1 - 1 / 15), rtol=1e-3)
    exact = prior_certificate(**given, epsilon=0.01)
    assert (found.ratio_upper <= exact.ratio_upper * (1 + 1e-12)).all()
    assert (found.ratio_lower >= exact.ratio_lower * (1 - 1e-12)).all()


def gains(weights: list[Tensor], start: Tensor) -> list[float]:
    """a_l = ‖W_{l+1}Z_l‖²/‖Z_l‖² for l = 0, 1, …, column by column."""
    found, features = [], start
    for weight in weights:
        images = torch.stack([weight @ column for column in features.T], 1)
        found.append(sum(float(one @ one) for one in images.T) / sum(float(one @ one) for one in features.T))
        features = images
    return found


@pytest.mark.parametrize("seed", range(30))
def test_gains_fall_by_no_more_than_the_imbalance(seed: int) -> None:
    """Proposition 5 on arbitrary chains, and nearly with equality where one direction is all there is."""
    generator = torch.Generator().manual_seed(seed)
    widths = torch.randint(1, 7, (5,), generator=generator).tolist()
    weights = [torch.randn(b, a, generator=generator).double() for a, b in itertools.pairwise(widths)]
    features = torch.randn(widths[0], 1 + seed % 4, generator=generator).double()
    found = gains(weights, features)
    for layer in range(1, len(weights)):
        features = weights[layer - 1] @ features
        difference = weights[layer].T @ weights[layer] - weights[layer - 1] @ weights[layer - 1].T
        exact = float((features * (difference @ features)).sum() / features.square().sum())
        least = found[layer - 1] + exact
        assert found[layer] >= least - 1e-12 * abs(least)
        assert exact >= -float(torch.linalg.matrix_norm(difference, 2)) * (1 + 1e-12)
        if widths[layer - 1] == 1:  # Z_{l−1} is then parallel to W_lᵀZ_l, and Cauchy–Schwarz an equality
            assert found[layer] == pytest.approx(least, rel=1e-10)


def test_spread_and_means_of_a_balanced_network_are_log_convex(exact) -> None:
    case = exact(2, theta=0.2)
    table = verify(case.weights, case.inputs, case.labels).to_dataset()
    assert table.sizes["layer"] >= 3
    features, traces = case.inputs, []
    for weight in case.weights:
        means = torch.stack([features[case.labels == k].mean(0) for k in range(len(case.weights[-1]))])
        within, between = features - means[case.labels], means - means.mean(0)
        traces.append([float(within.square().sum()), float(between.square().sum())])
        features = features @ weight.T
    logarithms = np.log(np.array(traces))
    assert (np.diff(logarithms, 2, axis=0) >= -1e-9).all()
    assert (np.diff(logarithms, 2, axis=0) > 1e-6).any()


def test_the_lower_bound_leaves_out_only_the_directions_without_one() -> None:
    """n = 4, K = 2, orthonormal data, equal trailing values: at every step the ratio is 1.5 times its lower bound."""
    weights, inputs, labels = drifting(imbalance=0.0)
    table = verify(weights, inputs, labels).to_dataset().isel(layer=slice(1, None))
    np.testing.assert_allclose(table["decay_ratio"] / table["robust_lower"], 1.5, rtol=2e-3)
    # Theorem 1 takes the leading directions off as well: a factor of 2.
    np.testing.assert_allclose(table["decay_ratio"] / table["prior_lower"], 2.0, rtol=2e-3)


@pytest.mark.parametrize(
    "size", ["imbalance", "trailing_imbalance", "within_residual", "means_residual", "fit_residual", "delta", "theta"]
)
def test_every_residual_widens_the_bracket(size: str) -> None:
    given = {"num_classes": 3, "samples_per_class": 10, "depth": 4, "theta": 0.1, "delta": 0.01, "epsilon": 0.2}
    given |= {"rho": 0.0, "largest": 1.8, "imbalance": (1e-3, 1e-3)}
    before = robust_certificate(**given)
    larger = (2e-3, 2e-3) if "imbalance" in size else given.get(size, 0.0) + 0.01
    after = robust_certificate(**(given | {size: larger}))
    assert (after.ratio_upper >= before.ratio_upper).all()
    assert (after.ratio_lower <= before.ratio_lower).all()
    assert (after.ratio_upper - after.ratio_lower).sum() > (before.ratio_upper - before.ratio_lower).sum()


def test_the_bracket_does_not_see_the_scale_of_the_network(exact) -> None:
    case = perturbed(exact, 3, 1e-4)
    plain = verify(case.weights, case.inputs, case.labels).to_dataset()
    part = 9.0 ** (1 / len(case.weights))
    scaled = verify([one / part for one in case.weights], case.inputs, case.labels, output_scale=9.0).to_dataset()
    for side in ("robust_lower", "robust_upper"):
        np.testing.assert_allclose(scaled[side], plain[side], rtol=1e-9)


def test_numbers_beyond_its_reach_give_no_bound() -> None:
    given = {"num_classes": 3, "samples_per_class": 10.0, "depth": 4, "rho": 0.0, "largest": 1.8}
    for change in (
        {"theta": 1.0},
        {"theta": math.nan},
        {"epsilon": 2.0},
        {"delta": 1e300},
        {"largest": math.inf, "imbalance": (0.1, 0.1)},
        {"fit_residual": 10.0},
        {"within_residual": 1.0},
        {"means_residual": 1.0},
        {"samples_per_class": math.nan},
    ):
        found = robust_certificate(**({"theta": 0.1, "delta": 0.1, "epsilon": 0.3} | given | change))
        assert np.isnan(found.ratio_upper).all(), change
        assert np.isnan(found.ratio_lower).all(), change

"""The a-priori certificate: exact constructions never leave it, and it can fail."""

import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor

from neurocollapse.data.synthetic import balanced_labels, near_orthonormal, one_hot
from neurocollapse.models.linear import linear_weights
from neurocollapse.theory import EXACT, prior_certificate, verify
from neurocollapse.theory.printed import printed_bounds
from neurocollapse.theory.prior import PRIOR, leading_bounds
from neurocollapse.train.descent import descend


def naive_certificate(weights: list[Tensor], inputs: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """THEORY's formulas once more: numpy, plain loops, bisection."""
    W = [weight.numpy() for weight in weights]
    X, L, K = inputs.numpy().T, len(weights), weights[-1].shape[0]
    d, n = X.shape[0], X.shape[1] / K
    theta = np.linalg.norm(X.T @ X - np.eye(X.shape[1]), 2)
    delta = np.linalg.norm(W[-1].T @ W[-1] - W[-2] @ W[-2].T, 2)
    spectra = [np.linalg.svd(weight, compute_uv=False) for weight in W[:-1]]
    eps = max(values[K:].max() for values in spectra)
    rho = eps - min(values[d - K - 1] for values in spectra)

    def root(function, low: float, high: float) -> float:
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if function(middle) < 0 else (low, middle)
        return (low + high) / 2

    s_minus = root(lambda s: s ** (L - 1) * (s + delta) - n / (1 + theta), 0, n + 1)
    s_plus = root(lambda s: s ** (L - 1) * (s - delta) - n / (1 - theta), delta, delta + 2 * (n / (1 - theta)) + 2)
    t = math.sqrt(eps**2 + delta) * eps ** (L - 1) * math.sqrt((1 + theta) / n)
    tau, g_up, g_low, h, c = [], [], [], [], []
    for layer in range(L):
        q = L - 1 - layer
        tau.append(delta / (s_minus - delta) * (eps**2 / s_minus) ** (q / 2))
        g_up.append(s_minus**-q * (1 + t) ** 2 / (s_minus - delta))
        g_low.append(s_plus**-q * (1 - t) ** 2 / (s_plus + delta))
        h.append(eps ** (2 * layer) * max(0, (1 + theta) / n - g_low[0]))
        w = max(0, (n - 1) * K * (1 - theta) - 2 * K * (1 + theta))
        c.append(w / (w + (eps / (eps - rho)) ** (2 * layer) * K * (1 + theta)))
    return {
        "prior_lower": [math.nan] + [c[i] * (eps - rho) ** 2 / (s_plus * (1 + tau[i] ** 2)) for i in range(L - 1)],
        "prior_upper": [math.nan]
        + [(1 + tau[i + 1] ** 2) * (1 + h[i] / g_low[i]) * eps**2 / s_minus for i in range(L - 1)],
        "separation_prior_lower": [2 / (1 + (g_up[i] + h[i]) / g_low[i]) for i in range(L)],
    }


def naive_measurement(weights: list[Tensor], inputs: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """D_l and S_l from their definitions, sample by sample."""
    features, compressions, separations = inputs.numpy().T, [], []
    K = weights[-1].shape[0]
    for layer in range(len(weights)):
        means = [features[:, labels.numpy() == k].mean(1) for k in range(K)]
        centre = sum(means) / K
        within = sum(((features[:, i] - means[int(k)]) ** 2).sum() for i, k in enumerate(labels)) / len(labels)
        compressions.append(within / (sum(((mean - centre) ** 2).sum() for mean in means) / K))
        cosines = [abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) for i, a in enumerate(means) for b in means[:i]]
        separations.append(1 - max(cosines))
        features = weights[layer].numpy() @ features
    return compressions, separations


@pytest.mark.parametrize("block", range(8))
def test_exact_constructions_never_leave_the_bracket(exact, block: int) -> None:
    for seed in range(25 * block, 25 * block + 25):
        case = exact(seed)
        verification = verify(case.weights, case.inputs, case.labels, exactness=EXACT)
        assert verification.status == "holds", (seed, verification)
        assert verification.theorems["prior"].status == "holds", (seed, verification)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_two_thousand_exact_constructions_never_leave_the_bracket(exact, block: int) -> None:
    for seed in range(1000 + 100 * block, 1100 + 100 * block):
        case = exact(seed, classes=(2, 10), samples=(5, 40))
        verification = verify(case.weights, case.inputs, case.labels, exactness=EXACT)
        assert verification.status == "holds", (seed, verification)
        assert verification.theorems["prior"].status == "holds", (seed, verification)


@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_bounds_and_measurements_equal_an_independent_implementation(exact, seed: int) -> None:
    case = exact(seed)
    table = verify(case.weights, case.inputs, case.labels).to_dataset()
    for name, expected in naive_certificate(case.weights, case.inputs, case.labels).items():
        np.testing.assert_allclose(table[name].values[: len(expected)], expected, rtol=1e-9)
    compressions, separations = naive_measurement(case.weights, case.inputs, case.labels)
    np.testing.assert_allclose(table["compression"].values, compressions, rtol=1e-6)  # 1e-11 of the data at D = 1e-20
    np.testing.assert_allclose(table["separation_uncentred"].values, separations, rtol=1e-9)


def test_the_assumptions_report_what_was_built(exact) -> None:
    case = exact(5, theta=0.6)
    found = verify(case.weights, case.inputs, case.labels).assumptions
    assert found["near_orthonormal_data"].value == pytest.approx(0.6, rel=1e-9)
    assert found["near_orthonormal_data"].residual <= 0.6
    assert found["low_rank"].value == pytest.approx(case.epsilon, rel=1e-9)
    assert found["minimum_norm"].residual < 1e-10
    assert found["interior_balance"].residual < 1e-12


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
@pytest.mark.parametrize("damage", ["scale", "noise", "turn"])
def test_breaking_one_layer_breaks_the_assumptions(exact, layer: int, damage: str) -> None:
    case = exact(11, depth=(4, 4), epsilon=(0.2, 0.4))
    generator = torch.Generator().manual_seed(layer)
    weight = case.weights[layer]
    if damage == "scale":
        case.weights[layer] = 1.2 * weight
    elif damage == "noise":
        case.weights[layer] = weight + 0.2 * torch.randn(weight.shape, dtype=torch.float64, generator=generator)
    else:
        skew = torch.randn(weight.shape[1], weight.shape[1], dtype=torch.float64, generator=generator)
        case.weights[layer] = weight @ torch.linalg.matrix_exp(0.2 * (skew - skew.T))
    verification = verify(case.weights, case.inputs, case.labels)
    assert verification.theorems["prior"].status == "assumptions unmet"
    assert any(not assumption.met for assumption in verification.assumptions.values())
    prior = [verdict for verdict in verification.verdicts if "(a priori)" in verdict.reference]
    assert {verdict.outcome for verdict in prior} == {"assumptions unmet"}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda case: setattr(case, "inputs", 2 * case.inputs), "near_orthonormal_data"),
        (lambda case: setattr(case, "labels", case.labels.roll(1)), "zero_loss"),
        (lambda case: case.labels.__setitem__(0, 1), "balanced_classes"),
        (lambda case: case.weights.__setitem__(1, 1.05 * case.weights[1]), "interior_balance"),
        (lambda case: case.weights.__setitem__(-1, 1.15 * case.weights[-1]), "minimum_norm"),
    ],
)
def test_the_broken_assumption_is_named(exact, change, name: str) -> None:
    case = exact(3, depth=(4, 4), epsilon=(0.2, 0.3))
    change(case)
    verification = verify(case.weights, case.inputs, case.labels)
    assert verification.theorems["prior"].status == "assumptions unmet"
    assert not verification.assumptions[name].met
    assert any(name in verdict.reason for verdict in verification.verdicts)


@pytest.fixture
def shrunken(exact):
    """Exact but for leading singular values of 0.97 of the truth: the product is 8.7 % short of zero loss."""
    uniform = {"rho_part": 0.0, "theta": 0.0, "turn": 0.0, "wide_top": 0.0, "wide_low": 0.0}
    return exact(2, classes=(3, 3), depth=(3, 3), epsilon=(0.05, 0.05), shrink=0.97, **uniform)


def test_a_missed_bracket_is_no_violation_while_the_theorem_is_not_exact(shrunken) -> None:
    verification = verify(shrunken.weights, shrunken.inputs, shrunken.labels)
    assert verification.theorems["prior"].status == "assumptions unmet"
    assert all(verification.assumptions[name].met for name in PRIOR.needs)
    worst = min(verification.theorems["prior"].verdicts, key=lambda verdict: verdict.slack)
    assert worst.slack == pytest.approx(0.97**2 - 1, abs=0.01)  # the leading σ² are too small by that much
    expected = r"outside by 5\.\d %; the theorem takes (zero_loss|minimum_norm) as exact, and its residual is 0\.087"
    assert re.fullmatch(expected, worst.reason)
    prior = [verdict for verdict in verification.verdicts if "(a priori)" in verdict.reference]
    assert {verdict.outcome for verdict in prior if verdict.slack >= 0} == {"holds"}
    exactly = verify(shrunken.weights, shrunken.inputs, shrunken.labels, exactness=EXACT)
    assert exactly.theorems["prior"].status == "assumptions unmet"


def test_weight_decay_is_not_called_a_violation() -> None:
    inputs, labels = near_orthonormal(30, 50, seed=2), balanced_labels(3, 10)
    start = linear_weights([50, 50, 50, 3], "orth", 0.5, seed=2)
    settings = {"learning_rate": 0.02, "weight_decay": 0.1, "num_steps": 1000}
    verification = verify(descend(start, inputs, one_hot(labels), **settings).weights, inputs, labels)
    assert all(verification.assumptions[name].met for name in PRIOR.needs)
    assert verification.theorems["prior"].status == "assumptions unmet"
    reasons = [verdict.reason for verdict in verification.theorems["prior"].verdicts if verdict.outcome != "holds"]
    assert len(reasons) == 1
    assert "as exact" in reasons[0]


def test_the_slides_centred_separation_violates_the_bound(exact) -> None:
    case = exact(4, classes=(3, 3), epsilon=(0.1, 0.3), theta=0.05)
    centred = verify(case.weights, case.inputs, case.labels, separation_means="centred")
    assert verify(case.weights, case.inputs, case.labels).status == "holds"
    assert centred.status == "violated"
    np.testing.assert_allclose(centred.to_dataset()["separation_centred"], 0.5, atol=0.05)  # 1 - 1/(K-1)


def test_the_output_scale_moves_into_the_certificate(exact) -> None:
    case = exact(6, depth=(4, 4))
    plain = verify(case.weights, case.inputs, case.labels).to_dataset()
    part = 7.0 ** (1 / 4)
    scaled = [weight / part for weight in case.weights]
    table = verify(scaled, case.inputs, case.labels, output_scale=7.0).to_dataset()
    # One factor for all layers scales ε², δ and s alike, so every ratio and cosine bound stays as it is.
    for name in ("decay_ratio", "prior_lower", "prior_upper", "rate", "separation_prior_lower"):
        np.testing.assert_allclose(table[name], plain[name], rtol=1e-8)
    assert verify(scaled, case.inputs, case.labels, output_scale=7.0).status == "holds"


def test_roots_solve_their_equations() -> None:
    s_minus, s_plus = leading_bounds(10.0, 5, 0.3, 0.2)
    assert s_minus**4 * (s_minus + 0.2) == pytest.approx(10 / 1.3, rel=1e-14)
    assert s_plus**4 * (s_plus - 0.2) == pytest.approx(10 / 0.7, rel=1e-14)
    assert all(map(math.isnan, leading_bounds(10.0, 5, 1.0, 0.2)))
    assert all(map(math.isnan, leading_bounds(math.nan, 5, 0.1, 0.2)))


def test_the_printed_shape_follows_from_the_certificate() -> None:
    for theta, delta, L in [(0.0, 0.05, 4), (0.2, 0.1, 6), (0.3, 0.02, 3)]:
        s_minus, s_plus = leading_bounds(10.0, L, theta, delta)
        assert delta * (2 / 10) ** (1 / L) <= (1 - theta) / (1 + theta)
        assert s_minus >= (10 / 2) ** (1 / L)
        assert s_plus <= (4 * 10) ** (1 / L)


def test_undefined_constants_give_no_bound() -> None:
    given = {"num_classes": 3, "samples_per_class": 10.0, "depth": 4, "rho": 0.0}
    for theta, delta, epsilon in [(1.0, 0.1, 0.3), (0.1, 5.0, 0.3), (0.1, 0.1, 2.0)]:
        certificate = prior_certificate(theta=theta, delta=delta, epsilon=epsilon, **given)
        assert np.isnan(certificate.ratio_upper).all()
        assert np.isnan(certificate.separation_lower).all()


def test_without_a_middle_block_the_lower_bound_is_zero() -> None:
    given = {"num_classes": 3, "samples_per_class": 10.0, "depth": 4, "theta": 0.1, "delta": 0.1, "epsilon": 0.3}
    assert prior_certificate(rho=math.nan, **given).ratio_lower.tolist() == [0, 0, 0]
    assert prior_certificate(rho=0.1, **given).ratio_lower.min() > 0


def test_the_printed_bounds_are_the_printed_ones() -> None:
    bounds = printed_bounds(samples_per_class=10, depth=5, theta=0.1, delta=0.6, epsilon=0.3, c=0.9, kappa=1.1)
    assert bounds.ratio_lower == pytest.approx(0.9 * 0.09 / (1.1 * 40**0.2))
    assert bounds.ratio_upper == pytest.approx(1.1 * 0.09 / (0.9 * 5**0.2))
    expected = [1 - 32 * (0.1 + 2.4) / 5 * (5 - layer - 1) for layer in range(5)]
    np.testing.assert_allclose(bounds.separation_lower, expected)

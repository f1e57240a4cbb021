"""The assumptions of the theorem on wide networks: numbers of the source's figures, and the exact reduction."""

from dataclasses import replace
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from neurocollapse.data.synthetic import balanced_labels, noisy_orthonormal, one_hot
from neurocollapse.experiments import Workplace
from neurocollapse.experiments.collapse.assumption_checks import EXPERIMENT, AssumptionChecks, reduced_start
from neurocollapse.train.descent import descend

QUIET = Workplace(progress=False)
QUICK = AssumptionChecks(hidden_layers=(1, 2, 3), num_seeds=8, seed=40)


def test_residuals_as_in_the_figures() -> None:
    outcome = EXPERIMENT(QUICK, workplace=QUIET)
    assert outcome.status == "holds"
    depths = outcome.dataset.isel(network=outcome.dataset["sweep"].values == "depth").mean("seed")
    assert float(depths["minimum_norm"][0]) == pytest.approx(0.049, rel=0.10)
    assert float(depths["balance"][1]) == pytest.approx(0.066, rel=0.10)
    figure = outcome.figure()
    assert [axes.get_title() for axes in figure.axes[:2]] == ["L = 3", "width 400"]
    plt.close(figure)


@pytest.mark.slow
def test_residuals_of_the_small_setting_on_other_seeds() -> None:
    outcome = EXPERIMENT(replace(AssumptionChecks(), seed=60), workplace=QUIET)
    assert outcome.status == "holds"
    assert len(outcome.verdicts) == 7


def test_the_reduction_is_exact() -> None:
    width, depth, d, num_classes, scale = 40, 4, 12, 3, 0.3
    inside = d + num_classes
    reduced = reduced_start(width, depth, d, num_classes, scale, seed=3)
    generator = torch.Generator().manual_seed(8)
    turns = [torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator)).Q for _ in range(3)]
    full = [scale * torch.eye(width, dtype=torch.float64) for _ in range(depth)]
    full[0], full[-1] = full[0][:, :d], torch.zeros(num_classes, width, dtype=torch.float64)
    full[-1][:, :inside] = reduced[-1]
    start = [turns[0] @ full[0], turns[1] @ full[1] @ turns[0].T, turns[2] @ full[2] @ turns[1].T, full[3] @ turns[2].T]
    for weight in start[1:-1]:
        torch.testing.assert_close(weight.T @ weight, scale**2 * torch.eye(width).double(), rtol=0, atol=1e-12)
    inputs = noisy_orthonormal(9, d, seed=1)
    targets = one_hot(balanced_labels(3, 3))
    options = {"learning_rate": 0.3, "num_steps": 200, "reduction": "sum_over_samples"}
    small = descend(reduced, inputs, targets, **options).weights
    large = descend(start, inputs, targets, **options).weights
    product = torch.linalg.multi_dot(list(reversed(small)))
    torch.testing.assert_close(product, torch.linalg.multi_dot(list(reversed(large))), rtol=1e-9, atol=1e-11)
    back = turns[1].T @ large[1] @ turns[0]
    torch.testing.assert_close(back[:inside, :inside], small[1], rtol=1e-9, atol=1e-11)
    rest = scale * torch.eye(width - inside, dtype=torch.float64)
    torch.testing.assert_close(back[inside:, inside:], rest, rtol=0, atol=1e-12)


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_measures_are_those_of_the_full_network(hidden: int) -> None:
    setting = AssumptionChecks(
        widths=(), hidden_layers=(hidden,), common_width=30, num_classes=2, samples_per_class=3, num_features=10,
        noise=0.3, init_scale=0.3, num_steps=150, num_seeds=1, seed=2, tolerance=0.0,
    )  # fmt: skip
    measured = EXPERIMENT(setting, workplace=QUIET).dataset.isel(network=0, seed=0)
    start = reduced_start(30, hidden + 1, 10, 2, 0.3, seed=2)
    full = [0.3 * torch.eye(30, dtype=torch.float64) for _ in start]
    full[0] = full[0][:, :10]
    full[-1] = torch.zeros(2, 30, dtype=torch.float64)
    full[-1][:, :12] = start[-1]
    inputs, targets = noisy_orthonormal(6, 10, noise=0.3, seed=2), one_hot(balanced_labels(2, 3))
    rate = EXPERIMENT.small.learning_rate

    def falling(step: int) -> float:
        return rate / 1000 + (rate - rate / 1000) * (1 + np.cos(np.pi * step / 150)) / 2

    weights = descend(full, inputs, targets, learning_rate=falling, num_steps=150, reduction="sum_over_samples").weights
    best = targets.T @ torch.linalg.pinv(inputs.T)
    missing = torch.linalg.matrix_norm(torch.linalg.multi_dot(list(reversed(weights))) - best)
    imbalances = [
        float(torch.linalg.matrix_norm(before @ before.T - after.T @ after) / torch.linalg.matrix_norm(before))
        for before, after in pairwise(weights)
    ]
    spread = torch.cat([torch.linalg.svdvals(weight)[2:8] for weight in weights[:-1]]).var()
    assert float(measured["minimum_norm"]) == pytest.approx(float(missing), rel=1e-8)
    assert float(measured["balance"]) == pytest.approx(np.mean(imbalances), rel=1e-8)
    assert float(measured["spread"]) == pytest.approx(float(spread), rel=1e-5)


def test_wrong_numbers_violate_the_claims() -> None:
    dataset = EXPERIMENT(replace(QUICK, num_seeds=1, hidden_layers=(1, 2)), workplace=QUIET).dataset
    wrong = dataset.copy(deep=True)
    wrong["minimum_norm"] = 0.2 - dataset["minimum_norm"]
    wrong["balance"] = 2 * dataset["balance"]
    wrong["spread"] = dataset["spread"] + 1e-3
    assert {verdict.outcome for verdict in EXPERIMENT.claims(wrong)} == {"violated"}


def test_an_unfinished_run_or_another_width_makes_no_claim() -> None:
    quick = replace(QUICK, num_seeds=1, hidden_layers=(1, 2), widths=(200,))
    unfinished = EXPERIMENT(replace(quick, num_steps=20), workplace=QUIET)
    assert {verdict.outcome for verdict in unfinished.verdicts} == {"assumptions unmet"}
    loose = EXPERIMENT(replace(quick, tolerance=1.0), workplace=QUIET)
    assert {verdict.outcome for verdict in loose.verdicts} == {"assumptions unmet"}
    assert loose.verdicts[0].reason == "3 of 3 networks were not trained to a loss of 10⁻¹⁰"
    narrow = EXPERIMENT(replace(quick, common_width=100), workplace=QUIET)
    assert "read off for common_width = 400" in {verdict.reason for verdict in narrow.verdicts}


def test_a_width_without_anything_to_leave_out_is_refused() -> None:
    with pytest.raises(ValueError, match="need width ≥ d"):
        reduced_start(52, 3, 50, 3, 0.1, seed=0)

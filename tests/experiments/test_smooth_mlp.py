"""Two-layer networks with smooth activations: the printed drift, where it fails, and what must violate the claims."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from neurocollapse.data.synthetic import balanced_labels, near_orthonormal, one_hot
from neurocollapse.experiments import Workplace
from neurocollapse.experiments.experiment import Outcome
from neurocollapse.experiments.parsimony.smooth_mlp import EXPERIMENT, SmoothMlp
from neurocollapse.models.linear import linear_weights
from neurocollapse.theory import ACTIVATIONS, smooth_subspaces
from neurocollapse.train.descent import descend

QUIET = Workplace(progress=False)
QUICK = SmoothMlp(activations=("tanh", "elu", "relu"), init_scales=(0.1, 0.001), num_steps=150, seed=11)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """Three activations on other seeds."""
    return EXPERIMENT(QUICK, workplace=QUIET)


def test_the_drift_is_printed_for_orthonormal_samples(outcome: Outcome) -> None:
    assert outcome.status == "holds"
    drift = outcome.dataset["drift"].sel(case="orthonormal").mean("seed")
    # Of a row's three printed draws, which spread by 10 %, the mean.
    np.testing.assert_allclose(drift.sel(activation="tanh"), [1.8e-3, 1.8e-5], rtol=0.10)
    np.testing.assert_allclose(drift.sel(activation="elu"), [5.93e-3, 5.93e-5], rtol=0.10)
    np.testing.assert_allclose(drift.sel(activation="relu"), 0.68, rtol=0.10)


def test_independent_labels_and_more_samples_break_it(outcome: Outcome) -> None:
    drift = outcome.dataset["drift"].sel(case="random labels")
    assert float(drift.min()) > 0.05
    np.testing.assert_allclose(drift.sel(init_scale=0.001), drift.sel(init_scale=0.1), rtol=0.25)


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_features": 10, "width": 12, "samples_per_class": 2},
        {"num_features": 32, "width": 200, "samples_per_class": 8},
        {"num_features": 128, "num_classes": 2, "width": 128, "samples_per_class": 64},
    ],
)
def test_one_step_size_is_stable_at_every_size(sizes: dict[str, int]) -> None:
    """Features are orthonormal, and so is W₂, so that the curvature is that of φ alone: the rate need not follow d."""
    setting = replace(QUICK, activations=("gelu", "relu"), init_scales=(0.1,), num_steps=60, num_seeds=1, **sizes)
    dataset = EXPERIMENT.run(setting, QUIET)
    start = EXPERIMENT.run(replace(setting, num_steps=1), QUIET)
    assert np.isfinite(dataset["drift"]).all()
    assert bool((dataset["loss"] < start["loss"]).all())


@pytest.mark.slow
def test_the_small_setting_on_other_seeds() -> None:
    outcome = EXPERIMENT(replace(SmoothMlp(), seed=30), workplace=QUIET)
    assert outcome.status == "holds"
    assert len(outcome.verdicts) == 12


def test_the_stack_takes_the_steps_of_gradient_descent(outcome: Outcome) -> None:
    class TwoLayer(nn.Module):
        """W₂ tanh(W₁x) with W₂ fixed."""

        def __init__(self, first: torch.Tensor, second: torch.Tensor) -> None:
            super().__init__()
            self.first = nn.Parameter(first.clone())
            self.register_buffer("second", second)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return ACTIVATIONS["tanh"](inputs @ self.first.T) @ self.second.T

    inputs, targets = near_orthonormal(64, 64, seed=11), one_hot(balanced_labels(4, 16))
    unit, second = linear_weights([64, 72, 4], "orth", 1.0, seed=11)
    network = TwoLayer(0.1 * unit, second)
    loss = descend(network, inputs, targets, learning_rate=0.1, num_steps=150).loss
    drift = smooth_subspaces(0.1 * unit, second, inputs, targets, activation="tanh").drift(0.1 * unit, network.first)
    one = outcome.dataset.sel(case="orthonormal", activation="tanh", init_scale=0.1, seed=11)
    assert float(one["drift"]) == pytest.approx(drift, rel=1e-9)
    assert float(one["loss"]) == pytest.approx(loss, rel=1e-6)


def test_wrong_numbers_violate_the_claims(outcome: Outcome) -> None:
    wrong = outcome.dataset.copy(deep=True)
    wrong["drift"] = 1.5 * wrong["drift"] * wrong["init_scale"]
    assert {verdict.outcome for verdict in EXPERIMENT.claims(wrong)} == {"violated"}


def test_another_size_leaves_the_printed_numbers() -> None:
    setting = SmoothMlp(
        activations=("tanh",), init_scales=(0.1, 0.01), num_features=16, width=20, num_classes=2, samples_per_class=8,
        many_samples=0, num_seeds=1,
    )  # fmt: skip
    outcome = EXPERIMENT(setting, workplace=QUIET)
    assert outcome.status == "assumptions unmet"
    assert [verdict.outcome for verdict in outcome.verdicts] == ["assumptions unmet", "holds"]
    assert list(outcome.dataset["case"].values) == ["orthonormal"]


def test_the_figure_has_a_panel_for_each_case(outcome: Outcome) -> None:
    figure = outcome.figure()
    titles = ["orthonormal samples, N = d", "labels independent of X, N = 4d"]
    assert [axes.get_title() for axes in figure.axes] == titles
    plt.close(figure)


def test_random_state_and_threads_are_left_alone() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    EXPERIMENT(replace(QUICK, num_steps=1), workplace=QUIET)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads

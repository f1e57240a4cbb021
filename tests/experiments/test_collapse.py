"""Initial scale, kind and depth of small networks: the printed factors, on other seeds, and runs that miss them."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr

from neurocollapse.data.synthetic import balanced_labels, near_orthonormal, one_hot
from neurocollapse.experiments import Workplace
from neurocollapse.experiments.collapse.decay import DEPTH, INIT, SCALE, SCALES, TRADEOFF, Collapse
from neurocollapse.experiments.collapse.decay_claims import POPULATION, SLOPES, _among_draws
from neurocollapse.experiments.collapse.stack import descend_stack, features, stacked
from neurocollapse.models.linear import linear_weights
from neurocollapse.train import TrainingError
from neurocollapse.train.descent import descend

QUIET = Workplace(progress=False)
HELD_OUT = (
    *(-2.4166, -2.3916, -2.5754, -2.3447, -2.4724, -2.4661, -2.5123, -2.5181),
    *(-2.2556, -2.3596, -2.3385, -2.2786, -2.5044, -2.2751, -2.4807, -2.2801),
    *(-2.3935, -2.3741, -2.3858, -2.3404, -2.3572, -2.4881, -2.3218, -2.3398),
    *(-2.2777, -2.5238, -2.2548, -2.3273, -2.4945, -2.3498, -2.3109, -2.3610),
    *(-2.4088, -2.5127, -2.3784, -2.4709, -2.4016, -2.3831, -2.3593, -2.3075),
    *(-2.5008, -2.5641, -2.4416, -2.3077, -2.3181, -2.4500, -2.5338, -2.3994),
    *(-2.4217, -2.5813, -2.3929, -2.3345, -2.4983, -2.3201, -2.5397, -2.5808),
    *(-2.3953, -2.3198, -2.2862, -2.6038, -2.5079, -2.3941, -2.4995, -2.4414),
)
"""Slopes of ln D of ReLU networks, L = 6, seeds 1000 to 1063: `neurocollapse experiment collapse-depth --scale paper
--set activations=relu --set depths=6 --set num_seeds=64 --set seed=1000`; the population has seeds 100 to 131."""
LINEAR = Collapse(depths=(4, 6), activations=("linear",), num_steps=2000, num_seeds=2, seed=7)


def test_depth_sets_the_printed_factors() -> None:
    outcome = DEPTH(LINEAR, workplace=QUIET)
    assert outcome.status == "holds"
    assert len(outcome.verdicts) == 6
    factors = np.exp(outcome.dataset["slope"].mean("seed")).values.ravel()
    np.testing.assert_allclose(factors, [0.137, 0.167], rtol=0.03)
    np.testing.assert_allclose(outcome.dataset["compression"].isel(layer=0), 11.25, rtol=1e-9)
    assert np.isnan(outcome.dataset["compression"].sel(depth=4, layer=[4, 5])).all()


def test_a_smaller_scale_decays_faster_and_trains_slower() -> None:
    setting = replace(SCALES, seed=20, num_seeds=2)
    for experiment in (SCALE, TRADEOFF):
        assert experiment(setting, workplace=QUIET).status == "holds"
    linear = TRADEOFF(setting, workplace=QUIET).dataset.sel(activation="linear")
    slopes, steps = linear["slope"].mean("seed").values.ravel(), linear["steps"].max("seed").values.ravel()
    np.testing.assert_allclose(np.exp(slopes), [0.137, 0.034, 0.0086], rtol=0.03)
    assert (steps <= [100, 200, 500]).all()


@pytest.mark.slow
def test_kinds_of_initial_weights_as_printed() -> None:
    outcome = INIT(replace(INIT.small, seed=50), workplace=QUIET)
    assert outcome.status == "holds"
    slopes = outcome.dataset["slope"].mean("seed").squeeze()
    assert float(slopes.sel(init="norm")) == pytest.approx(-1.85, rel=0.03)
    assert float(slopes.sel(init="unif")) == pytest.approx(-1.88, rel=0.03)


@pytest.mark.slow
def test_relu_networks_decay_as_printed() -> None:
    outcome = DEPTH(replace(DEPTH.small, seed=5), workplace=QUIET)
    assert outcome.status == "holds"
    slopes = outcome.dataset["slope"].sel(activation="relu", depth=6).values.ravel()
    # Sixteen networks have a mean of −2.384 and a standard deviation of 0.082; the printed one is 1.5 of them away.
    assert slopes.mean() == pytest.approx(-2.384, abs=3 * 0.082 / 4**0.5)


@pytest.mark.parametrize(
    ("slopes", "mean", "printed"),
    [
        ([-2.30, -2.45, -2.38, -2.36], "holds", "holds"),
        ([-2.26], "holds", "holds"),
        ([-2.10, -2.12, -2.11, -2.11], "violated", "holds"),  # other networks than those of the population
        ([-3.2, -3.2, -3.2, -3.2], "violated", "violated"),  # so much so that the printed slope is none of them
    ],
)
def test_relu_slopes_are_held_against_the_population(slopes: list[float], mean: str, printed: str) -> None:
    claims = DEPTH.claims(_relu_networks(slopes))
    assert [verdict.outcome for verdict in claims if "mean slope as of" in verdict.claim] == [mean]
    assert [verdict.outcome for verdict in claims if "slope -2.26" in verdict.claim] == [printed]


def test_four_held_out_networks_nearly_always_hold() -> None:
    source, printed = np.random.default_rng(0), SLOPES["relu", 6, 0.5, "orth"]
    held = [
        all(
            verdict.outcome == "holds"
            for verdict in _among_draws("", 6, source.choice(HELD_OUT, 4, replace=False), printed, [])
        )
        for _ in range(200)
    ]
    assert np.mean(held) >= 0.95
    assert np.mean(np.array(HELD_OUT) > printed) == pytest.approx(2 / 64)  # the printed network is among the flattest


@pytest.mark.parametrize("depth", [6, 8])
def test_four_seeds_of_the_population_nearly_always_hold(depth: int) -> None:
    source = np.random.default_rng(depth)
    printed = SLOPES["relu", depth, 0.5, "orth"]
    held = [
        all(
            verdict.outcome == "holds"
            for verdict in _among_draws("", depth, source.choice(POPULATION[depth], 4, replace=False), printed, [])
        )
        for _ in range(200)
    ]
    assert np.mean(held) >= 0.95


def test_the_printed_slopes_have_their_place_in_the_population() -> None:
    """A network in ten falls less steeply than the printed one of six layers; that of eight layers is in the middle."""
    shares = {depth: np.mean(np.array(POPULATION[depth]) < SLOPES["relu", depth, 0.5, "orth"]) for depth in (6, 8)}
    assert shares == {6: 29 / 32, 8: 16 / 32}


def _relu_networks(slopes: list[float]) -> xr.Dataset:
    """A dataset of converged ReLU networks of six layers with these slopes."""
    setting = replace(LINEAR, depths=(6,), activations=("relu",), num_seeds=len(slopes), num_steps=1)
    dataset = DEPTH(setting, workplace=QUIET).dataset
    return dataset.assign(slope=dataset["slope"].copy(data=[[[[slopes]]]]), final_loss=0 * dataset["final_loss"])


def test_a_run_that_stops_early_makes_no_claim() -> None:
    outcome = DEPTH(replace(LINEAR, num_steps=300), workplace=QUIET)
    assert outcome.status == "assumptions unmet"
    reasons = {verdict.reason for verdict in outcome.verdicts if verdict.reason}
    assert any("2 of 2 networks were not trained" in reason for reason in reasons)


@pytest.mark.parametrize("tolerance", [1.0, 1e-3, 1e-6])
def test_a_tolerance_that_trains_no_network_makes_no_claim(tolerance: float) -> None:
    setting = replace(SCALES, num_seeds=1, linear_tolerance=tolerance, relu_tolerance=max(tolerance, 1e-5))
    for experiment, free in ((SCALE, 1), (TRADEOFF, 0)):
        outcomes = [verdict.outcome for verdict in experiment(setting, workplace=QUIET).verdicts]
        assert outcomes == ["holds"] * free + ["assumptions unmet"] * (len(outcomes) - free)


def test_the_printed_steps_are_those_of_four_layers_and_the_printed_tolerance() -> None:
    linear = replace(SCALES, num_seeds=1, activations=("linear",), init_scales=(0.5, 0.25))
    closer = TRADEOFF(replace(linear, linear_tolerance=1e-12), workplace=QUIET).verdicts
    assert [verdict.reason for verdict in closer] == ["printed for linear_tolerance = 1e-08"] * 2 + [""] * 2
    deeper = TRADEOFF(replace(linear, depths=(5,)), workplace=QUIET)
    assert not any("trained within" in verdict.claim for verdict in deeper.verdicts)
    assert deeper.status == "holds"


def test_what_does_not_change_with_scale_violates_the_claims() -> None:
    dataset = SCALE(replace(SCALES, num_seeds=1), workplace=QUIET).dataset
    still = dataset.assign(slope=0 * dataset["slope"] - 2, steps=0 * dataset["steps"] + 50)
    violated = [verdict.claim for verdict in TRADEOFF.claims(still) if verdict.outcome == "violated"]
    assert len(violated) == 4
    assert all("every step down in ε" in claim for claim in violated)


def test_other_data_leave_the_printed_numbers_but_not_the_formula() -> None:
    outcome = DEPTH(replace(LINEAR, depths=(4,), init_scales=(0.25,), samples_per_class=6), workplace=QUIET)
    printed = [verdict for verdict in outcome.verdicts if "printed for samples_per_class = 10" in verdict.reason]
    formula = [verdict for verdict in outcome.verdicts if "n^(1/L)" in verdict.claim]
    assert len(printed) == 1
    assert [verdict.outcome for verdict in formula] == ["holds"]


def test_wrong_numbers_violate_the_claims() -> None:
    outcome = DEPTH(LINEAR, workplace=QUIET)
    wrong = outcome.dataset.copy(deep=True)
    wrong["slope"] = wrong["slope"] * 0.95
    wrong["r_squared"][:] = 0.9
    violated = [verdict.claim for verdict in DEPTH.claims(wrong) if verdict.outcome == "violated"]
    assert len(violated) == 5
    reversed_scales = SCALE(replace(SCALES, activations=("linear",), num_seeds=1), workplace=QUIET).dataset
    reversed_scales = reversed_scales.assign(
        slope=-reversed_scales["slope"] - 20, steps=1000 - reversed_scales["steps"]
    )
    assert [verdict.outcome for verdict in TRADEOFF.claims(reversed_scales)] == ["violated"] * 5


def test_finished_parts_are_used_again(tmp_path) -> None:
    small = replace(LINEAR, depths=(4,), num_seeds=1)
    first = DEPTH(small, workplace=Workplace(folder=tmp_path, progress=False))
    assert (tmp_path / "linear-4.nc").exists()
    again = DEPTH(small, workplace=Workplace(folder=tmp_path, progress=False))
    np.testing.assert_array_equal(first.dataset["compression"], again.dataset["compression"])


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="`activations` must be 'linear' or 'relu', got 'tanh'"):
        DEPTH(replace(LINEAR, activations=("tanh",)), workplace=QUIET)


def test_random_state_and_threads_are_left_alone() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    DEPTH(replace(LINEAR, depths=(4,), num_steps=5), workplace=QUIET)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("experiment", "panels"), [(SCALE, 2), (TRADEOFF, 2)], ids=["decay", "tradeoff"])
def test_the_figure_has_a_line_for_every_scale(experiment, panels: int) -> None:
    figure = experiment(replace(SCALES, num_seeds=1), workplace=QUIET).figure()
    assert len(figure.axes) == panels
    for axes in figure.axes:
        names = [text.get_text() for text in axes.get_legend().get_texts()]
        assert names[:3] == ["ε = 0.5", "ε = 0.25", "ε = 0.125"]
    plt.close(figure)


@pytest.mark.parametrize("relu", [False, True])
def test_a_stack_takes_the_steps_of_single_networks(relu: bool) -> None:
    seeds = (0, 1, 2)
    starts = [linear_weights([6, 8, 8, 3], "orth", 0.7, seed=seed) for seed in seeds]
    inputs = torch.stack([near_orthonormal(6, 6, seed=seed).T for seed in seeds])
    targets = one_hot(balanced_labels(3, 2)).T.contiguous()
    options = {"learning_rate": 2.0, "num_steps": 40, "tolerance": 0.02}
    stack = descend_stack(stacked(starts), inputs, targets, relu=relu, **options)
    for index, start in enumerate(starts):
        network = torch.nn.Sequential()
        for layer, weight in enumerate(start):
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
            linear.weight = torch.nn.Parameter(weight.clone())
            network.append(linear)
            if relu and layer < 2:
                network.append(torch.nn.ReLU())
        single = descend(network, inputs[index].T, targets.T, reduction="half_mean", **options)
        assert stack.steps[index] == single.step
        assert bool(stack.converged[index]) == single.converged
        assert float(stack.final_loss[index]) == pytest.approx(single.loss, rel=1e-10)
        for layer, weight in enumerate(single.weights):
            torch.testing.assert_close(stack.weights[layer][index], weight, rtol=1e-9, atol=1e-12)
        kept = stack.losses[: single.step + 1, index]
        torch.testing.assert_close(kept, single.losses, rtol=1e-9, atol=0)
        outputs = features(stack.weights, inputs, relu=relu)[-1][index]
        torch.testing.assert_close(outputs, network(inputs[index].T).T.detach(), rtol=1e-9, atol=1e-12)


def test_networks_of_a_stack_stop_on_their_own() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    start = [torch.stack([0.9 * eye, 0.1 * eye])]
    stack = descend_stack(start, eye.expand(2, 2, 2), eye, learning_rate=1.0, num_steps=30, tolerance=1e-4, every=5)
    assert stack.steps[0] < stack.steps[1]
    assert torch.isnan(stack.losses[-1, 0])
    assert stack.converged.all()
    assert start[0][0, 0, 0] == 0.9


def test_divergence_is_an_error() -> None:
    eye = torch.eye(2, dtype=torch.float64)[None]
    with pytest.raises(TrainingError, match="use a smaller learning rate"):
        descend_stack([eye, 2 * eye], eye, 3 * eye[0], learning_rate=1e9, num_steps=50, tolerance=0.0)

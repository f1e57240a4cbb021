"""The law of parsimony as experiments: what must come out, and that the claims can fail."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr

import neurocollapse as nc
from neurocollapse.experiments import Outcome, experiment
from neurocollapse.experiments.parsimony.svd_evolution import SvdOptimizers, evolution_claims, optimizer_claims
from neurocollapse.experiments.parsimony.svd_nonwhitened import claims as nonwhitened_claims
from neurocollapse.train import TrainingError


@pytest.fixture(scope="module")
def evolution() -> Outcome:
    """Another seed than the printed figure's; random state and threads stay as they are."""
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    outcome = experiment("svd-evolution", seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    return outcome


@pytest.fixture(scope="module")
def nonwhitened() -> Outcome:
    """Another seed."""
    return experiment("svd-nonwhitened", seed=4)


@pytest.fixture(scope="module")
def optimizers() -> Outcome:
    """All four."""
    return experiment("svd-optimizers", seed=4)


def test_gradient_descent_keeps_the_middle_block(evolution: Outcome) -> None:
    assert evolution.status == "holds"
    dataset = evolution.dataset
    assert float(dataset["middle_angle"].max()) < 1e-7
    middle = dataset["singular_values"].isel(component=slice(3, 27), step=-1).values
    np.testing.assert_allclose(middle, 0.951, atol=5e-4)
    rho = 1.0
    for _ in range(50):
        rho *= 1 - rho**4 / 900
    np.testing.assert_allclose(middle, rho, rtol=1e-12)


def test_another_setting_is_held_against_the_recursion_alone() -> None:
    outcome = experiment("svd-evolution", seed=2, width=14, rank=2, depth=4, init_scale=0.5, num_steps=20)
    assert outcome.status == "holds"
    assert len(outcome.verdicts) == 2


def test_no_middle_block_leaves_the_assumptions() -> None:
    assert experiment("svd-evolution", width=6, num_steps=3).status == "assumptions unmet"


@pytest.mark.parametrize("num_steps", [0, 1])
def test_a_run_without_a_step_after_the_reference_says_nothing_of_turns(num_steps: int) -> None:
    assert experiment("svd-evolution", num_steps=num_steps).verdicts[0].outcome == "assumptions unmet"


@pytest.mark.parametrize("name", ["middle_angle", "singular_values"])
def test_a_single_undefined_number_leaves_the_assumptions(evolution: Outcome, name: str) -> None:
    broken = evolution.to_dataset()
    broken[name][7, 1, 0] = np.nan
    broken[name][7, 1, 5 % broken[name].shape[2]] = np.nan
    assert "assumptions unmet" in {verdict.outcome for verdict in evolution_claims(broken)}


@pytest.mark.parametrize("name", ["middle_angle", "singular_values", "rho", "top_angle"])
def test_claims_about_gradient_descent_can_fail(evolution: Outcome, name: str) -> None:
    changed = evolution.to_dataset()
    changed[name] = 3 * changed[name] + 1e-6
    assert "violated" in {verdict.outcome for verdict in evolution_claims(changed)}


def test_unwhitened_data_leave_the_assumptions_and_bend_the_block(nonwhitened: Outcome) -> None:
    assert nonwhitened.status == "assumptions unmet"
    theorem = [verdict.outcome for verdict in nonwhitened.verdicts if "Theorem" in verdict.reference]
    others = [verdict.outcome for verdict in nonwhitened.verdicts if "Theorem" not in verdict.reference]
    assert (theorem, others) == (["assumptions unmet"] * 2, ["holds"] * 4)
    values = nonwhitened.dataset["singular_values"].isel(layer=0, step=-1, component=slice(3, 27)).values
    assert 1e-8 < abs(values - 1).max() < 1e-4
    assert float(nonwhitened.dataset["middle_angle"].isel(layer=0).max()) > 1e-3


def test_the_legends_of_both_runs_lie_inside_the_figure_and_under_no_title(nonwhitened: Outcome) -> None:
    figure = nonwhitened.figure()
    figure.draw_without_rendering()
    for panel in figure.axes:
        legend = panel.get_legend().get_window_extent()
        assert legend.y1 <= figure.bbox.y1
        assert not panel.get_title() or not legend.overlaps(panel.title.get_window_extent())
    assert figure.axes[1].get_xlabel() == "step, inputs divided by 15"
    plt.close(figure)


def test_whitening_the_same_data_restores_the_theorem() -> None:
    outcome = experiment("svd-nonwhitened", seed=4, white=True, num_long_steps=200)
    theorem = [verdict for verdict in outcome.verdicts if "Theorem" in verdict.reference]
    assert [verdict.outcome for verdict in theorem] == ["holds"] * 2
    assert max(verdict.measured for verdict in theorem) < 1e-12


@pytest.mark.parametrize("name", ["singular_values", "long_middle_angle"])
def test_an_undefined_number_of_unwhitened_data_leaves_the_assumptions(nonwhitened: Outcome, name: str) -> None:
    broken = nonwhitened.to_dataset()
    broken[name][7, 0] = np.nan
    assert [verdict.outcome for verdict in nonwhitened_claims(broken)].count("assumptions unmet") == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 1}, "`num_steps` must be at least 2"),
        ({"num_long_steps": 1}, "`num_long_steps` must be at least 2"),
        ({"num_outputs": 15}, "`num_outputs` must be below half of `width` to leave a middle block, got 15 of 30"),
    ],
)
def test_runs_without_a_turn_or_a_middle_block_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment("svd-nonwhitened", **changes)


def test_the_shortest_runs_turn_the_block_as_nobody_has_printed() -> None:
    outcome = experiment("svd-nonwhitened", num_steps=2, num_long_steps=2)
    assert [verdict.outcome for verdict in outcome.verdicts[2::3]] == ["assumptions unmet"] * 2
    assert all(verdict.measured > 0 for verdict in outcome.verdicts[2::3])
    assert outcome.verdicts[2].reason == "the turn is known for num_steps = 50"


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_block_that_turns_too_little_or_too_far_violates_the_claim(nonwhitened: Outcome, factor: float) -> None:
    changed = nonwhitened.to_dataset()
    changed["middle_angle"] = changed["middle_angle"] * factor
    turned = [verdict.outcome for verdict in nonwhitened_claims(changed) if "turns" in verdict.claim]
    assert turned == ["violated", "holds"]


@pytest.mark.parametrize("name", ["singular_values", "middle_angle", "long_middle_angle"])
def test_claims_about_unwhitened_data_can_fail(nonwhitened: Outcome, name: str) -> None:
    changed = nonwhitened.to_dataset()
    changed[name] = changed[name] * (1.1 if name == "singular_values" else 1e-12)
    assert "violated" in {verdict.outcome for verdict in nonwhitened_claims(changed)}


def test_momentum_oscillates_and_keeps_the_block(optimizers: Outcome) -> None:
    assert optimizers.status == "holds"
    turned = optimizers.dataset["middle_angle"].max(("step", "layer", "side"))
    assert float(turned.sel(optimizer="momentum")) < 1e-7
    assert float(turned.sel(optimizer="Adam")) > 1
    assert float(turned.sel(optimizer="RMSprop")) > 1
    loss = optimizers.dataset["loss"]
    assert (loss.isel(step=-1) < loss.isel(step=0)).all()


def test_claims_about_optimizers_can_fail(optimizers: Outcome) -> None:
    names = optimizers.dataset["optimizer"].values
    swapped = optimizers.to_dataset().assign_coords(optimizer=np.roll(names, 1))
    assert {verdict.outcome for verdict in optimizer_claims(swapped)} == {"holds", "violated"}


def test_an_undefined_curve_of_an_optimizer_leaves_the_assumptions(optimizers: Outcome) -> None:
    broken = optimizers.to_dataset()
    broken["singular_values"].loc[{"optimizer": "momentum"}][9] = np.nan
    broken["middle_angle"].loc[{"optimizer": "Adam"}][9] = np.nan
    found = [verdict.outcome for verdict in optimizer_claims(broken)]
    assert found == ["holds"] * 3 + ["assumptions unmet"] * 2 + ["holds"]


@pytest.mark.parametrize("num_steps", [0, 1, 20])
def test_momentum_need_not_oscillate_in_fewer_steps_than_shown(num_steps: int) -> None:
    outcome = experiment("svd-optimizers", num_steps=num_steps)
    assert outcome.status == "assumptions unmet"
    assert outcome.verdicts[3].reason == "shown over 50 steps"


def test_a_diverging_optimizer_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"gradient descent: the loss is (inf|nan) at step \d; use a smaller"):
        experiment("svd-optimizers", learning_rate=1e6)


@pytest.mark.parametrize("momentum", [float("nan"), -0.1, 1.0])
def test_a_momentum_that_is_none_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match="`momentum` must be at least 0 and below 1"):
        SvdOptimizers(momentum=momentum)


def test_datasets_survive_a_file_and_are_drawn(
    evolution: Outcome, nonwhitened: Outcome, optimizers: Outcome, tmp_path
) -> None:
    for outcome, panels in ((evolution, 2), (nonwhitened, 4), (optimizers, 2)):
        path = nc.save(outcome.to_dataset(), tmp_path / f"{outcome.experiment.name}.nc")
        found = nc.open(path)
        assert isinstance(found, xr.Dataset)
        figure = outcome.experiment.draw(found)
        assert len(figure.axes) == panels
        plt.close(figure)
    for outcome in (evolution, nonwhitened, optimizers):
        for name, values in outcome.dataset.data_vars.items():
            assert {"long_name", "units"} <= set(values.attrs), name

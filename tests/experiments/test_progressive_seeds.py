"""Progressive compression and separation on noisy orthonormal data: the printed numbers, and what must violate them."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from neurocollapse.experiments import ProgressiveTheorem, Workplace, progressive_theorem, train_linear_network
from neurocollapse.experiments.collapse.progressive_theorem import EXPERIMENT, MANY
from neurocollapse.experiments.experiment import Outcome

QUIET = Workplace(progress=False)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """Another 48 seeds than the default ones."""
    return EXPERIMENT(ProgressiveTheorem(num_seeds=48, seed=300), workplace=QUIET)


def test_the_printed_numbers_are_met(outcome: Outcome) -> None:
    assert outcome.status == "holds"
    mean = outcome.dataset.mean("seed")
    printed = np.array([11.999, 3.482, 0.984, 0.276, 0.0775, 0.0217])
    np.testing.assert_allclose(mean["compression_as_printed"], printed, rtol=0.03)
    np.testing.assert_allclose(mean["decay_ratio"][1:], printed[1:] / printed[:-1], rtol=0.02)
    np.testing.assert_allclose(mean["discrimination"][1:], [0.9681, 0.9716, 0.9761, 0.9809, 0.9859], rtol=0.02)


def test_counted_properly_the_data_start_at_their_own_value(outcome: Outcome) -> None:
    mean = float(outcome.dataset["compression"].isel(layer=0).mean())
    assert mean == pytest.approx(13.5, rel=0.02)  # K(n−1)/(K−1); the seeds scatter by 4 %
    quotient = outcome.dataset["compression_as_printed"] / outcome.dataset["compression"]
    np.testing.assert_allclose(quotient.mean("seed"), 0.9, rtol=0.01)


def test_as_printed_is_a_mean_summed_up_in_the_first_samples_memory() -> None:
    setting = ProgressiveTheorem(num_seeds=1, seed=5)
    _, inputs, labels = train_linear_network(setting, seed=5)
    samples = inputs.numpy().copy()
    scatter, means = 0.0, []
    for label in range(3):
        members = [samples[index] for index in np.flatnonzero(labels.numpy() == label)]
        mean = members[0]  # not a copy: what is added to the mean is added to the first sample
        for member in members[1:]:
            mean += member
        mean /= len(members)
        scatter += sum(((member - mean) ** 2).sum() for member in members)
        means.append(mean)
    between = ((np.array(means) - np.mean(means, axis=0)) ** 2).sum() / 3
    dataset = EXPERIMENT(setting, workplace=QUIET).dataset
    assert float(dataset["compression_as_printed"][0, 0]) == pytest.approx(scatter / 30 / between, rel=1e-9)


def test_the_least_norm_is_missed_at_the_printed_output_scale(outcome: Outcome) -> None:
    assert float(outcome.dataset["minimum_norm"].min()) > 0.10
    verification = progressive_theorem(seed=300)
    assert {verification.theorems[name].status for name in ("prior", "printed")} == {"assumptions unmet"}
    assert verification.status == "holds"  # what needs no least norm proves it


def test_another_setting_leaves_the_printed_numbers_but_not_the_rate() -> None:
    outcome = EXPERIMENT(ProgressiveTheorem(output_scale=10.0, num_seeds=4, seed=1), workplace=QUIET)
    assert outcome.status == "assumptions unmet"
    assert all(verdict.reason.startswith("printed for output_scale = 100.0") for verdict in outcome.verdicts[:-2])
    assert outcome.verdicts[-2].outcome == outcome.verdicts[-1].outcome == "holds"


@pytest.mark.parametrize("changes", [{"num_steps": 5}, {"tolerance": 1e-2}, {"depth": 10}])
def test_networks_that_are_not_trained_meet_no_assumption(changes: dict[str, float]) -> None:
    outcome = EXPERIMENT(replace(ProgressiveTheorem(num_seeds=2), **changes), workplace=QUIET)
    assert {verdict.outcome for verdict in outcome.verdicts[:-1]} == {"assumptions unmet"}
    assert all("2 of 2 networks were not trained to a loss of 10⁻¹¹" in one.reason for one in outcome.verdicts[:-1])


def test_an_untrained_network_does_not_pass_for_a_trained_one() -> None:
    untrained = EXPERIMENT(ProgressiveTheorem(num_seeds=MANY, num_steps=0), workplace=QUIET).dataset
    verdicts = EXPERIMENT.claims(untrained.assign(loss=0 * untrained["loss"]))
    holding = [verdict.claim.split(" as ")[0].split(" = ")[0] for verdict in verdicts if verdict.outcome == "holds"]
    assert holding == ["D_0", "mean 1 − S_1", "mean 1 − S_2"]  # the data, and what training changes least
    equal = untrained.assign(discrimination=0 * untrained["discrimination"] + 0.97)  # as they are but for rounding
    assert {verdict.outcome for verdict in EXPERIMENT.claims(equal) if "straight line" in verdict.claim} == {
        "assumptions unmet"
    }


def test_few_layers_or_networks_make_no_line_and_a_large_rate_no_leading_order() -> None:
    shallow = EXPERIMENT(ProgressiveTheorem(num_seeds=1, depth=3), workplace=QUIET)
    straight, rate = shallow.verdicts[-3:-1]
    assert straight.outcome == rate.outcome == "assumptions unmet"
    assert "a line through fewer than three points is always straight" in straight.reason
    assert "the mean of fewer than 16 networks may bend by chance" in straight.reason
    assert rate.reason == "the rate 0.9 is not small"


def test_wrong_numbers_violate_the_claims(outcome: Outcome) -> None:
    wrong = outcome.dataset.copy(deep=True)
    wrong["compression_as_printed"] *= 1.1
    wrong["compression"] = wrong["compression"] ** 2
    wrong["discrimination"] = wrong["discrimination"] - 0.1 * (wrong["layer"] - 3) ** 2
    wrong["decay_ratio"][0, 2] = 0.5
    assert {verdict.outcome for verdict in EXPERIMENT.claims(wrong) if "S_3" not in verdict.claim} == {"violated"}


def test_a_printed_network_that_is_none_of_these_violates_its_claim(outcome: Outcome) -> None:
    closer = outcome.dataset.copy(deep=True)
    closer["discrimination"] = 1 - 0.3 * (1 - closer["discrimination"])
    found = {verdict.claim[:7]: verdict.outcome for verdict in EXPERIMENT.claims(closer) if "S_5" in verdict.claim}
    assert found == {"mean 1 ": "violated", "1 − S_5": "violated"}
    few = EXPERIMENT.claims(closer.isel(seed=slice(8)))
    assert {verdict.outcome for verdict in few if "is one network's" in verdict.claim} == {"assumptions unmet"}


def test_a_single_verification_takes_the_settings_seed() -> None:
    setting = ProgressiveTheorem(num_steps=3, seed=4)
    runs = [progressive_theorem(setting), progressive_theorem(replace(setting, seed=0), seed=4)]
    runs.append(progressive_theorem(setting, seed=0))
    first, second, other = (run.to_dataset()["compression"].values for run in runs)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_the_figure_shows_both_quantities(outcome: Outcome) -> None:
    figure = outcome.figure()
    assert ["compression" in figure.axes[0].get_ylabel(), "separation" in figure.axes[1].get_ylabel()] == [True, True]
    plt.close(figure)


def test_random_state_and_threads_are_left_alone() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    EXPERIMENT(ProgressiveTheorem(num_seeds=1, num_steps=2), workplace=QUIET)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads

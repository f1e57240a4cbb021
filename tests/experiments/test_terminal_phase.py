"""The terminal phase of training: collapse after the last training error, and claims that fail on another course."""

import dataclasses
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest

import neurocollapse as nc
from neurocollapse.experiments import EXPERIMENTS, Workplace
from neurocollapse.experiments.classifiers.terminal_phase import (
    EXPERIMENT,
    FALLING,
    TerminalPhase,
    claims,
    terminal_epochs,
)
from neurocollapse.experiments.experiment import Outcome
from neurocollapse.plots.experiments.terminal_phase import PANELS
from tests.experiments.judged import outcomes_of

END = [20, 22, 24]
QUIET = Workplace(progress=False)
TINY = TerminalPhase(width=64, num_hidden=2, epochs=24, every=2, learning_rate=4e-3)


outcomes = partial(outcomes_of, claims)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return EXPERIMENT(TINY, workplace=QUIET)


def test_the_claims_hold_on_a_trained_network(outcome: Outcome) -> None:
    assert outcome.status == "holds", outcome
    assert len(outcome.verdicts) == len(FALLING) + 4
    assert outcome.dataset["nc1"].dims == ("split", "epoch", "layer")
    assert outcome.dataset["epoch"].values.tolist() == list(range(0, 25, 2))
    assert len(terminal_epochs(outcome.dataset)) >= 6
    assert outcome.dataset["margin_spread"].notnull().all()


def test_it_is_listed() -> None:
    assert EXPERIMENTS["terminal-phase"] is EXPERIMENT


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_the_claims_hold_in_the_small_setting(seed: int) -> None:
    outcome = EXPERIMENT(dataclasses.replace(EXPERIMENT.small, seed=seed), workplace=QUIET)
    assert outcome.status == "holds", outcome


@pytest.mark.parametrize(
    ("name", "split", "factor", "words"),
    [
        ("nc1", "train", 30.0, "NC1 falls"),
        ("nc2_norms", "train", 30.0, "NC2 of the norms falls"),
        ("nc2_angles", "train", 30.0, "NC2 of the angles falls"),
        ("nc3", "train", 30.0, "NC3 falls"),
        ("nc4", "train", 0.9, "NC4"),
        ("margin_efficiency", "train", 0.1, "margin efficiency rises"),
        ("nc1", "test", 0.1, "NC1 of test samples"),
    ],
)
def test_each_claim_fails_on_another_course(outcome: Outcome, name: str, split: str, factor: float, words: str) -> None:
    changed = outcome.dataset.copy(deep=True)
    changed[name].loc[{"split": split, "epoch": END}] *= factor
    assert outcomes(outcome.dataset, words) == {"holds"}
    assert outcomes(changed, words) == {"violated"}


def test_more_errors_of_the_nearest_class_mean_are_noticed(outcome: Outcome) -> None:
    changed = outcome.dataset.copy(deep=True)
    changed["ncm_error"].loc[{"split": "train", "epoch": END}] = 0.2
    assert outcomes(changed, "errs no more often") == {"violated"}


def test_standing_still_is_no_fall(outcome: Outcome) -> None:
    start = terminal_epochs(outcome.dataset)[:3]
    changed = outcome.dataset.copy(deep=True)
    for name in FALLING:
        changed[name].loc[{"epoch": END}] = changed[name].sel(epoch=start).values
    assert outcomes(changed, "falls after") == {"violated"}


def test_a_network_that_still_errs_leaves_the_claims_open(outcome: Outcome) -> None:
    changed = outcome.dataset.copy(deep=True)
    changed["error"].loc[{"split": "train"}] = 0.01
    assert {verdict.outcome for verdict in claims(changed)} == {"assumptions unmet"}
    assert EXPERIMENT(dataclasses.replace(TINY, epochs=0), workplace=QUIET).status == "assumptions unmet"


def test_the_numbers_are_those_of_the_network_on_each_split() -> None:
    setting = dataclasses.replace(TINY, network="CNN", channels=(4,), epochs=1, every=1)
    dataset = EXPERIMENT.run(setting, QUIET)
    assert dataset["epoch"].values.tolist() == [0, 1]
    assert dataset["nc1"].notnull().all()
    # NC4 counts agreement, so that the network's error is at most that of the mean plus the disagreement
    bound = dataset["ncm_error"].isel(layer=0) + 1 - dataset["nc4"].isel(layer=0)
    assert bool((dataset["error"] <= bound + 1e-12).all())
    assert bool((dataset["error"] > 0).all())


def test_figure_and_claims_come_from_the_file_alone(outcome: Outcome, tmp_path) -> None:
    nc.save(outcome.dataset, tmp_path / "phase.nc")
    again = EXPERIMENT.restored(nc.open(tmp_path / "phase.nc"))
    assert again.verdicts == outcome.verdicts
    figure = again.figure()
    assert len(figure.axes) == len(PANELS)
    for axes, name in zip(figure.axes, PANELS, strict=True):
        assert axes.get_xlabel() == "epoch"
        drawn = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 13]
        expected = outcome.dataset[name].values.reshape(2, -1)
        known = [np.where(values == 0, np.nan, values) if axes.get_yscale() == "log" else values for values in expected]
        for values, curve in zip(known, drawn, strict=False):
            np.testing.assert_array_equal(np.ma.filled(np.ma.masked_invalid(curve), np.nan), values)
    plt.close(figure)


def test_settings_that_cannot_run_are_refused() -> None:
    with pytest.raises(ValueError, match="`network` must be"):
        TerminalPhase(network="ViT")
    with pytest.raises(ValueError, match="`every` must be at least 1, got 0"):
        TerminalPhase(every=0)

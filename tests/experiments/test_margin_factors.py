"""The margin of trained heads over training: the theorem at every epoch, and claims about its factors that can fail."""

import dataclasses
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr

import neurocollapse as nc
from neurocollapse.experiments import EXPERIMENTS, Workplace
from neurocollapse.experiments.classifiers.margin_factors import EXPERIMENT, FACTORS, MarginFactors, _counted, claims
from neurocollapse.experiments.experiment import Outcome
from tests.experiments.judged import outcomes_of

QUIET = Workplace(progress=False)
TINY = MarginFactors(networks=("MLP",), epochs=10, learning_rate=6e-3, seed=1)


outcomes = partial(outcomes_of, claims)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return EXPERIMENT(TINY, workplace=QUIET)


def test_the_claims_hold_on_trained_networks(outcome: Outcome) -> None:
    assert outcome.status == "holds", outcome
    assert outcome.dataset["network"].values.tolist() == ["MLP, balanced", "MLP, unbalanced"]
    assert outcome.dataset["epoch"].values.tolist() == list(range(11))
    assert len(outcome.verdicts) == 2 * 3 + 2 * 2 + 1 + 1


def test_it_is_listed() -> None:
    assert EXPERIMENTS["margin-efficiency"] is EXPERIMENT


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
def test_the_claims_hold_in_the_small_setting_with_other_seeds(seed: int) -> None:
    outcome = EXPERIMENT(dataclasses.replace(EXPERIMENT.small, seed=seed), workplace=QUIET)
    assert outcome.status == "holds", outcome


def test_unbalanced_classes_keep_the_share_that_the_setting_says() -> None:
    samples = QUIET.samples("digits")
    counts = torch.bincount(_counted(samples, TINY, "unbalanced").labels)
    full = torch.bincount(samples.labels)
    np.testing.assert_allclose(counts / full, [10 ** (-k / 9) for k in range(10)], atol=0.5 / full.min())


# Every claim fails on a dataset on which it is wrong.


def with_end(dataset: xr.Dataset, name: str, value: float) -> xr.Dataset:
    """The dataset with another value in the last epoch."""
    changed = dataset.copy(deep=True)
    changed[name][:, -1] = value
    return changed


@pytest.mark.parametrize(
    ("name", "factor", "words"),
    [
        ("margin_mean", 1 + 1e-9, "spread × duality"),
        ("margin_duality", 1 - 1e-9, "spread × duality"),
        ("margin_of_samples", 2.0, "t_CE ≤ t_f"),
        ("margin_of_loss", 2.0, "t_CE ≤ t_f"),
        ("margin_best", 0.5, "t_CE ≤ t_f"),
        ("logit_margin_mean", 1.01, "logits have these margins"),
        ("logit_margin_of_loss", 1.01, "logits have these margins"),
    ],
)
def test_numbers_that_break_the_theorem_are_noticed(outcome: Outcome, name: str, factor: float, words: str) -> None:
    last = outcome.dataset[name][:, -1]
    assert outcomes(with_end(outcome.dataset, name, 0.0).assign({name: outcome.dataset[name]}), words) == {"holds"}
    changed = outcome.dataset.copy(deep=True)
    changed[name][:, -1] = factor * last
    assert outcomes(changed, words) == {"violated"}


def test_another_course_violates_the_claims_about_it(outcome: Outcome) -> None:
    dataset = outcome.dataset
    aligned = dataset.copy(deep=True)
    aligned["margin_duality"][:, 1] = 1.0
    assert outcomes(aligned, "direction costs most") == {"violated"}
    falling = with_end(dataset, "margin_efficiency", 0.3)
    assert outcomes(falling, "efficiency rises") == {"violated"}
    steady = dataset.assign(margin_samples=dataset["margin_samples"].isel(epoch=-1).broadcast_like(dataset["accuracy"]))
    assert outcomes(steady, "unequal samples cost most") == {"violated"}
    swapped = dataset.assign_coords(network=dataset["network"].values[::-1])
    assert outcomes(swapped, "unbalanced classes cost duality") == {"violated"}


def test_networks_that_do_not_fit_leave_the_claims_open() -> None:
    outcome = EXPERIMENT(dataclasses.replace(TINY, epochs=0), workplace=QUIET)
    assert outcome.status == "assumptions unmet"
    assert {verdict.outcome for verdict in outcome.verdicts if "every epoch" in verdict.claim} == {"holds"}
    assert any("training accuracy" in verdict.reason for verdict in outcome.verdicts)


def test_a_number_that_is_undefined_is_no_success(outcome: Outcome) -> None:
    assert outcomes(with_end(outcome.dataset, "margin_best", np.nan), "spread × duality") == {"assumptions unmet"}


def test_figure_and_claims_come_from_the_file_alone(outcome: Outcome, tmp_path) -> None:
    nc.save(outcome.dataset, tmp_path / "margins.nc")
    again = EXPERIMENT.restored(nc.open(tmp_path / "margins.nc"))
    assert again.verdicts == outcome.verdicts
    figure = again.figure()
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch of MLP, balanced", "epoch of MLP, unbalanced"]
    for axes, network in zip(figure.axes, outcome.dataset["network"].values, strict=True):
        drawn = [line.get_ydata() for line in axes.lines]
        for line, factor in zip(drawn, FACTORS, strict=True):
            np.testing.assert_array_equal(line, outcome.dataset[factor].sel(network=network))
    plt.close(figure)


def test_the_convolutional_network_is_measured_as_often_as_asked() -> None:
    setting = dataclasses.replace(TINY, networks=("CNN",), counts=("balanced",), epochs=3, every=2, channels=(4,))
    dataset = EXPERIMENT.run(setting, QUIET)
    assert dataset["epoch"].values.tolist() == [0, 2, 3]
    assert dataset["margin_best"].notnull().all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("networks", ("MLP", "ViT"), "`networks` must be some of MLP, CNN, got ViT"),
        ("counts", (), "`counts` must be some of balanced, unbalanced, got none"),
        ("imbalance", 0.5, "`imbalance` must be at least 1, got 0.5"),
    ],
)
def test_settings_that_cannot_run_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MarginFactors(**{name: value})

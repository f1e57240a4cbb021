"""Depth in linear and ReLU networks: what the small setting finds, and claims that fail where they should."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import neurocollapse as nc
from neurocollapse import data
from neurocollapse.experiments import Outcome, Workplace
from neurocollapse.experiments.classifiers import depth_role
from neurocollapse.experiments.classifiers.depth_role import EXPERIMENT, DepthRole, claims
from neurocollapse.train import fit

QUIET = Workplace(progress=False)
SETTING = DepthRole(depths=(2, 6), epochs=80, num_seeds=2, seed=10)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """One run for all tests; it must leave random state and threads alone."""
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    found = EXPERIMENT(SETTING, workplace=QUIET)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    return found


def outcomes(dataset: xr.Dataset) -> list[str]:
    return [verdict.outcome for verdict in claims(dataset)]


def changed(dataset: xr.Dataset, name: str, factor: float, **where: object) -> xr.Dataset:
    """A copy with some values multiplied."""
    copy = dataset.copy(deep=True)
    copy[name].loc[where] *= factor
    return copy


def test_every_claim_holds(outcome: Outcome) -> None:
    assert outcome.status == "holds"
    assert len(outcome.verdicts) == 6


def test_relu_compresses_further_than_linear(outcome: Outcome) -> None:
    last = outcome.dataset["compression"].sel(depth=6, layer=5, split="train").mean("seed")
    assert float(last.sel(network="ReLU")) < 0.2  # 0.09 and 0.11
    assert float(last.sel(network="linear")) > 0.3  # 0.40 and 0.42


def test_layer_0_is_the_drawn_samples(outcome: Outcome) -> None:
    digits = data.open("digits")
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(SETTING.seed))
    within, means = 0.0, []
    for label in range(10):
        own = [digits[i][0].flatten().double() for i in order.tolist() if digits[i][1] == label][:20]
        means.append(sum(own) / 20)
        within += sum(float((sample - means[-1]).square().sum()) for sample in own) / 200
    centre = sum(means) / 10
    between = sum(float((mean - centre).square().sum()) for mean in means) / 10
    measured = outcome.dataset["compression"].sel(layer=0, split="train", seed=SETTING.seed)
    np.testing.assert_allclose(measured, within / between, rtol=1e-6)  # the inputs are float32


def test_layers_that_a_network_lacks_are_missing(outcome: Outcome) -> None:
    missing = outcome.dataset["compression"].isnull().all(["network", "seed", "split"])
    assert missing.sel(depth=2).values.tolist() == [False, False, True, True, True, True]
    assert not missing.sel(depth=6).any()


def test_it_can_be_saved_and_drawn_from_the_file(outcome: Outcome, tmp_path: Path) -> None:
    loaded = nc.open(nc.save(outcome.to_dataset(), tmp_path / "depth.nc"))
    assert isinstance(loaded, xr.Dataset)
    assert outcomes(loaded) == ["holds"] * 6
    figure = EXPERIMENT.draw(loaded)
    assert len(figure.axes) == 4
    plt.close(figure)


@pytest.mark.parametrize(("kind", "first"), [("linear", 0), ("ReLU", 2)])
def test_compression_that_grows_with_depth_is_a_violation(outcome: Outcome, kind: str, first: int) -> None:
    worse = changed(outcome.dataset, "compression", 30.0, network=kind, depth=6, layer=5, seed=SETTING.seed + 1)
    assert outcomes(worse)[first : first + 2] == ["violated"] * 2
    assert outcomes(worse).count("violated") == 2


@pytest.mark.parametrize(("kind", "factor", "claim"), [("ReLU", 0.9, 4), ("linear", 0.95, 5), ("linear", 1.05, 5)])
def test_test_accuracy_that_changes_the_wrong_way_is_a_violation(
    outcome: Outcome, kind: str, factor: float, claim: int
) -> None:
    worse = changed(outcome.dataset, "accuracy", factor, network=kind, depth=6, split="test")
    assert [index for index, found in enumerate(outcomes(worse)) if found == "violated"] == [claim]


def test_networks_that_have_not_learnt_meet_no_assumption(outcome: Outcome) -> None:
    untrained = changed(outcome.dataset, "accuracy", 0.5, network="ReLU", depth=2, split="train")
    assert outcomes(untrained) == ["holds", "holds", *["assumptions unmet"] * 3, "holds"]
    assert "a ReLU network reaches 4" in claims(untrained)[4].reason


def test_one_seed_that_has_not_learnt_meets_no_assumption(outcome: Outcome) -> None:
    one = changed(outcome.dataset, "accuracy", 0.85, network="ReLU", depth=6, split="train", seed=SETTING.seed)
    assert float(one["accuracy"].sel(network="ReLU", split="train").mean("seed").min()) > 0.9
    assert outcomes(one) == ["holds", "holds", *["assumptions unmet"] * 3, "holds"]


def test_linear_networks_far_from_least_squares_are_not_compared(outcome: Outcome) -> None:
    far = changed(outcome.dataset, "loss", 1.5, network="linear", depth=2, split="train")
    assert outcomes(far) == [*["holds"] * 5, "assumptions unmet"]
    assert "times that of least squares" in claims(far)[5].reason


def test_no_linear_network_falls_below_the_least_squares_loss(outcome: Outcome) -> None:
    losses = outcome.dataset["loss"].sel(network="linear", split="train")
    assert (losses > outcome.dataset["least_squares_loss"]).all()
    assert (losses < 1.3 * outcome.dataset["least_squares_loss"]).all()


def test_fewer_samples_than_features_leave_the_linear_map_open(outcome: Outcome) -> None:
    few = outcome.dataset.assign_attrs(num_train_samples=50)
    assert outcomes(few) == [*["holds"] * 5, "assumptions unmet"]


def test_an_interrupted_run_trains_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = DepthRole(depths=(2, 3), epochs=2, num_seeds=1)
    place, trained = Workplace(folder=tmp_path, progress=False), []

    def counted(model: nn.Module, samples: Any, **options: Any) -> None:
        trained.append(options["resume"])
        if len(trained) == 3:
            raise KeyboardInterrupt
        fit(model, samples, **options)

    monkeypatch.setattr(depth_role, "fit", counted)
    with pytest.raises(KeyboardInterrupt):
        EXPERIMENT(setting, workplace=place)
    continued = EXPERIMENT(setting, workplace=place).dataset
    assert len(trained) == 5  # two, the one that broke off, and the two that were left
    unbroken = EXPERIMENT(setting, workplace=QUIET).dataset
    xr.testing.assert_equal(continued.drop_attrs(), unbroken.drop_attrs())


@pytest.mark.slow
def test_with_batch_normalisation_and_few_samples_depth_does_harm() -> None:
    harmed = EXPERIMENT(DepthRole(batch_norm=True, depths=(2, 9), num_seeds=2, seed=1), workplace=QUIET)
    assert harmed.verdicts[2].measured > 1.1  # 1.33, D of the last layer at depth 9 over that at depth 2
    assert harmed.verdicts[4].measured < -0.03  # −0.08, test accuracy
    assert [verdict.outcome for verdict in harmed.verdicts[2:5:2]] == ["violated"] * 2


@pytest.mark.parametrize("depths", [(2,), (1, 2), (5, 3), (2, 2)])
def test_depths_that_do_not_grow_are_refused(depths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`depths` must be two or more, ascending from 2 or more"):
        DepthRole(depths=depths)

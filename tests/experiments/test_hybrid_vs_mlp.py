"""The hybrid against the plain perceptron: claims that hold where networks are trained, and fail where they should."""

import dataclasses
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import neurocollapse as nc
from neurocollapse.experiments import Workplace
from neurocollapse.experiments.classifiers.hybrid_vs_mlp import CIFAR10_REDUCED, EXPERIMENT, PAPER, HybridVsMLP, claims
from neurocollapse.experiments.classifiers.perceptrons import Perceptron, train_perceptron
from neurocollapse.experiments.experiment import Outcome

TINY = HybridVsMLP(width=96, init_scale=0.5, epochs=30, learning_rate=1e-3, probe_samples=300, seed=1)
QUIET = Workplace(progress=False)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return EXPERIMENT(TINY, workplace=QUIET)


def outcomes(dataset) -> list[str]:
    return [verdict.outcome for verdict in claims(dataset)]


def test_every_claim_holds(outcome):
    assert outcome.status == "holds", outcome
    assert (outcome.dataset["train_accuracy"] > 0.99).all()


def test_the_linear_layers_compress_by_a_constant_factor(outcome):
    hybrid = outcome.dataset.sel(network="hybrid")
    logs = np.log(hybrid["compression"].values[3:])
    assert float(hybrid["linear_slope"]) == pytest.approx(np.polyfit(np.arange(5), logs, 1)[0])
    assert float(hybrid["linear_r_squared"]) == pytest.approx(np.corrcoef(np.arange(5), logs)[0, 1] ** 2)


def test_layer_0_is_the_input_for_both(outcome):
    first = outcome.dataset["compression"].isel(layer=0).values
    assert first[0] == first[1]
    assert outcome.dataset.sizes["layer"] == 8


def test_the_dataset_comes_back_from_disk_with_units_and_is_drawn(outcome, tmp_path):
    nc.save(outcome.dataset, tmp_path / "hybrid.nc")
    loaded = nc.open(tmp_path / "hybrid.nc")
    assert loaded.equals(outcome.dataset)
    assert all(variable.attrs["long_name"] and variable.attrs["units"] for variable in loaded.data_vars.values())
    figure = EXPERIMENT.draw(loaded)
    assert len(figure.axes) == 4
    plt.close(figure)


def test_untrained_networks_leave_the_assumptions_unmet(outcome):
    untrained = outcome.dataset.assign(train_accuracy=("network", [0.5, 0.5]))
    assert set(outcomes(untrained)) == {"assumptions unmet"}
    assert "not trained: training accuracy 0.500" in claims(untrained)[0].reason


def test_each_claim_fails_where_its_quantity_does_not_behave(outcome):
    dataset = outcome.dataset
    rising = dataset.assign({name: dataset[name].copy() for name in dataset.data_vars})
    rising["probe_accuracy_train"][:, -1] = 0.5
    rising["compression"][1, -1] = 10.0
    rising["linear_r_squared"][1] = 0.8
    rising["compression"][0, -1] = 3.0
    rising["numerical_rank"][1, -1] = 1000.0
    rising["separation"][1, -1] = 0.0
    assert set(outcomes(rising)) == {"violated"}


def test_a_rank_that_stays_has_not_fallen(outcome):
    flat = outcome.dataset.assign(numerical_rank=0 * outcome.dataset["numerical_rank"] + 100)
    assert [verdict.claim for verdict in claims(flat) if verdict.outcome == "violated"] == [
        "the rank falls over them: that of the last over that of layer 3"
    ]


def test_what_is_said_of_the_hybrid_alone_needs_no_trained_mlp(outcome):
    untrained = outcome.dataset.assign(train_accuracy=("network", [0.5, 1.0]))
    unmet = [verdict.claim.split(":")[0] for verdict in claims(untrained) if verdict.outcome == "assumptions unmet"]
    assert unmet == [
        "the MLP's features are separable from layer 4 on",
        "the MLP compresses too",
        "linear layers compress further",
    ]


def test_an_unknown_probe_is_refused_before_training():
    with pytest.raises(ValueError, match="`probe` must be one of 'logistic', 'mse', got 'linear'"):
        HybridVsMLP(probe="linear")


def test_the_output_scale_is_behind_the_head():
    samples = QUIET.samples("digits")
    setting = dataclasses.replace(TINY, epochs=0)
    plain, scaled = (
        train_perceptron(Perceptron("net", 1, 2, factor), setting, samples, QUIET)[0].eval() for factor in (1.0, 100.0)
    )
    inputs = samples.inputs[:5]
    torch.testing.assert_close(scaled(inputs), 100 * plain(inputs))
    with nc.capture(scaled, "layers.*") as features, torch.no_grad():
        scaled(inputs)
    assert list(features) == ["layers.0", "layers.1", "layers.2"]


def test_the_run_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    EXPERIMENT.run(dataclasses.replace(TINY, epochs=1), QUIET)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_interrupted_run_goes_on(tmp_path):
    place = Workplace(folder=tmp_path, progress=False)
    once = EXPERIMENT.run(dataclasses.replace(TINY, epochs=1), place)
    assert {path.name for path in tmp_path.iterdir()} >= {"MLP.nc", "hybrid.nc"}
    assert EXPERIMENT.run(dataclasses.replace(TINY, epochs=1), place).equals(once)


def test_the_paper_scale_is_the_printed_setting():
    assert (PAPER.num_layers, PAPER.width, PAPER.init_scale, PAPER.epochs, PAPER.batch_size) == (7, 1024, 0.1, 400, 128)
    assert (PAPER.optimizer, PAPER.learning_rate, PAPER.weight_decay, PAPER.loss) == ("momentum", 1e-4, 1e-4, "mse")
    assert (PAPER.mlp_output_scale, PAPER.hybrid_output_scale, PAPER.num_nonlinear) == (1.0, 100.0, 3)


@pytest.mark.parametrize("num_nonlinear", [0, 6, 7])
def test_a_hybrid_needs_both_kinds_of_layers(num_nonlinear):
    with pytest.raises(ValueError, match="`num_nonlinear` must lie in"):
        HybridVsMLP(num_nonlinear=num_nonlinear)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 2])
def test_every_claim_holds_in_the_small_setting(seed):
    outcome = EXPERIMENT(HybridVsMLP(seed=seed), workplace=QUIET)
    assert outcome.status == "holds", outcome


@pytest.mark.slow
def test_every_claim_holds_with_ten_layers_of_which_four_are_nonlinear():
    outcome = EXPERIMENT(HybridVsMLP(num_layers=10, num_nonlinear=4, init_scale=0.55, seed=1), workplace=QUIET)
    assert outcome.status == "holds", outcome
    assert outcome.dataset.sizes["layer"] == 11


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_claim_holds_on_photographs_at_reduced_width(seed):
    place = os.environ.get("NEUROCOLLAPSE_DATA")
    if not place:
        pytest.skip("real data is not part of the repository: set NEUROCOLLAPSE_DATA to its folder to run this")
    outcome = EXPERIMENT(
        dataclasses.replace(CIFAR10_REDUCED, seed=seed), workplace=Workplace(Path(place), progress=False)
    )
    assert outcome.status == "holds", outcome
    assert float(outcome.dataset["linear_r_squared"].sel(network="hybrid")) > 0.95

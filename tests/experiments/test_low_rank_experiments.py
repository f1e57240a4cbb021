"""Thin layers and thin cores: what the two low-rank experiments find, and that their claims can fail."""

import os
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
import xarray as xr

import neurocollapse as nc
from neurocollapse.data import DataError
from neurocollapse.experiments import Workplace
from neurocollapse.experiments.experiment import Outcome
from neurocollapse.experiments.lowrank.low_rank_mlp import EXPERIMENT as THIN_LAYER
from neurocollapse.experiments.lowrank.low_rank_mlp import LowRankMLP, network
from neurocollapse.experiments.lowrank.low_rank_mlp import claims as claims_of_thin_layers
from neurocollapse.experiments.lowrank.low_rank_subspace import EXPERIMENT as THIN_CORE
from neurocollapse.experiments.lowrank.low_rank_subspace import LowRankSubspace, full_network, thin_network
from neurocollapse.experiments.lowrank.low_rank_subspace import claims as claims_of_thin_cores
from neurocollapse.models import initial_weight

QUIET = Workplace(progress=False)


@pytest.fixture(scope="module")
def thin_layer() -> Outcome:
    """Two seeds that the report does not use; the run must leave the global random state alone."""
    before = torch.get_rng_state()
    outcome = THIN_LAYER(LowRankMLP(num_seeds=2, seed=10), workplace=QUIET)
    assert torch.equal(torch.get_rng_state(), before)
    return outcome


@pytest.fixture(scope="module")
def thin_core() -> Outcome:
    """Three other seeds, one activation."""
    before = torch.get_rng_state()
    outcome = THIN_CORE(LowRankSubspace(activations=("gelu",), num_seeds=3, seed=10), workplace=QUIET)
    assert torch.equal(torch.get_rng_state(), before)
    return outcome


@pytest.mark.parametrize(("inner", "count"), [(0, 5_592_010), (20, 1_670_010), (2, 1_598_010)])
def test_the_inferred_architecture_has_the_printed_number_of_parameters(inner: int, count: int) -> None:
    with torch.device("meta"):
        model = network(784, 2000, 10, inner_width=0)
        if inner:
            model.middle = nn_pair(inner)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def nn_pair(inner: int) -> torch.nn.Sequential:
    """BA without a bias."""
    return torch.nn.Sequential(torch.nn.Linear(2000, inner, bias=False), torch.nn.Linear(inner, 2000, bias=False))


def test_rank_10_is_enough_and_rank_1_is_not(thin_layer: Outcome) -> None:
    assert thin_layer.status == "holds"
    accuracy = thin_layer.dataset["test_accuracy"].sel(data="digits")
    for seed in accuracy["seed"].values:
        run = accuracy.sel(seed=seed)
        assert run.sel(network="full") - run.sel(network="rank 10") < 0.025
        assert run.sel(network="full") - run.sel(network="rank 1") > 0.1


def test_counts_are_the_architectures(thin_layer: Outcome) -> None:
    dataset = thin_layer.dataset.isel(data=0)
    assert dataset["parameters"].sel(network="full") == 64 * 256 + 256 + 256 * 256 + 256 + 2560 + 10
    assert dataset["parameters"].sel(network="rank 10") == 64 * 256 + 256 + 20 * 512 + 2560 + 10
    assert dataset["flops"].sel(network="rank 1") == 2 * (64 * 256 + 2 * 512 + 2560)
    assert (dataset["bytes"] == 4 * dataset["parameters"]).all()
    assert dataset.attrs["architecture"].startswith("inferred")


def test_the_claims_of_thin_layers_can_fail(thin_layer: Outcome) -> None:
    dataset = thin_layer.dataset
    assert {verdict.outcome for verdict in claims_of_thin_layers(dataset)} == {"holds"}
    swapped = dataset.assign_coords(network=["full", "rank 1", "rank 10"])
    assert [verdict.outcome for verdict in claims_of_thin_layers(swapped)][3:] == ["violated", "violated"]
    assert claims_of_thin_layers(dataset.assign(parameters=dataset["parameters"] + 1))[0].outcome == "violated"


def test_the_printed_table_is_compared_where_it_applies(thin_layer: Outcome) -> None:
    dataset = thin_layer.dataset
    wide = xr.concat([dataset] * 3, "data", coords="minimal", compat="override", data_vars="all", join="override")
    wide = wide.assign_coords(data=["mnist", "fashion-mnist", "usps"]).assign_attrs(width=2000)
    wide["num_inputs"] = ("data", [784, 784, 256])
    wide["parameters"] = (("data", "network"), [[5_592_010, 1_670_010, 1_598_010]] * 3)
    printed = xr.DataArray([0.9509, 0.9457, 0.9086], dims="network")
    wide["test_accuracy"] = wide["test_accuracy"] * 0 + printed
    verdicts = claims_of_thin_layers(wide)
    assert len(verdicts) == 3 + 3 + 2 + 3
    assert {verdict.outcome for verdict in verdicts} == {"holds"}
    wide["parameters"] = wide["parameters"] + 100_000
    wide["test_accuracy"] = wide["test_accuracy"] - 0.1
    assert [verdict.outcome for verdict in claims_of_thin_layers(wide)] == ["violated"] * 6 + ["holds"] * 2 + [
        "violated"
    ] * 3


@pytest.mark.parametrize("start", ["svd", "gradient"])
def test_every_start_runs(start: str) -> None:
    dataset = THIN_LAYER(LowRankMLP(start=start, epochs=1, num_seeds=1, width=32, ranks=(4,)), workplace=QUIET).dataset
    assert dataset["test_accuracy"].sizes == {"data": 1, "network": 2, "seed": 1}


def test_finished_runs_are_kept(tmp_path: Path) -> None:
    setting = LowRankMLP(epochs=1, num_seeds=1, width=16, ranks=(1,))
    place = Workplace(folder=tmp_path, progress=False)
    first = THIN_LAYER(setting, workplace=place).dataset
    assert {path.stem for path in tmp_path.glob("*.nc")} == {"data0-rank0-seed0", "data0-rank1-seed0"}
    again = THIN_LAYER(setting, workplace=place).dataset
    assert again["seconds"].equals(first["seconds"])  # a time that is measured anew would differ


def test_usps_needs_its_file(tmp_path: Path) -> None:
    setting = LowRankMLP(data=("usps",))
    with pytest.raises(DataError, match="--data-root"):
        THIN_LAYER(setting, workplace=QUIET)
    with pytest.raises(DataError, match="usps"):
        THIN_LAYER(setting, workplace=Workplace(tmp_path, progress=False))


def test_gradient_bases_come_close_and_random_ones_do_not(thin_core: Outcome) -> None:
    assert thin_core.status == "holds"
    accuracy = thin_core.dataset["test_accuracy"].sel(activation="gelu")
    assert (accuracy.sel(network="gradient 2K") > accuracy.sel(network="random 2K")).all()
    assert float(accuracy.sel(network="gradient 2K").mean() - accuracy.sel(network="random 2K").mean()) > 0.015


def test_the_full_network_moves_more_within_the_gradients_basis(thin_core: Outcome) -> None:
    share = thin_core.dataset["share"].sel(activation="gelu")
    assert (share.sel(network="gradient 2K") > share.sel(network="random 2K")).all()
    # 20 random directions of 64 hold 20/64 of anything on average
    assert float(share.sel(network="random 2K").mean()) == pytest.approx(20 / 64, abs=0.1)
    assert share.sel(network="full").isnull().all()


@pytest.mark.slow
def test_both_activations_over_five_seeds() -> None:
    outcome = THIN_CORE(LowRankSubspace(seed=20), workplace=QUIET)
    assert outcome.status == "holds"
    mean = outcome.dataset["test_accuracy"].mean("seed")
    assert (mean.sel(network="gradient 2K") - mean.sel(network="random 2K") > 0.015).all()


def test_the_claims_of_thin_cores_can_fail(thin_core: Outcome) -> None:
    dataset = thin_core.dataset
    swapped = dataset.assign_coords(network=["full", "random 2K", "gradient 2K"])
    assert [verdict.outcome for verdict in claims_of_thin_cores(swapped)] == ["violated", "violated"]
    alone = dataset.assign_attrs(num_seeds=1)
    assert {verdict.outcome for verdict in claims_of_thin_cores(alone)} == {"assumptions unmet"}
    rough = dataset.assign_coords(activation=["relu"])
    assert {verdict.reason for verdict in claims_of_thin_cores(rough)} == {"a smooth activation"}
    # nothing is claimed of random bases that hold most of the inputs
    assert len(claims_of_thin_cores(dataset.assign(num_inputs=30))) == 1


def test_the_thin_network_begins_as_the_full_one_on_its_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [initial_weight(rows, 20, "orth", 0.5, generator=generator) for rows in (20, 20, 3)]
    gradient = torch.randn(20, 20, dtype=torch.float64, generator=generator)
    thin = thin_network(weights, gradient, 10, torch.nn.Identity)  # 2·10 directions: all of them
    inputs = torch.randn(5, 20, generator=generator)
    assert torch.allclose(thin(inputs), full_network(weights, torch.nn.Identity)(inputs), atol=1e-5)
    assert [parameter.requires_grad for parameter in thin.parameters()] == [False, True, True, False, True]
    trained = thin_network(weights, gradient, 2, torch.nn.Identity, train_bases=True)
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(ValueError, match="`activations` must be of 'gelu', 'silu', 'relu', got 'glu'"):
        THIN_CORE(replace(THIN_CORE.small, activations=("glu",)), workplace=QUIET)


@pytest.mark.parametrize("name", ["thin_layer", "thin_core"])
def test_figures_are_drawn_and_outcomes_saved(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    outcome: Outcome = request.getfixturevalue(name)
    figure = outcome.figure()
    assert len(figure.axes) == 2
    plt.close(figure)
    again = outcome.experiment.restored(nc.open(nc.save(outcome.to_dataset(), tmp_path / "outcome.nc")))
    assert again.verdicts == outcome.verdicts


@pytest.fixture
def real() -> Workplace:
    """Where MNIST lies."""
    place = os.environ.get("NEUROCOLLAPSE_DATA")
    if not place:
        pytest.skip("real data is not part of the repository: set NEUROCOLLAPSE_DATA to its folder to run this")
    return Workplace(Path(place), progress=False)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(1800)
def test_of_many_inputs_the_gradient_chooses_far_better_than_chance(real: Workplace) -> None:
    setting = LowRankSubspace(data="mnist", activations=("gelu",), epochs=4, num_seeds=3, learning_rate=5e-3, seed=1)
    mean = THIN_CORE(setting, workplace=real).dataset["test_accuracy"].sel(activation="gelu").mean("seed")
    assert mean.sel(network="gradient 2K") - mean.sel(network="random 2K") > 0.08
    assert mean.sel(network="full") - mean.sel(network="gradient 2K") < 0.1  # seven points after so few epochs


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(1800)
def test_rank_10_is_enough_on_mnist(real: Workplace) -> None:
    setting = LowRankMLP(data=("mnist",), width=2000, epochs=6, num_seeds=2, seed=1)
    outcome = THIN_LAYER(setting, workplace=real)
    assert outcome.status == "holds"
    counts = outcome.dataset["parameters"].sel(data="mnist").values.tolist()
    assert counts == [5_592_010, 1_670_010, 1_598_010]

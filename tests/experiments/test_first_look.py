"""The main job: what its two networks must show."""

import io
from collections.abc import Iterator
from contextlib import redirect_stderr

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from neurocollapse.experiments import FirstLook, first_look
from neurocollapse.metrics import geometric_decay
from neurocollapse.support.progress import progress_in_lines


@pytest.fixture(scope="module")
def log() -> io.StringIO:
    """What the run says in a log."""
    return io.StringIO()


@pytest.fixture(scope="module")
def look(log: io.StringIO) -> Iterator[FirstLook]:
    """One run for all tests, with another seed than the report's; it must leave random state and threads alone."""
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with redirect_stderr(log), progress_in_lines(clock=lambda: 0.0):
        found = first_look(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    yield found
    plt.close("all")


def test_both_networks_learn_the_digits(look: FirstLook) -> None:
    for dataset in look.analyses.values():
        assert dataset.attrs["train_accuracy"] > 0.99
        assert dataset.attrs["test_accuracy"] > 0.96


def test_shallow_layers_separate(look: FirstLook) -> None:
    for dataset in look.analyses.values():
        separation = dataset["separation"].values
        assert separation[3] > 1.5 * separation[0]


def test_a_linear_probe_gains_nothing_beyond_the_last_nonlinear_layer_of_the_hybrid(look: FirstLook) -> None:
    accuracy = look.analyses["hybrid"]["probe_accuracy_test"].values
    assert accuracy[3] > accuracy[0] + 0.01
    assert np.all(accuracy[4:] < accuracy[3] + 0.01)


def test_deep_layers_compress(look: FirstLook) -> None:
    for dataset in look.analyses.values():
        values = dataset["compression"].sel(layer=[f"layers.{index}" for index in range(2, 7)]).values
        assert np.all(np.diff(values) < 0)


def test_linear_layers_compress_geometrically(look: FirstLook) -> None:
    linear = look.analyses["hybrid"]["compression"].sel(layer=[f"layers.{index}" for index in range(3, 7)]).values
    fit = geometric_decay(linear)
    assert fit.r_squared > 0.95
    assert fit.factor < 0.6


def test_the_hybrid_ends_far_more_compressed(look: FirstLook) -> None:
    last = {name: float(dataset["compression"][-1]) for name, dataset in look.analyses.items()}
    assert last["hybrid"] < last["MLP"] / 10


def test_the_input_is_layer_0(look: FirstLook) -> None:
    for dataset in look.analyses.values():
        assert list(dataset["layer"].values) == ["input", *(f"layers.{index}" for index in range(7))]
        assert list(dataset["depth"].values) == list(range(8))


def test_layers_are_pictured(look: FirstLook) -> None:
    assert len(look.figures) == 3
    assert all(len(figure.axes) >= 4 for figure in look.figures.values())


def test_the_theorem_holds_where_its_assumptions_do(look: FirstLook) -> None:
    statuses = {name: verification.status for name, verification in look.verifications.items()}
    assert statuses == {
        "hybrid, its linear layers": "holds",
        "deep linear network, as printed": "holds",
        "deep linear network, output scale 1": "holds",
    }
    decided = {name: set(verification.decided_by) for name, verification in look.verifications.items()}
    assert decided["hybrid, its linear layers"] == {"split"}
    prior = {name: verification.theorems["prior"].status for name, verification in look.verifications.items()}
    assert prior == {
        "hybrid, its linear layers": "assumptions unmet",
        "deep linear network, as printed": "assumptions unmet",
        "deep linear network, output scale 1": "holds",
    }
    printed = look.verifications["deep linear network, as printed"]
    assert not printed.assumptions["minimum_norm"].met
    posterior = [verdict.outcome for verdict in printed.verdicts if "Theorem 2" in verdict.reference]
    assert posterior == ["holds"] * 5


@pytest.mark.usefixtures("look")
def test_a_log_says_which_step_begins(log: io.StringIO) -> None:
    assert log.getvalue().splitlines() == [
        "MLP: 7 nonlinear and 0 linear hidden layers of width 256",
        "drawing its features in two dimensions: principal components",
        "hybrid: 3 nonlinear and 4 linear hidden layers of width 256",
        "verifying the linear layers of the hybrid",
        "drawing its features in two dimensions: principal components",
        "drawing its features in two dimensions: t-SNE",
        "verifying deep linear networks",
    ]

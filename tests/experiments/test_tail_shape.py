"""The shape of D in linear tails: claims that hold on trained hybrids, and that fail where they should."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr

import neurocollapse as nc
from neurocollapse.experiments import EXPERIMENTS, Workplace
from neurocollapse.experiments.classifiers.perceptrons import Perceptron, Recipe, train_perceptron
from neurocollapse.experiments.classifiers.tail_shape import EXPERIMENT, TailShape, claims
from neurocollapse.experiments.experiment import Outcome

QUIET = Workplace(progress=False)
TINY = TailShape(losses=("mse",), inits=("orth",), width=48, epochs=25, learning_rate=1.5e-3, seed=1)
PLAIN, BIASED = "MSE, orthogonal", "MSE, orthogonal, biases"


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return EXPERIMENT(TINY, workplace=QUIET)


def outcomes(dataset: xr.Dataset, words: str) -> set[str]:
    """What becomes of the claims that have these words."""
    found = {verdict.outcome for verdict in claims(dataset) if words in verdict.claim}
    assert found
    return found


def renamed(dataset: xr.Dataset, **kind: str) -> xr.Dataset:
    """The same numbers, as if of networks of another kind."""
    return dataset.assign_coords({name: ("network", [value] * 2) for name, value in kind.items()})


def test_the_claims_hold_on_trained_networks(outcome: Outcome) -> None:
    assert outcome.status == "holds", outcome
    assert outcome.dataset["network"].values.tolist() == [PLAIN, BIASED]
    assert outcome.dataset.sizes == {"network": 2, "layer": 5}
    assert len(outcome.verdicts) == 2 * 7 + 1


def test_it_is_listed() -> None:
    assert EXPERIMENTS["tail-shape"] is EXPERIMENT


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
def test_the_claims_hold_in_the_small_setting_with_other_seeds(seed: int) -> None:
    outcome = EXPERIMENT(dataclasses.replace(EXPERIMENT.small, seed=seed), workplace=QUIET)
    assert outcome.status == "holds", outcome


def test_gain_of_the_invisible_part_is_that_of_the_features_themselves() -> None:
    setting = dataclasses.replace(TINY, epochs=2)
    found = EXPERIMENT.run(setting, QUIET).sel(network=PLAIN)
    samples = QUIET.samples("digits")
    recipe = Recipe.of(setting, loss="mse")
    model = train_perceptron(Perceptron("", 2, 4), recipe, samples, QUIET)[0].eval().double()
    inputs, labels = torch.as_tensor(samples.inputs).double(), torch.as_tensor(samples.labels)
    with torch.no_grad():
        features = model.layers[:2](inputs.flatten(1))
        means = torch.stack([features[labels == k].mean(0) for k in range(10)])
        spread = features - means[labels]
        output = model.head(model.layers[2:](spread))
        # What of the spread is uncorrelated with the output, by least squares.
        hidden = spread - output @ torch.linalg.lstsq(output, spread).solution
        squares = [hidden.square().sum()]
        for layer in model.layers[2:]:
            hidden = layer(hidden)
            squares.append(hidden.square().sum())
    gains = (torch.stack(squares[1:]) / torch.stack(squares[:-1])).numpy()
    # The network's features are float32 before they are summed in float64.
    np.testing.assert_allclose(found["invisible_gain"][1:], gains, rtol=1e-4)
    np.testing.assert_allclose(
        found["compression_visible"] + found["compression_invisible"], found["compression"], rtol=1e-10
    )


def test_networks_have_the_biases_and_the_start_that_their_names_say() -> None:
    samples, recipe = QUIET.samples("digits"), Recipe.of(dataclasses.replace(TINY, epochs=0), loss="mse")
    plain, other = (
        train_perceptron(one, recipe, samples, QUIET)[0]
        for one in (Perceptron("", 2, 4), Perceptron("", 2, 4, bias=True, init="norm"))
    )
    assert [model.head.bias is not None for model in (plain, other)] == [False, True]
    grams = [model.layers[3].weight.detach() @ model.layers[3].weight.detach().T for model in (plain, other)]
    off = [float((gram / TINY.init_scale**2 - torch.eye(TINY.width)).abs().max()) for gram in grams]
    assert off[0] < 1e-5  # rounding of float32
    assert off[1] > 0.1


# Every claim fails on a dataset on which it is wrong.


@pytest.mark.parametrize(
    ("name", "layer", "factor", "words"),
    [
        ("compression", 3, 10.0, "certified band"),
        ("certified_lower", 2, 1e3, "certified band"),
        ("compression_visible", 2, 0.5, "linear layer on, least"),
        ("compression_visible", 4, 2.0, "linear layer on, largest"),
        ("invisible_gain", 2, 1.5, "deviation from its mean"),
        ("decay_ratio", 4, 0.01, "ln D bends"),
        ("compression_law", 2, 2.0, "floor + transient"),
        ("split_upper", 2, 2.0, "16 bands explain"),
    ],
)
def test_each_claim_fails_where_its_quantity_does_not_behave(
    outcome: Outcome, name: str, layer: int, factor: float, words: str
) -> None:
    changed = outcome.dataset.copy(deep=True)
    changed[name][:, layer] *= factor
    assert outcomes(outcome.dataset, words) == {"holds"}
    assert outcomes(changed, words) == {"violated"}


def test_biases_that_change_the_tail_are_noticed(outcome: Outcome) -> None:
    changed = outcome.dataset.copy(deep=True)
    changed["compression"][1, 2] *= 1.5
    assert outcomes(outcome.dataset, "biases change D") == {"holds"}
    assert outcomes(changed, "biases change D") == {"violated"}


def test_claims_about_other_losses_and_starts_fail_on_these_numbers(outcome: Outcome) -> None:
    assert outcomes(renamed(outcome.dataset, init="norm"), "not constant") == {"violated"}
    entropy = renamed(outcome.dataset, loss="cross_entropy")
    assert outcomes(entropy, "visible part over D of the output falls") == {"violated"}
    varying = renamed(outcome.dataset, init="norm").copy(deep=True)
    varying["invisible_gain"][:, 2] *= 1.5
    assert outcomes(varying, "not constant") == {"holds"}
    falling = entropy.copy(deep=True)
    falling["compression_visible"][:, 1] *= 2
    assert outcomes(falling, "visible part over D of the output falls") == {"holds"}


def test_untrained_networks_leave_the_claims_open(outcome: Outcome) -> None:
    untrained = outcome.dataset.assign(accuracy=0 * outcome.dataset["accuracy"] + 0.5)
    assert {verdict.outcome for verdict in claims(untrained) if "certified band" not in verdict.claim} == {
        "assumptions unmet"
    }
    assert any(f"{PLAIN}: training accuracy 0.500 is below" in verdict.reason for verdict in claims(untrained))


@pytest.mark.parametrize("name", ["certified_upper", "compression_visible", "invisible_gain", "split_upper"])
def test_a_number_that_is_undefined_is_no_success(outcome: Outcome, name: str) -> None:
    changed = outcome.dataset.copy(deep=True)
    changed[name][:, 2] = np.nan
    assert "assumptions unmet" in {verdict.outcome for verdict in claims(changed)}


def test_figure_and_claims_come_from_the_file_alone(outcome: Outcome, tmp_path) -> None:
    nc.save(outcome.dataset, tmp_path / "tails.nc")
    again = EXPERIMENT.restored(nc.open(tmp_path / "tails.nc"))
    assert again.verdicts == outcome.verdicts
    figure = again.figure()
    assert [axes.get_title(loc="left") for axes in figure.axes] == [PLAIN, BIASED]
    (legend,) = [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]
    words = [text.get_text() for text in legend.get_texts()]
    assert {"measured D", "predicted: floor + transient"} <= set(words)
    assert "\n" not in "".join(words)
    for axes, name in zip(figure.axes, (PLAIN, BIASED), strict=True):
        drawn = [np.asarray(line.get_ydata()) for line in axes.lines]
        for shown in ("compression", "compression_floor", "compression_law"):
            values = outcome.dataset[shown].sel(network=name).values
            assert any(one.shape == values.shape and np.array_equal(one, values) for one in drawn), shown
    plt.close(figure)


def test_variables_say_what_they_are(outcome: Outcome) -> None:
    assert all(one.attrs["long_name"] and one.attrs["units"] for one in outcome.dataset.data_vars.values())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("losses", ("hinge",), "`losses` must be some of mse, cross_entropy, each once, got hinge"),
        ("inits", (), "`inits` must be some of orth, norm, each once, got none"),
        ("losses", ("mse", "mse"), "`losses` must be some of mse, cross_entropy, each once, got mse, mse"),
        ("biases", ("some",), "`biases` must be some of without, with, each once, got some"),
        ("num_linear", 1, "`num_nonlinear` must be at least 1 and `num_linear` 2"),
    ],
)
def test_settings_that_cannot_run_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TailShape(**{name: value})

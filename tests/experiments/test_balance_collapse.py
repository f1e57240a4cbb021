"""Weight decay, balance and the collapse of the last features: claims that hold, and that fail where they should."""

import dataclasses
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import neurocollapse as nc
from neurocollapse.experiments import EXPERIMENTS, Workplace
from neurocollapse.experiments.classifiers.balance_collapse import EXPERIMENT, BalanceCollapse, _unmet, claims
from neurocollapse.experiments.classifiers.perceptrons import Perceptron, Recipe, train_perceptron
from neurocollapse.experiments.experiment import Outcome
from tests.experiments.judged import outcomes_of

QUIET = Workplace(progress=False)
TINY = BalanceCollapse(tails=(3,), weight_decays=(0.0, 1e-2), width=32, epochs=25, learning_rate=4e-2, seed=1)


outcomes = partial(outcomes_of, claims)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return EXPERIMENT(TINY, workplace=QUIET)


def test_the_claims_hold_on_trained_networks(outcome: Outcome) -> None:
    assert outcome.status == "holds", outcome
    assert len(outcome.verdicts) == 7
    assert outcome.dataset.sizes == {"tail": 1, "weight_decay": 2, "layer": 3}
    assert (outcome.dataset["last_compression"] >= 0).all()


def test_it_is_listed() -> None:
    assert EXPERIMENTS["balance-implies-collapse"] is EXPERIMENT


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "bias"), [(11, False), (12, True)])
def test_the_claims_hold_in_the_small_setting_with_other_seeds(seed: int, bias: bool) -> None:
    outcome = EXPERIMENT(dataclasses.replace(EXPERIMENT.small, seed=seed, bias=bias), workplace=QUIET)
    assert outcome.status == "holds", outcome


def test_imbalance_and_bound_are_what_the_weights_and_features_say() -> None:
    setting = dataclasses.replace(TINY, weight_decays=(0.0, 1e-3), epochs=2)
    found = EXPERIMENT.run(setting, QUIET).sel(tail=3, weight_decay=1e-3)
    samples = QUIET.samples("digits")
    recipe = Recipe.of(setting, weight_decay=1e-3)
    model = train_perceptron(Perceptron("", 1, 2), recipe, samples, QUIET)[0].eval().double()
    before, last = model.layers[-1].weight.detach(), model.head.weight.detach()
    inputs, labels = torch.as_tensor(samples.inputs).double(), torch.as_tensor(samples.labels)
    with torch.no_grad():
        fed = model.layers[:-1](inputs.flatten(1))
    output = fed @ before.T @ last.T
    means = torch.stack([output[labels == k].mean(0) for k in range(10)])
    spread = output - means[labels]
    spread_before = fed - torch.stack([fed[labels == k].mean(0) for k in range(10)])[labels]
    excess = max(0.0, float(torch.linalg.eigvalsh(before @ before.T - last.T @ last).max()))
    inverse = torch.linalg.pinv(last)
    within = float((spread @ inverse.T).square().sum() + excess * spread_before.square().sum())
    between = float(((means - means.mean(0)) @ inverse.T).square().sum())
    # The network's features are float32 before they are summed in float64.
    assert float(found["excess"]) == pytest.approx(excess, rel=1e-5)
    assert float(found["last_bound"]) == pytest.approx(10 / len(labels) * within / between, rel=1e-4)
    assert float(found["head_condition"]) == pytest.approx(float(torch.linalg.cond(last)), rel=1e-4)
    assert float(found["tail_condition"]) == pytest.approx(
        float(torch.linalg.cond(last @ before @ model.layers[-2].weight.detach())), rel=1e-4
    )


# Every claim fails on a dataset on which it is wrong.


@pytest.mark.parametrize(
    ("name", "decay", "factor", "words"),
    [
        ("last_bound", 0, 0.01, "at most its bound"),
        ("last_bound", -1, 10.0, "with the most weight decay bound over D"),
        ("excess", -1, 1000.0, "imbalance falls"),
        ("last_compression", 0, 0.01, "D falls with weight decay"),
        ("last_compression", 0, 0.01, "D with the most weight decay"),
        ("tail_condition", 0, 0.01, "κ of all together"),
        ("head_condition", -1, 100.0, "even share"),
    ],
)
def test_each_claim_fails_where_its_quantity_does_not_behave(
    outcome: Outcome, name: str, decay: int, factor: float, words: str
) -> None:
    changed = outcome.dataset.copy(deep=True)
    changed[name][:, decay] *= factor
    assert outcomes(outcome.dataset, words) == {"holds"}
    assert outcomes(changed, words) == {"violated"}


def test_with_biases_the_conditioning_is_claimed_the_other_way(outcome: Outcome) -> None:
    biased = outcome.dataset.assign_attrs(bias="True")
    assert outcomes(biased, "the biases fit the mean") == {"violated"}
    rising = biased.copy(deep=True)
    rising["tail_condition"][:, -1] *= 100
    assert outcomes(rising, "the biases fit the mean") == {"holds"}


def test_untrained_networks_leave_the_claims_open(outcome: Outcome) -> None:
    untrained = outcome.dataset.assign(accuracy=0 * outcome.dataset["accuracy"] + 0.5)
    found = {verdict.outcome for verdict in claims(untrained) if "at most its bound" not in verdict.claim}
    assert found == {"assumptions unmet"}
    assert _unmet(untrained.sel(tail=3))[0] == "weight decay 0: training accuracy 0.500 is below 0.97"


def test_a_number_that_is_undefined_is_no_success(outcome: Outcome) -> None:
    undefined = outcome.dataset.copy(deep=True)
    undefined["last_compression"][:, 0] = np.nan
    assert {verdict.outcome for verdict in claims(undefined)} >= {"assumptions unmet"}
    assert outcomes(undefined, "at most its bound") == {"assumptions unmet"}


def test_figure_and_claims_come_from_the_file_alone(outcome: Outcome, tmp_path) -> None:
    nc.save(outcome.dataset, tmp_path / "balance.nc")
    again = EXPERIMENT.restored(nc.open(tmp_path / "balance.nc"))
    assert again.verdicts == outcome.verdicts
    figure = again.figure()
    drawn = [line.get_ydata() for axes in figure.axes for line in axes.lines]
    names = ("last_compression", "last_bound", "tail_condition", "head_condition")
    for line, name in zip(drawn, names, strict=True):
        np.testing.assert_array_equal(line, outcome.dataset[name][0])
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0", "0.01"]
    plt.close(figure)


def test_variables_say_what_they_are(outcome: Outcome) -> None:
    assert all(one.attrs["long_name"] and one.attrs["units"] for one in outcome.dataset.data_vars.values())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tails", (1, 2), "`tails` must be numbers of linear layers from 2 on, each once, got"),
        ("tails", (3, 3), "`tails` must be numbers of linear layers from 2 on, each once, got"),
        ("weight_decays", (1e-3,), "`weight_decays` must be two or more, ascending, got"),
        ("weight_decays", (1e-3, 0.0), "`weight_decays` must be two or more, ascending, got"),
    ],
)
def test_settings_that_cannot_run_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BalanceCollapse(**{name: value})

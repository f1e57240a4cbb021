"""The law of data separation, on networks of ours and on a user's own."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
from safetensors.torch import save_file

import neurocollapse as nc
from neurocollapse.experiments import Workplace
from neurocollapse.experiments.classifiers.data_separation_law import EXPERIMENT, DataSeparationLaw, claims
from neurocollapse.experiments.experiment import Outcome
from neurocollapse.models import init_weights, mlp
from neurocollapse.train import fit

QUIET = Workplace(progress=False)
TINY = DataSeparationLaw(width=64, epochs=30, seed=1)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return EXPERIMENT(TINY, workplace=QUIET)


def test_trained_networks_follow_a_straight_line(outcome):
    assert outcome.status == "holds", outcome
    assert (outcome.dataset["r_squared"].sel(measure="fuzziness") > 0.97).all()


def test_the_line_is_the_least_squares_line(outcome):
    one = outcome.dataset.isel(network=1)
    values = np.log(one["fuzziness"].values)
    slope, intercept = np.polyfit(np.arange(9), values, 1)
    assert float(one["slope"].sel(measure="fuzziness")) == pytest.approx(slope)
    assert float(one["intercept"].sel(measure="fuzziness")) == pytest.approx(intercept)
    assert float(one["slope_lower"][0]) < slope < float(one["slope_upper"][0])


def test_shorter_networks_end_earlier(outcome):
    shallow = outcome.dataset.sel(network="4 layers")
    assert np.isnan(shallow["fuzziness"].values[5:]).all()
    assert np.isfinite(shallow["fuzziness"].values[:5]).all()
    assert int(shallow["num_layers"]) == 5


def test_the_figure_is_drawn_from_the_file_alone(outcome, tmp_path):
    nc.save(outcome.dataset, tmp_path / "law.nc")
    loaded = nc.open(tmp_path / "law.nc")
    assert loaded.equals(outcome.dataset)
    figure = EXPERIMENT.draw(loaded)
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [text.split(":")[0] for text in texts] == ["4 layers", "8 layers"]
    plt.close(figure)


def test_low_training_accuracy_leaves_the_assumptions_unmet():
    outcome = EXPERIMENT(dataclasses.replace(TINY, depths=(4,), epochs=0), workplace=QUIET)
    assert outcome.status == "assumptions unmet"
    assert "training accuracy" in outcome.verdicts[0].reason


def test_a_bent_or_rising_line_violates_the_claims(outcome):
    rising = outcome.dataset.assign(
        r_squared=outcome.dataset["r_squared"] * 0.5, slope_upper=outcome.dataset["slope_upper"] + 5
    )
    assert {verdict.outcome for verdict in claims(rising)} == {"violated"}


@pytest.mark.parametrize(("name", "value"), [("checkpoint", "weights.pt"), ("layers", "blocks.*")])
def test_what_is_about_a_model_of_ones_own_needs_one(name, value):
    with pytest.raises(ValueError, match=f"`{name}` is about a model of your own, got '.*'; give `model` as well"):
        DataSeparationLaw(**{name: value})


def test_a_model_of_ones_own_is_measured(tmp_path, monkeypatch):
    (tmp_path / "their_model.py").write_text(
        "from neurocollapse.models import mlp\n\n\ndef build():\n    return mlp(64, 48, 10, depth=5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = init_weights(mlp(64, 48, 10, depth=5), "orth", 1.0, seed=0)
    fit(model, QUIET.samples("digits"), epochs=25, batch_size=128, learning_rate=2e-3, progress=False)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    setting = dataclasses.replace(
        TINY, model="their_model:build", checkpoint=str(tmp_path / "weights.safetensors"), layers="layers.*"
    )
    outcome = EXPERIMENT(setting, workplace=QUIET)
    assert outcome.dataset["network"].values.tolist() == ["their_model:build"]
    assert outcome.dataset.sizes["layer"] == 6
    assert outcome.dataset["train_accuracy"].item() > 0.97
    assert outcome.status == "holds", outcome

"""Other data along training: what they are made of, and claims that fail on planted datasets."""

import dataclasses
import os
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.metrics import roc_auc_score

import neurocollapse as nc
from neurocollapse.data import DataError, LabelledData
from neurocollapse.experiments import EXPERIMENTS, Workplace
from neurocollapse.experiments.experiment import Outcome
from neurocollapse.experiments.transfer import out_of_distribution as experiment
from neurocollapse.experiments.transfer.others import NOISE, OTHER_CLASSES, fitted, images, parts
from neurocollapse.experiments.transfer.out_of_distribution import DETECTORS, EXPERIMENT, OutOfDistribution, claims
from tests.experiments.judged import outcomes_of

QUIET = Workplace(progress=False)
TINY = OutOfDistribution(measured_epochs=(0, 1, 2), num_repeats=2, channels=(4, 8), width=24, batch_size=128)
outcomes = partial(outcomes_of, claims)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return EXPERIMENT(TINY, workplace=Workplace(folder=tmp_path_factory.mktemp("parts"), progress=False))


def test_it_is_listed() -> None:
    assert EXPERIMENTS["out-of-distribution"] is EXPERIMENT


def test_other_classes_are_those_that_are_not_learnt() -> None:
    inside, others = parts("digits", (OTHER_CLASSES, NOISE), QUIET, seed=0)
    assert inside["train"].num_classes == 5
    whole = QUIET.samples("digits", split="test")
    torch.testing.assert_close(others[OTHER_CLASSES], whole.inputs[whole.labels >= 5])
    noise = others[NOISE]
    assert noise.shape == (len(inside["test"]), 1, 8, 8)
    assert 0 <= noise.min() < 0.01 < 0.99 < noise.max() <= 1
    again = parts("digits", (NOISE, OTHER_CLASSES), QUIET, seed=0)[1]
    assert torch.equal(noise, again[NOISE])
    assert parts("digits", (NOISE,), QUIET, seed=0)[0]["train"].num_classes == 10


def test_other_data_get_the_networks_shape(tmp_path) -> None:
    red = torch.zeros(4, 3, 16, 16)
    red[:, 0] = 0.9
    np.savez(tmp_path / "red.npz", inputs=red, labels=np.arange(4) % 2, test_inputs=red, test_labels=np.arange(4) % 2)
    spec = f"npz:{tmp_path / 'red.npz'}"
    others = parts("digits", (spec,), QUIET, seed=0)[1]
    torch.testing.assert_close(others[spec], torch.full((4, 1, 8, 8), 0.3))
    assert torch.equal(fitted(red, (3, 16, 16)), red)
    vectors = LabelledData(torch.zeros(3, 2), torch.tensor([0, 1, 1]), ("left", "right"), "points")
    with pytest.raises(DataError, match="points must hold images"):
        images(vectors)


def test_scores_tell_classes_from_others_as_sklearn_counts(outcome: Outcome) -> None:
    """Of the first network before training, made again."""
    inside, others = parts("digits", TINY.others, QUIET, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = experiment.untrained(inside["train"], TINY.recipe)
    train, test, other = (images(inside["train"]), images(inside["test"]), others[NOISE])
    model.eval()

    def features(inputs):
        return model.relu(model.hidden(model.blocks(inputs).mean(dim=(2, 3)))).detach().double()

    means = torch.stack([features(train)[inside["train"].labels == k].mean(dim=0) for k in range(5)])
    centre = means.mean(dim=0)
    project = torch.linalg.pinv(means - centre, rtol=1e-9) @ (means - centre)
    inner, outer = (
        (rows @ project).norm(dim=1) / rows.norm(dim=1) for rows in (features(test) - centre, features(other) - centre)
    )
    truth = np.repeat([1, 0], [len(inner), len(outer)])
    expected = roc_auc_score(truth, torch.cat([inner, outer]))
    found = outcome.dataset["auroc"].sel(repeat=0, epoch=0, other=NOISE, detector="NECO")
    assert float(found) == pytest.approx(expected, abs=1e-4)  # float32 features may order a few pairs otherwise
    probabilities = [model(inputs).softmax(dim=1).amax(dim=1).detach() for inputs in (test, other)]
    found = outcome.dataset["auroc"].sel(repeat=0, epoch=0, other=NOISE, detector="max-softmax")
    assert float(found) == pytest.approx(roc_auc_score(truth, torch.cat(probabilities)), abs=1e-4)


def test_it_goes_on_from_parts_and_is_restored(outcome: Outcome, tmp_path) -> None:
    setting = dataclasses.replace(TINY, num_repeats=1)
    place = Workplace(folder=tmp_path / "parts", progress=False)
    first = EXPERIMENT(setting, workplace=place)
    assert first.status == "assumptions unmet"  # one network has no interval
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    again = EXPERIMENT(setting, workplace=place)
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    xr.testing.assert_identical(first.dataset.drop_attrs(), again.dataset.drop_attrs())
    xr.testing.assert_identical(
        first.dataset.drop_attrs(), outcome.dataset.isel(repeat=[0]).drop_attrs()
    )  # whatever the number of networks
    nc.save(outcome.dataset, tmp_path / "outcome.nc")
    restored = EXPERIMENT.restored(nc.open(tmp_path / "outcome.nc"))
    assert str(restored) == str(outcome)  # verdicts of two networks hold NaN, which equals nothing
    figure = restored.figure()
    assert len(figure.axes) == 2 + 2 * len(TINY.others)
    assert all(axes.lines for axes in figure.axes)
    plt.close(figure)


def test_a_run_that_was_interrupted_keeps_the_epochs_before(outcome: Outcome, tmp_path, monkeypatch) -> None:
    setting = dataclasses.replace(TINY, num_repeats=1)
    place = Workplace(folder=tmp_path / "parts", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "nc1", _interrupting_after(2))
        with pytest.raises(KeyboardInterrupt):
            EXPERIMENT(setting, workplace=place)
    assert sorted(path.name for path in (tmp_path / "parts").glob("*.nc")) == ["0-epoch-0.nc", "0-epoch-1.nc"]
    again = EXPERIMENT(setting, workplace=place)
    xr.testing.assert_identical(again.dataset.drop_attrs(), outcome.dataset.isel(repeat=[0]).drop_attrs())
    (tmp_path / "parts" / "0-epoch-1.nc").unlink()
    with pytest.raises(ValueError, match="the part of epoch 1 has been removed"):
        EXPERIMENT(setting, workplace=place)


def _interrupting_after(count: int):
    """NC1, interrupted by the user after so many calls."""
    calls, nc1 = iter(range(count)), experiment.nc1

    def interrupting(*args):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return nc1(*args)

    return interrupting


def planted(
    *, auroc: float = 0.1, nc5: float = 0.5, nc1: float = 0.1, learnt: float = 1.0, repeats: int = 6
) -> xr.Dataset:
    """Networks in which AUROC of NECO changes by so much along training, NC5 and NC1 by such factors."""
    rng = np.random.default_rng(0)
    course = np.linspace(0, 1, 5)
    noise = 0.005 * rng.normal(size=(repeats, 5))
    table = np.empty((repeats, 6, 1, 3))
    table[:, 1:] = (0.8 + auroc * course + noise)[:, :, None, None]
    table[:, 0] = 2.0  # before training: nothing is claimed of it
    cosines, spread = (
        np.concatenate([np.full((repeats, 1), 9.0), 0.9 * factor**course + noise], axis=1) for factor in (nc5, nc1)
    )
    return xr.Dataset(
        {
            "auroc": (("repeat", "epoch", "other", "detector"), table),
            "nc5": (("repeat", "epoch", "other"), cosines[:, :, None]),
            "nc1": (("repeat", "epoch"), spread),
            "train_accuracy": (("repeat", "epoch"), np.full((repeats, 6), learnt)),
        },
        {"epoch": [0, 1, 2, 4, 8, 16], "other": ["noise"], "detector": list(DETECTORS)},
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"auroc": -0.1}, "AUROC of NECO gained"),
        ({"auroc": 0.0}, "AUROC of NECO gained"),
        ({"auroc": -0.1}, "rank correlation"),
        ({"nc5": 1.1}, "logarithm of NC5"),
        ({"nc5": 1.0}, "logarithm of NC5"),
    ],
)
def test_each_claim_fails_on_another_course(change: dict[str, float], words: str) -> None:
    assert outcomes(planted(), words) == {"holds"}
    assert outcomes(planted(**change), words) == {"violated"}


def test_one_network_of_six_that_loses_much_violates_the_claim() -> None:
    dataset = planted(auroc=0.02)
    assert outcomes(dataset, "AUROC of NECO gained") == {"holds"}
    dataset["auroc"].values[2, -1] -= 0.1
    assert outcomes(dataset, "AUROC of NECO gained") == {"violated"}


def test_nothing_is_claimed_of_few_networks_or_without_collapse() -> None:
    short = (planted().isel(epoch=[0, 1]), planted().isel(epoch=[0]))
    for dataset in (planted(repeats=4), planted(nc1=1.5), planted(learnt=0.98), *short):
        assert {verdict.outcome for verdict in claims(dataset)} == {"assumptions unmet"}


def test_settings_that_cannot_run_are_refused() -> None:
    with pytest.raises(ValueError, match="`measured_epochs` must ascend"):
        OutOfDistribution(measured_epochs=(0, 2, 1))
    with pytest.raises(ValueError, match="`others` must hold no data twice"):
        OutOfDistribution(others=("noise", "noise"))


@pytest.mark.slow
def test_the_claims_hold_in_the_small_setting() -> None:
    outcome = EXPERIMENT(workplace=QUIET)
    assert outcome.status == "holds", outcome


@pytest.mark.data
def test_real_data_are_fitted_to_each_other() -> None:
    place = os.environ.get("NEUROCOLLAPSE_DATA")
    if place is None:
        pytest.skip("real data is not part of the repository: set NEUROCOLLAPSE_DATA to its folder to run this")
    setting = dataclasses.replace(TINY, data="cifar10", others=("mnist", "digits"), measured_epochs=(0,), num_repeats=1)
    dataset = EXPERIMENT.run(setting, Workplace(data_root=Path(place), progress=False))
    assert dataset["other"].values.tolist() == ["mnist", "digits"]
    assert dataset["auroc"].notnull().all()

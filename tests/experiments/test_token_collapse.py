"""Collapse in language models: the text, the claims, and courses of training on which each claim fails."""

import dataclasses
from collections import Counter
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr

import neurocollapse as nc
from neurocollapse.data import DataError
from neurocollapse.experiments import EXPERIMENTS, Workplace
from neurocollapse.experiments.experiment import Outcome
from neurocollapse.experiments.language.small_world import small_world
from neurocollapse.experiments.language.texts import UNKNOWN, words_of_file
from neurocollapse.experiments.language.token_collapse import EXPERIMENT, TokenCollapse, claims
from neurocollapse.plots.experiments.token_collapse import PANELS
from tests.experiments.judged import outcomes_of

QUIET = Workplace(progress=False)
TINY = TokenCollapse(
    num_beings=12, num_deeds=12, num_sentences=600, length=24, num_measured=48, widths=(4, 16), num_steps=160
)


outcomes = partial(outcomes_of, claims)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return EXPERIMENT(TINY, workplace=QUIET)


def test_it_is_listed() -> None:
    assert EXPERIMENTS["token-collapse"] is EXPERIMENT


def test_what_is_measured_are_the_widths_over_training(outcome: Outcome) -> None:
    dataset = outcome.dataset
    assert dataset["cdnv"].dims == ("width", "step")
    assert dataset["step"].values.tolist() == [0, 20, 40, 80, 160]
    assert dataset["width"].values.tolist() == [4, 16]
    assert len(outcome.verdicts) == 9
    assert {"loss", "error", "gnc2", "compression", "ncm_error"} <= set(dataset)
    assert bool((dataset["loss"].diff("step") < 0).all())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_claims_hold_in_the_small_setting(seed: int) -> None:
    outcome = EXPERIMENT(dataclasses.replace(EXPERIMENT.small, seed=seed), workplace=QUIET)
    assert outcome.status == "holds", outcome


def good() -> xr.Dataset:
    """A course on which every claim holds."""
    share = np.outer([1.0, 0.5], [1.5, 1.0, 0.7, 0.5, 0.3])
    falling = dict.fromkeys(("cdnv", "unc3", "gnc2_variation", "loss"), (("width", "step"), share))
    gnc2 = np.array([[0.0, 0.4, 0.2, 0.1, 0.1], [0.0, 0.3, 0.0, -0.2, -0.3]])
    rising = {"gnc2": (("width", "step"), gnc2), "nc4": (("width", "step"), 0.9 - 0.9 * share)}
    return xr.Dataset(falling | rising, {"width": [4, 16], "step": [0, 20, 40, 80, 160]})


@pytest.mark.parametrize(
    ("name", "where", "value", "words"),
    [
        ("cdnv", {"width": 4, "step": 160}, 0.95, "CDNV falls with training"),
        ("unc3", {"width": 16, "step": 160}, 0.45, "UNC3 falls with training"),
        ("cdnv", {"width": 16, "step": 160}, 0.3, "CDNV falls with width"),
        ("unc3", {"width": 16, "step": 160}, 0.29, "UNC3 falls with width"),
        ("gnc2", {"width": 16, "step": 160}, 0.28, "width 16: GNC2 falls with training"),
        ("gnc2", {"width": 4, "step": 160}, -0.29, "GNC2 falls with width"),
        ("gnc2_variation", {"width": 16, "step": 160}, 0.5, "its variation falls with training"),
        ("nc4", {"width": 4, "step": 160}, 0.05, "rises with training"),
        ("nc4", {"width": 16, "step": 160}, 0.7, "rises with width"),
        ("cdnv", {"width": 4, "step": 160}, np.nan, "CDNV falls with training"),
    ],
)
def test_each_claim_fails_on_another_course(name: str, where: dict[str, int], value: float, words: str) -> None:
    changed = good()
    changed[name].loc[where] = value
    assert outcomes(good(), words) == {"holds"}
    assert outcomes(changed, words) <= {"violated", "assumptions unmet"}
    assert "holds" not in outcomes(changed, words)


def test_networks_that_do_not_learn_leave_the_claims_open() -> None:
    changed = good()
    changed["loss"][:] = 3.0
    assert {verdict.outcome for verdict in claims(changed)} == {"assumptions unmet"}
    assert EXPERIMENT(dataclasses.replace(TINY, num_steps=0), workplace=QUIET).status == "assumptions unmet"


def test_the_numbers_are_those_of_the_networks_on_the_text() -> None:
    setting = dataclasses.replace(TINY, num_steps=0, widths=(8, 12), num_measured=7)
    dataset = EXPERIMENT.run(setting, QUIET)
    text = small_world(12, 12, 600, seed=0)
    sequences = text.tokens[: 7 * 24].reshape(7, 24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nc.models.SmallGPT(26, 24, width=12)
    with torch.no_grad():
        scores = model(torch.from_numpy(sequences))[:, :-1]
    right = scores.argmax(-1).numpy() == sequences[:, 1:]
    assert dataset["error"].sel(width=12).item() == pytest.approx(1 - right.mean(), abs=1e-12)
    expected = torch.nn.functional.cross_entropy(scores.flatten(0, 1), torch.from_numpy(sequences[:, 1:]).flatten())
    assert dataset["loss"].sel(width=12).item() == pytest.approx(float(expected), rel=1e-6)


def test_figure_and_claims_come_from_the_file_alone(outcome: Outcome, tmp_path: Path) -> None:
    nc.save(outcome.dataset, tmp_path / "tokens.nc")
    again = EXPERIMENT.restored(nc.open(tmp_path / "tokens.nc"))
    assert again.verdicts == outcome.verdicts
    figure = again.figure()
    assert len(figure.axes) == len(PANELS)
    for axes, name in zip(figure.axes, PANELS, strict=True):
        assert axes.get_xlabel() == "steps of training"
        drawn = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 5]
        expected = outcome.dataset[name].values
        for values, curve in zip(np.where(expected > 0, expected, np.nan), drawn, strict=True):
            np.testing.assert_array_equal(np.ma.filled(np.ma.masked_invalid(curve), np.nan), values)
    plt.close(figure)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (8,)}, r"`widths` must be two or more, ascending"),
        ({"widths": (16, 8)}, r"`widths` must be two or more, ascending"),
        ({"widths": (8, 10)}, r"`widths` must be multiples of num_heads=4"),
        ({"length": 1}, r"`length` and `most_words` must be at least 2"),
    ],
)
def test_settings_that_cannot_run_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_a_text_shorter_than_a_sequence_is_refused() -> None:
    with pytest.raises(DataError, match=r"the text has 12 words, fewer than one sequence of 24"):
        EXPERIMENT(dataclasses.replace(TINY, num_sentences=2), workplace=QUIET)


def test_a_being_does_three_things_and_sentences_go_on_with_whom_they_end() -> None:
    text = small_world(15, 9, 4000, seed=3)
    sentences = text.tokens.reshape(-1, 6)
    words = np.array(text.words)
    assert set(words[sentences[:, 0]]) == set(words[sentences[:, 3]]) == {"the"}
    assert set(words[sentences[:, 5]]) == {"."}
    deeds = {who: Counter(map(tuple, sentences[sentences[:, 1] == who][:, [2, 4]])) for who in set(sentences[:, 1])}
    assert max(map(len, deeds.values())) <= 3
    assert all(who != whom for who, whom in sentences[:, [1, 4]])
    goes_on = (sentences[1:, 1] == sentences[:-1, 4]).mean()
    assert 0.7 - 0.03 < goes_on < 0.7 + 0.1  # and by chance
    assert len(set(text.words)) == 15 + 9 + 2
    assert set(sentences[:, 1]) == set(range(2, 17))
    assert str(text).split()[:6] == [text.words[token] for token in text.tokens[:6]]
    same = small_world(15, 9, 4000, seed=3)
    assert np.array_equal(same.tokens, text.tokens)
    other = small_world(15, 9, 4000, seed=4).tokens.reshape(-1, 6)
    assert not np.array_equal(other, sentences)
    for who, known in deeds.items():  # another text of the same world
        assert set(map(tuple, other[other[:, 1] == who][:, [2, 4]])) <= set(known) or len(known) < 3
    assert len(set(small_world(5000, 5000, 1, seed=0).words)) == 10_002


def test_the_words_of_a_file_are_its_most_frequent_ones(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("The cat, the dog.\nThe rare Cat.", encoding="utf-8")
    text = words_of_file(path, 3)
    assert text.words == (UNKNOWN, "the", ".", "cat")
    assert text.tokens.tolist() == [1, 3, 0, 1, 0, 2, 1, 0, 3, 2]
    setting = dataclasses.replace(TINY, text=str(path), length=5, num_steps=1, widths=(4, 8), num_measured=2)
    assert EXPERIMENT.run(setting, QUIET)["loss"].shape == (2, 2)
    for contents, message in ((b"\xff", "cannot be read as UTF-8 text"), (b" \n", "holds no words")):
        path.write_bytes(contents)
        with pytest.raises(DataError, match=message):
            words_of_file(path, 3)
    with pytest.raises(DataError, match="cannot be read"):
        words_of_file(tmp_path / "nothing.txt", 3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_quantity_is_had_of_ten_thousand_words(tmp_path: Path) -> None:
    words = np.random.default_rng(0).permutation(np.repeat(np.arange(10_050), 2))
    path = tmp_path / "many.txt"
    path.write_text(" ".join(f"w{word}" for word in words))
    setting = TokenCollapse(text=str(path), num_measured=1000, widths=(4, 8), num_steps=0)
    dataset = EXPERIMENT.run(setting, QUIET)
    following = words[: len(words) // 48 * 48].reshape(-1, 48)[:, 1:]
    assert len(np.unique(following)) >= 10_000
    for name in ("cdnv", "gnc2", "gnc2_variation", "unc3", "nc4", "ncm_error", "compression"):
        assert bool(np.isfinite(dataset[name]).all()), name

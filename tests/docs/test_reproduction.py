"""The page of printed numbers: made from the outcomes that are kept, and able to say "violated"."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import reproduce
import xarray as xr
from PIL import Image
from reproduction import outcomes, pictures
from reproduction.not_run import SKIPPED, Skipped
from reproduction.outcomes import summary
from reproduction.page import duration, page, shown
from reproduction.printed import TAGS, Printed

import neurocollapse as nc
from neurocollapse.experiments import EXPERIMENTS, Outcome, Workplace, find

LARGEST = 16_000
"""Bytes of an outcome's file."""


LARGEST_PICTURE = 25_000


@pytest.fixture(scope="module")
def evolution() -> xr.Dataset:
    """A run of a second."""
    return find("svd-evolution")(workplace=Workplace(progress=False)).to_dataset()


def row(text: str, words: str) -> list[str]:
    """Cells of the one row of the first table that has these words."""
    table = text.partition("## Printed numbers")[2].partition("\n## ")[0]
    (line,) = [line for line in table.splitlines() if words in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_is_what_the_outcomes_make_of_it() -> None:
    assert reproduce.PAGE.read_text(encoding="utf-8") == reproduce.table(), "run `python docs/reproduce.py table`"


def test_every_printed_number_is_measured_or_said_not_to_be() -> None:
    runs = reproduce.read(reproduce.OUTCOMES)
    measured = {(run["experiment"], quantity) for run in runs for quantity in run["numbers"]}
    missing = [one for one in reproduce.NUMBERS if (one.experiment, one.quantity) not in measured]
    elsewhere = {one.experiment for one in missing if not one.given}  # the others are of a setting that was not run
    assert elsewhere <= {one.experiment for one in SKIPPED}, "run them, or say why not"


def test_claims_of_printed_numbers_begin_as_claims_of_their_experiment_do() -> None:
    """A number whose words fit no claim would silently have no verdict."""
    runs = reproduce.read(reproduce.OUTCOMES)
    for one in reproduce.NUMBERS:
        claims = [claim["claim"] for run in runs if run["experiment"] == one.experiment for claim in run["claims"]]
        if claims and one.claim and not one.given:
            assert any(claim.startswith(one.claim) for claim in claims), one


def test_printed_numbers_have_names_of_their_own_and_known_sources() -> None:
    names = [(one.experiment, one.quantity) for one in reproduce.NUMBERS]
    assert len(names) == len(set(names))
    assert {one.tag for one in reproduce.NUMBERS} <= set(TAGS)
    assert {name for name, _ in names} <= {*EXPERIMENTS, *(one.experiment for one in SKIPPED)}


def test_outcomes_are_small_files_named_for_their_run() -> None:
    for path in reproduce.OUTCOMES.glob("*.json"):
        assert path.stat().st_size < LARGEST, path.name
        assert outcomes.file_name(json.loads(path.read_text(encoding="utf-8"))) == path.name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_small_picture_of_a_run_that_is_kept(name: str) -> None:
    path = reproduce.PICTURES / f"{name}.png"
    assert path.is_file(), "run the experiment with --output, then `python docs/reproduce.py draw FOLDER`"
    assert path.stat().st_size < LARGEST_PICTURE
    picture = Image.open(path)
    assert picture.size == pictures.SIZE
    assert len(picture.convert("RGB").getcolors() or ()) > 10
    assert picture.text[pictures.COMMAND] in {run["command"] for run in reproduce.read(reproduce.OUTCOMES)}


def test_no_picture_is_left_of_an_experiment_that_is_gone() -> None:
    assert {path.stem for path in reproduce.PICTURES.iterdir()} == {*EXPERIMENTS}


def test_a_run_becomes_a_picture_that_names_its_command(evolution: xr.Dataset, tmp_path: Path) -> None:
    nc.save(evolution, tmp_path / "run.nc")
    (path,) = reproduce.draw([tmp_path], tmp_path / "pictures")
    picture = Image.open(path)
    assert (path.name, picture.size) == ("svd-evolution.png", pictures.SIZE)
    assert picture.text[pictures.COMMAND] == "neurocollapse experiment svd-evolution --scale paper"


def test_the_small_setting_and_the_first_seed_are_drawn_rather_than_others() -> None:
    experiment = find("collapse-depth")
    outcome = {
        (scale, seed): Outcome(experiment, replace(experiment.setting(scale), seed=seed), xr.Dataset(), ())
        for scale, seed in [("paper", 0), ("small", 7), ("small", 0)]
    }
    assert pictures.chosen(outcome.values()) == {"collapse-depth": outcome["small", 0]}


def test_of_a_tall_figure_the_first_rows_are_drawn() -> None:
    figure, _ = plt.subplots(6, 2, figsize=(4, 12), layout="constrained")
    figure.draw_without_rendering()
    height = pictures.height(figure, dpi=100)
    plt.close(figure)
    assert 350 <= height <= 400  # two rows of 200 pixels, less what the third keeps free above it


def test_a_run_becomes_a_row(evolution: xr.Dataset, tmp_path: Path) -> None:
    nc.save(evolution, tmp_path / "run.nc")
    nc.save(xr.Dataset({"part": 1.0}).assign_attrs(part_of="a run"), tmp_path / "part.nc")
    (path,) = reproduce.collect([tmp_path], tmp_path / "kept")
    assert path.name == "svd-evolution-paper.json"
    found = row(reproduce.table(tmp_path / "kept"), "middle singular value at t = 50")
    assert found[2:8] == ["0.951 [V]", "0.9510", "", "holds", "paper", "0"]
    assert found[8].endswith(" s")


def test_a_number_that_is_not_reproduced_is_violated_on_the_page(evolution: xr.Dataset) -> None:
    wrong = evolution.assign(singular_values=1.02 * evolution["singular_values"])
    text = page([summary(wrong, reproduce.NUMBERS)], reproduce.NUMBERS, ())
    assert row(text, "middle singular value at t = 50")[3:6] == ["0.9700", "", "violated"]
    assert re.search(r"Of \d+ printed numbers: 2 met; 2 not met;", text)
    violated = text.partition("## Claims that a run violates")[2].partition("\n## ")[0]
    assert "| middle singular value at the end | 0.9700 | 0.9500 to 0.9520 |" in violated


def test_claims_are_judged_when_they_are_collected(evolution: xr.Dataset) -> None:
    stale = evolution.assign_attrs(status="violated")
    assert summary(stale, ())["status"] == "holds"


def test_several_networks_have_an_interval_of_their_mean(evolution: xr.Dataset) -> None:
    number = Printed("svd-evolution", "three", "V", "2", values=lambda dataset: [1.0, 2.0, 3.0, np.nan])
    found = summary(evolution, [number])["numbers"]["three"]
    assert (found["mean"], found["networks"], found["verdict"]) == (2.0, 3, "not claimed")
    assert found["high"] == pytest.approx(2 + 4.302653 / 3**0.5, rel=1e-5)  # Student's t with two degrees of freedom


def test_runs_whose_names_are_too_long_keep_files_of_their_own() -> None:
    changes = "--set epochs=30 --set hidden_width=128 --set num_heads=4 --set pretraining_epochs=15 --set width=64"
    runs = [
        {"experiment": "adapters-vision", "scale": "changed", "command": f"experiment adapters-vision {changes} {rate}"}
        for rate in ("", "--set adapter_rate=0.01", "--set adapter_rate=0.02")
    ]
    names = {outcomes.file_name(run) for run in runs}
    assert len(names) == 3
    assert all(len(name) <= outcomes.LONGEST + len("-01234567.json") for name in names)


def test_a_number_of_another_setting_is_not_compared(evolution: xr.Dataset) -> None:
    claim = "middle singular value at the end"
    elsewhere = Printed("svd-evolution", "ρ", "V", "0.951", claim, given={"width": 40})
    assert summary(evolution, [elsewhere])["numbers"]["ρ"]["verdict"] == "another setting"


def test_a_number_of_a_network_that_was_left_out_is_no_number_of_the_run(evolution: xr.Dataset) -> None:
    absent = Printed("svd-evolution", "absent", "V", "1", values=lambda dataset: dataset["loss"].sel(step=99))
    silent = Printed("svd-evolution", "silent", "V", "1", "no claim begins like this")
    assert summary(evolution, [absent, silent])["numbers"] == {}


def test_of_two_runs_the_page_shows_the_printed_setting_and_then_more_networks(evolution: xr.Dataset) -> None:
    number = Printed("svd-evolution", "σ", "V", "2", values=lambda dataset: [1.0])
    runs = [summary(evolution, [number]) for _ in range(3)]
    for run, scale, networks, mean in zip(runs, ("small", "paper", "paper"), (9, 2, 4), (1.0, 2.0, 3.0), strict=True):
        run["scale"] = scale
        run["numbers"]["σ"] |= {"networks": networks, "mean": mean}
    assert row(page(runs, [number], ()), "| σ |")[3] == "3"
    runs[2]["numbers"]["σ"]["verdict"] = "assumptions unmet"
    assert row(page(runs, [number], ()), "| σ |")[3] == "2"


def test_words_of_several_claims_are_refused(evolution: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="'middle' begins 3 claims; name one"):
        summary(evolution, [Printed("svd-evolution", "any", "V", "1", "middle")])


def test_the_command_of_a_run_repeats_it() -> None:
    experiment = find("collapse-scale")
    assert (
        outcomes.command(experiment, vars(experiment.paper)) == "neurocollapse experiment collapse-scale --scale paper"
    )
    changed = {**vars(experiment.small), "init_scales": (0.5, 0.1), "seed": 3}
    assert outcomes.command(experiment, changed).endswith("--set init_scales=0.5,0.1 --set seed=3")


@pytest.mark.parametrize(
    ("scale", "setting", "name"),
    [
        ("paper", {"seed": 0}, "x-paper.json"),
        ("small", {"seed": 7}, "x-small-seed-7.json"),
        ("changed", {"seed": 7}, "x-paper-data-mnist-usps-width-2-5.json"),
    ],
)
def test_runs_of_one_experiment_have_files_of_their_own(scale: str, setting: dict[str, Any], name: str) -> None:
    command = "neurocollapse experiment x --scale paper --set data=mnist,usps --set width=2.5"
    found = {"experiment": "x", "scale": scale, "setting": setting, "command": command}
    assert outcomes.file_name(found) == name


def test_what_has_no_run_is_listed_with_its_reason() -> None:
    text = page([], (), [Skipped("svd-evolution", "d = 10,000", "needs a larger machine", "days")])
    table = text.partition("## Not run")[2]
    assert "| `svd-evolution` | d = 10,000 | needs a larger machine | days |" in table
    for name in EXPERIMENTS:
        assert f"| `{name}` | " in table
    assert "| `movielens` | paper scale | the ratings of MovieLens-100k were not at hand |" in table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (11.25, "11.25"),
        (0.0086, "0.008600"),
        (20350.0, "20,350"),
        (-2.2604, "−2.260"),
        (3.2e-13, "3.20e−13"),
        (12.4e9, "1.24e10"),
        (0.0, "0"),
        (None, "undefined"),
    ],
)
def test_numbers_are_shown_with_four_digits(value: Any, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (59.6, "60 s"), (150.0, "2 min"), (9000.0, "2.5 h"), (None, "not kept")]
)
def test_durations_are_shown_in_the_unit_that_fits(seconds: Any, text: str) -> None:
    assert duration(seconds) == text

"""`neurocollapse experiment`: what it prints, writes and returns, and what it says to typical mistakes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

import neurocollapse as nc
from neurocollapse.cli import main
from neurocollapse.experiments import EXPERIMENTS, catalogue, restored
from tests.experiments import kept

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in an empty folder, without a data root; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEUROCOLLAPSE_DATA", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(["experiment", *arguments])
        printed = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, printed.out, printed.err

    return call


def test_the_list_says_what_each_shows_how_long_it_takes_and_its_source(run: Run) -> None:
    for arguments in (["--list"], []):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        words = " ".join(out.split())
        for name, experiment in EXPERIMENTS.items():
            assert f"{name} {experiment.shows} Takes {experiment.durations[0]}" in words
            assert experiment.source in words


def test_an_experiment_writes_dataset_figure_and_report(run: Run, tmp_path: Path) -> None:
    code, out, err = run("svd-evolution", "--set", "width=20", "--seed", "3", "--report", "page.html")
    assert (code, err) == (0, "")
    assert "Outcome: holds" in out
    dataset = nc.open(tmp_path / "svd-evolution.nc")
    assert dataset.attrs["width"] == 20
    assert dataset.attrs["seed"] == 3
    assert (tmp_path / "svd-evolution.png").read_bytes().startswith(b"\x89PNG")
    assert "Experiment: svd-evolution" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_exit_code_is_the_verdict(run: Run) -> None:
    assert run("svd-nonwhitened", "--set", "num_steps=5", "--set", "num_long_steps=50")[0] == 3


def test_an_experiment_is_reported_on_later(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("svd-evolution", "--output", "kept.nc", "--figure", "kept.svg")
    assert "<svg" in (tmp_path / "kept.svg").read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as exit_:
        main(["report", "kept.nc", "--output", "later.html"])
    assert exit_.value.code == 0
    assert "Experiment: kept" in (tmp_path / "later.html").read_text(encoding="utf-8")


def test_the_setting_can_be_read_before_it_is_run(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("svd-evolution", "--settings", "--set", "init_scale=.5")
    assert code == 0
    assert "init_scale=0.5" in out.splitlines()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["svd-evolutio"], "there is no experiment 'svd-evolutio'; did you mean 'svd-evolution'?"),
        (["svd-evolution", "--set", "widht=3"], "there is no setting 'widht'; did you mean 'width'?"),
        (["svd-evolution", "--set", "width=wide"], "setting 'width' must be an integer, got 'wide'"),
        (["svd-evolution", "--scale", "huge"], "'huge' is not one of 'small', 'paper'"),
        (["svd-evolution", "--output", "nowhere/x.nc"], "there is no such folder; name a folder that exists"),
        (["depth-role", "--set", "data=mnist"], "--data-root"),
        (["svd-evolution", "--set", "num_steps=-1"], "`num_steps` must be at least 0, got -1"),
        (["svd-evolution", "--output", "/proc/x.nc"], "cannot write /proc/x.nc: "),
        (["svd-evolution", "--figure", "x.xyz"], "cannot write x.xyz: the name of a figure must end in .png"),
        (["svd-evolution", "--figure", "x"], "cannot write x: the name of a figure must end in .png"),
        (["svd-evolution", "--output", "x.nc", "--report", "../{}/x.nc"], "two results cannot both be written to"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, out, err = run(*(argument.format(tmp_path.name) for argument in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_ctrl_c_says_that_what_was_kept_is_safe(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(setting: object, workplace: object) -> NoReturn:
        raise KeyboardInterrupt

    broken = dataclasses.replace(EXPERIMENTS["svd-evolution"], run=interrupted)
    monkeypatch.setattr(catalogue, "EXPERIMENTS", {"svd-evolution": broken})
    code, _, err = run("svd-evolution")
    assert code == 130
    assert err == "neurocollapse: interrupted; what --resume FILE has kept is safe\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_and_comes_back_from_its_file(run: Run, tmp_path: Path, name: str) -> None:
    code, out, err = run(name, "--no-progress")
    assert err == ""
    outcome = restored(nc.open(tmp_path / f"{name}.nc"))
    assert out.startswith(str(outcome))
    assert code == {"holds": 0, "violated": 1, "assumptions unmet": 3}[outcome.status]
    assert outcome.status == restored(kept.opened(name)).status
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000

"""`neurocollapse report` on saved results: every result has a section, under a name of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

import neurocollapse as nc
from neurocollapse.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Report on files in an empty folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(["report", *arguments])
        printed = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def measured() -> xr.Dataset:
    """Of a small experiment."""
    return nc.experiment("svd-evolution", num_steps=5, width=8, rank=1, progress=False).to_dataset()


def saved(results: xr.Dataset | xr.DataTree, *paths: str) -> None:
    """Write results to several files."""
    for path in paths:
        Path(path).parent.mkdir(exist_ok=True)
        nc.save(results, path)


def test_files_of_one_name_are_told_apart_by_their_folders(run: Run, measured: xr.Dataset) -> None:
    saved(measured, "a/x.nc", "b/x.nc", "c.nc")
    assert run("a/x.nc", "b/x.nc", "c.nc")[::2] == (0, "")
    page = Path("report.html").read_text(encoding="utf-8")
    for name in ("a/x", "b/x", "c"):
        assert f"Experiment: {name}<" in page


def test_results_in_groups_of_several_files_are_told_apart(run: Run, measured: xr.Dataset) -> None:
    tree = xr.DataTree.from_dict({"one": measured, "two": measured})
    saved(tree, "x.nc", "y.nc")
    assert run("x.nc")[0] == 0
    assert "Experiment: two<" in Path("report.html").read_text(encoding="utf-8")
    assert run("x.nc", "y.nc")[::2] == (0, "")
    page = Path("report.html").read_text(encoding="utf-8")
    for name in ("x/one", "x/two", "y/one", "y/two"):
        assert f"Experiment: {name}<" in page


def test_two_files_are_compared(run: Run) -> None:
    for name, end in (("before", 1.0), ("after", 0.5)):
        saved(xr.Dataset({"compression": ("layer", [2.0, end])}, {"layer": ["fc1", "fc2"]}), f"{name}.nc")
    assert run("before.nc", "after.nc", "--compare")[::2] == (0, "")
    page = Path("report.html").read_text(encoding="utf-8")
    assert "after is more collapsed than before at 1 of 2 layers; at fc2 D of after is 0.500 against 1, 2 times" in page


def test_a_comparison_without_two_results_is_refused(run: Run) -> None:
    saved(xr.Dataset({"compression": ("layer", [2.0, 1.0])}, {"layer": ["fc1", "fc2"]}), "one.nc")
    code, _, err = run("one.nc", "--compare")
    assert code == 2
    assert "`compare=True` needs two networks, or one with several steps, got 1 (one)" in err
    code, _, err = run("--compare")
    assert code == 2
    assert "--compare needs results to compare; name two files, e.g. report A.nc B.nc --compare" in err


def test_a_file_given_twice_is_refused(run: Run, measured: xr.Dataset) -> None:
    saved(measured, "x.nc")
    code, out, err = run("x.nc", "./x.nc")
    assert (code, out) == (2, "")
    assert "one is given twice" in err


def test_a_result_is_not_overwritten_by_its_report(run: Run, measured: xr.Dataset) -> None:
    saved(measured, "x.nc")
    before = Path("x.nc").read_bytes()
    code, out, err = run("x.nc", "--output", "./x.nc")
    assert (code, out) == (2, "")
    assert "x.nc holds results to show; name another file with --output" in err
    assert Path("x.nc").read_bytes() == before


def test_a_file_that_cannot_be_shown_is_named(run: Run, measured: xr.Dataset) -> None:
    saved(measured, "x.nc")
    saved(measured.assign_attrs(setting="[]"), "y.nc")
    code, out, err = run("x.nc", "y.nc")
    assert (code, out) == (2, "")
    assert err.startswith("neurocollapse: y.nc: the dataset does not hold a setting of svd-evolution")


def test_a_run_of_several_epochs_with_a_users_own_number_is_reported(run: Run) -> None:
    own = ("layer", [3.0, 1.0], {"heading": "my norm", "long_name": "norm of the means", "family": "own"})
    one = xr.Dataset({"compression": ("layer", [2.0, 0.5]), "mine": own}, {"layer": ["fc1", "fc2"]})
    saved(xr.concat([one, one], dim="epoch"), "run.nc")
    assert run("run.nc")[::2] == (0, "")
    page = Path("report.html").read_text(encoding="utf-8")
    for said in (">my norm</th>", "<dt>my norm: norm of the means</dt>", "epoch 1, the last of 2"):
        assert said in page

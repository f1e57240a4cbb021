"""The command line in this process: what it prints, writes and returns, and what it says to typical mistakes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import neurocollapse as nc
from neurocollapse import data
from neurocollapse.cli import main

MODEL = """
from torch import nn

def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

def coloured():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

def embedding():
    return nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(40, 3))

def broken():
    raise RuntimeError("no such luck")

def number():
    return 7
"""


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command in an empty folder that holds a module of models."""
    (tmp_path / "cli_models.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def call(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as exit_:
            main(list(arguments))
        printed = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return Outcome(exit_.value.code, printed.out, printed.err)

    return call


def test_analyze_writes_what_the_library_returns(run: Callable[..., Outcome], tmp_path: Path) -> None:
    saved = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    from safetensors.torch import save_file

    save_file(model.state_dict(), saved)
    outcome = run(
        *("analyze", "--model", "cli_models:network", "--data", "digits", "--checkpoint", str(saved)),
        *("--include-input", "--report", "page.html"),
    )
    assert outcome.code == 0
    assert outcome.err == ""
    dataset = nc.open(tmp_path / "analysis.nc")
    expected = nc.analyze(model, data.open("digits").loader(128), include_input=True)
    np.testing.assert_array_equal(dataset["compression"], expected["compression"])
    assert list(dataset["layer"].values) == ["input", "0", "1", "2", "3"]
    assert outcome.out.splitlines()[0].split()[:3] == ["layer", "type", "features"]
    assert str(nc.table(dataset)) in outcome.out
    assert str(tmp_path / "analysis.nc") in outcome.out
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_halt_gives_the_same_numbers_and_refuses_quantities_of_logits(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    common = ("analyze", "--model", "cli_models:network", "--data", "digits", "--layers", "1")
    assert run(*common, "--halt", "--output", "halted.nc").code == 0
    assert run(*common, "--output", "whole.nc").code == 0
    halted, whole = nc.open(tmp_path / "halted.nc"), nc.open(tmp_path / "whole.nc")
    np.testing.assert_array_equal(halted["compression"], whole["compression"])
    refused = run(*common, "--halt", "--quantities", "nc4")
    assert refused.code != 0
    assert "which --halt does not compute" in refused.err


def test_analyze_selects_and_limits(run: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = run(
        *("analyze", "--model", "cli_models:network", "--data", "digits", "--split", "test", "--limit", "100"),
        *("--layers", "linear", "--layers", "!3", "--weighting", "frequency", "--output", "small.nc"),
    )
    assert outcome.code == 0
    dataset = nc.open(tmp_path / "small.nc")
    assert list(dataset["layer"].values) == ["1"]
    assert dataset.attrs["num_samples"] == 100
    assert dataset.attrs["weighting"] == "frequency"


def test_a_limit_takes_the_same_share_of_each_class(run: Callable[..., Outcome], tmp_path: Path) -> None:
    for label in range(3):
        (tmp_path / f"images/class{label}").mkdir(parents=True)
        for number in range(20):
            Image.new("L", (8, 8), 80 * label + number).save(tmp_path / f"images/class{label}/{number:02}.png")
    outcome = run(
        *("analyze", "--model", "cli_models:coloured", "--data", "folder:images", "--limit", "30"),
        *("--layers", "linear", "--output", "small.nc"),
    )
    assert outcome.code == 0
    assert nc.open(tmp_path / "small.nc")["class_count"].values.tolist() == [[10] * 3]


def test_other_data_are_told_from_the_loader(run: Callable[..., Outcome], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "noise.npz", inputs=noise, labels=np.zeros(40, dtype=np.int64))
    common = "analyze", "--model", "cli_models:network", "--data", "digits", "--limit", "60", "--layers", "linear"
    outcome = run(*common, "--ood", "npz:noise.npz", "--output", "ood.nc")
    assert outcome.code == 0
    dataset = nc.open(tmp_path / "ood.nc")
    assert dataset["neco_auroc"].notnull().all()
    assert "NECO AUROC" in outcome.out
    refused = run(*common, "--ood", "npz:nowhere.npz")
    assert refused.code != 0
    assert "there is no file" in refused.err


def test_quantities_are_chosen(run: Callable[..., Outcome], tmp_path: Path) -> None:
    names = "compression, separation,discrimination,decay_ratio,class_count"
    outcome = run(
        *("analyze", "--model", "cli_models:network", "--data", "digits", "--limit", "60", "--layers", "linear"),
        *("--quantities", names),
    )
    assert outcome.code == 0, outcome.err
    dataset = nc.open(tmp_path / "analysis.nc")
    assert {"compression", "class_count"} <= set(dataset)
    assert "separation_etf" not in dataset


def test_token_ids_are_read_for_a_model_that_embeds_them(run: Callable[..., Outcome], tmp_path: Path) -> None:
    np.savez(tmp_path / "tokens.npz", x=np.arange(40).reshape(8, 5) % 10, y=np.arange(8) % 2)
    outcome = run("analyze", "--model", "cli_models:embedding", "--data", "npz:tokens.npz", "--layers", "linear")
    assert outcome.code == 0, outcome.err
    assert nc.open(tmp_path / "analysis.nc").attrs["num_samples"] == 8


def test_analyze_resumes(run: Callable[..., Outcome], tmp_path: Path) -> None:
    arguments = ("analyze", "--model", "cli_models:network", "--data", "digits", "--resume", "part.safetensors")
    first = run(*arguments)
    again = run(*arguments, "--output", "again.nc")
    assert (first.code, again.code) == (0, 0)
    one, two = nc.open(tmp_path / "analysis.nc"), nc.open(tmp_path / "again.nc")
    np.testing.assert_array_equal(one["compression"], two["compression"])


def test_layers_prints_the_table(run: Callable[..., Outcome]) -> None:
    outcome = run("layers", "--model", "cli_models:network", "--data", "digits")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["layer", "type", "shape", "features", "parameters", "calls"]
    assert [line.split()[1] for line in lines[1:]] == ["Flatten", "Linear", "ReLU", "Linear"]


def test_report_shows_saved_results(run: Callable[..., Outcome], tmp_path: Path) -> None:
    run("analyze", "--model", "cli_models:network", "--data", "digits")
    outcome = run("report", "analysis.nc", "--output", "page.html")
    assert outcome.code == 0
    assert str(tmp_path / "page.html") in outcome.out
    assert "analysis" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["analyze", "--help"]])
def test_help_and_version_are_no_errors(run: Callable[..., Outcome], arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert outcome.code == 0
    assert "neurocollapse" in outcome.out
    assert outcome.err == ""


ANALYZE = ["analyze", "--model", "cli_models:network", "--data", "digits"]
MISTAKES = {
    "unknown command": (["analyse"], "Did you mean 'analyze'"),
    "unknown option": (["analyze", "--modle", "x"], "--model"),
    "missing model": (["analyze", "--data", "digits"], "--model"),
    "bad choice": ([*ANALYZE, "--mode", "evil"], "eval"),
    "bad number": ([*ANALYZE, "--batch-size", "many"], "batch-size"),
    "zero batch size": ([*ANALYZE, "--batch-size", "0"], "batch-size"),
    "misspelt factory": (["analyze", "--model", "cli_models:netwrok", "--data", "digits"], "did you mean 'network'"),
    "misspelt module": (["analyze", "--model", "cli_modles:network", "--data", "digits"], "cli_modles"),
    "factory raises": (["analyze", "--model", "cli_models:broken", "--data", "digits"], "no such luck"),
    "factory returns no module": (["analyze", "--model", "cli_models:number", "--data", "digits"], "Module"),
    "misspelt family": (["analyze", "--model", "torchvison:resnet18", "--data", "digits"], "torchvision:NAME"),
    "unknown data": (["analyze", "--model", "cli_models:network", "--data", "digit"], "digits"),
    "missing data": (["analyze", "--model", "cli_models:network", "--data", "mnist:nowhere"], "nowhere"),
    "misspelt layer": ([*ANALYZE, "--layers", "11"], "'11'"),
    "unknown pool": ([*ANALYZE, "--pool", "meen"], "pool"),
    "too few classes": ([*ANALYZE, "--num-classes", "5"], r"pass --num-classes 10"),
    "missing checkpoint": ([*ANALYZE, "--checkpoint", "none.safetensors"], "none.safetensors"),
    "checkpoint is no checkpoint": ([*ANALYZE, "--checkpoint", "cli_models.py"], "cli_models.py"),
    "unknown device": ([*ANALYZE, "--device", "tpu9"], "tpu9"),
    "too little memory": ([*ANALYZE, "--max-memory", "1e-7"], "GiB"),
    "output folder missing": ([*ANALYZE, "--output", "nowhere/a.nc"], "nowhere"),
    "report folder missing": ([*ANALYZE, "--report", "nowhere/a.html"], "nowhere"),
    "resume file is foreign": ([*ANALYZE, "--resume", "cli_models.py"], "cli_models.py"),
    "probe without probes": ([*ANALYZE, "--probe", "mse"], "pass --probes as well"),
    "result missing": (["report", "none.nc"], "none.nc"),
    "result is no result": (["report", "cli_models.py"], "cli_models.py"),
    "factory needs arguments": (["analyze", "--model", "torch.nn:Bilinear", "--data", "digits"], "Bilinear"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    run: Callable[..., Outcome], tmp_path: Path, arguments: list[str], message: str
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    outcome = run(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("neurocollapse: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_model_that_cannot_run_on_the_data_names_the_cause(run: Callable[..., Outcome], tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", inputs=np.zeros((4, 65), np.float32), labels=np.array([0, 1, 0, 1]))
    outcome = run("analyze", "--model", "cli_models:network", "--data", "npz:wide.npz")
    assert outcome.code == 2
    assert "cannot be multiplied" in outcome.err
    assert outcome.err.count("\n") == 1


def test_the_probe_is_chosen(run: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = run(
        *("analyze", "--model", "cli_models:network", "--data", "digits", "--limit", "200", "--layers", "linear"),
        *("--probes", "--probe", "mse"),
    )
    assert outcome.code == 0
    assert nc.open(tmp_path / "analysis.nc").attrs["probe"] == "mse"


def test_the_probe_is_logistic_regression_by_default(run: Callable[..., Outcome], tmp_path: Path) -> None:
    run("analyze", "--model", "cli_models:network", "--data", "digits", "--limit", "60", "--probes")
    assert nc.open(tmp_path / "analysis.nc").attrs["probe"] == "logistic"

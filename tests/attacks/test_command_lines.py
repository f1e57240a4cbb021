"""Command lines put together at random: no traceback, exit code 2 and one line for a mistake."""

import random
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from neurocollapse import experiments
from neurocollapse.cli import main
from neurocollapse.experiments import Experiment

VERDICTS = (0, 1, 2, 3)
"""Exit codes: done or holds, violated, a mistake, assumptions unmet."""
COMMANDS = ("analyze", "layers", "report", "verify", "experiment", "check", "--help", "no-such-command")
OPTIONS = (
    *("--model", "--data", "--layers", "--output", "--limit", "--batch-size", "--pool", "--num-classes", "--device"),
    *("--checkpoint", "--resume", "--quantities", "--weighting", "--set", "--scale", "--seed", "--list", "--report"),
    *(
        "--image-size",
        "--probes",
        "--json",
        "--depth",
        "--split",
        "--data-root",
        "--no-such-option",
        "-x",
        "--",
        "--help",
    ),
)
VALUES = (
    *(
        "",
        "0",
        "-1",
        "1e9",
        "nan",
        "99999999999999999999",
        "x",
        "\x1b[31mred",
        "a\nb",
        "é",
        "\udcff",
        "a" * 5000,
        "[",
        "**",
    ),
    *("torch.nn:Flatten", "torch.nn:Linear", "no.such:thing", "os:getcwd", ":", "hf:", "hf:none", "torchvision:none"),
    *(
        "digits",
        "npz:none.npz",
        "folder:.",
        "mnist:none",
        "npz:notes.txt",
        ".",
        "notes.txt",
        "none/out.nc",
        "a=b",
        "=",
        "x=",
    ),
    *("svd-evolution", "num_steps=two", "no-such-experiment", "mean", "linear", "compression", "cuda:7", "<script>"),
)


def line(source: random.Random) -> list[str]:
    """A command with some options, values and stray words."""
    words = [source.choice(COMMANDS)]
    for _ in range(source.randrange(5)):
        words += [source.choice(OPTIONS)] if source.random() < 0.8 else []
        words += [source.choice(VALUES)] if source.random() < 0.9 else []
    return words


def check(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command line, which may be right after all."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    printed = capsys.readouterr()
    assert ended.value.code in VERDICTS, (words, printed.err)
    assert "Traceback" not in printed.err, (words, printed.err)
    if ended.value.code == 2:
        *_, last = printed.err.splitlines()
        assert re.fullmatch(r"neurocollapse: [^\x00-\x1f\x7f]{5,300}", last), (words, last)
        others = [one for one in printed.err.splitlines()[:-1] if not one.startswith("neurocollapse: warning: ")]
        assert others == [], (words, last)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work where there is one file of text, with no figure of another test open: matplotlib warns above twenty."""
    plt.close("all")
    (tmp_path / "notes.txt").write_text("no data\n")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _with_short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for a few steps where a line is right after all: what training gives is tested elsewhere."""
    setting = Experiment.setting
    monkeypatch.setattr(Experiment, "setting", lambda self, scale: replace(setting(self, scale), num_steps=10))
    theorem = partial(experiments.progressive_theorem, experiments.ProgressiveTheorem(num_steps=10))
    monkeypatch.setattr(experiments, "progressive_theorem", theorem)
    monkeypatch.setattr(experiments, "first_look", partial(experiments.first_look, epochs=1))


def test_a_few_random_command_lines_end_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    source = random.Random(0)
    for _ in range(25):
        check(line(source), capsys)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(5))
def test_many_random_command_lines_end_in_one_line(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    source = random.Random(1 + seed)
    for _ in range(100):
        check(line(source), capsys)

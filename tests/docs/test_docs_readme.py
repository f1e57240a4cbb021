"""The README: its code runs, its ratios are those of the benchmarks, and what it counts is right."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLE = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
RATIO = re.compile(r"^\| ([^|]+) \| (\d\.\d{3}) \|$", re.MULTILINE)
NUMBERS = {14: "Fourteen", 15: "Fifteen", 16: "Sixteen"}


@pytest.mark.filterwarnings("ignore")  # few samples on purpose
def test_the_code_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Sequential(nn.Linear(8, 8), nn.ReLU())]
    labels = torch.arange(90) % 3
    images = 2 * torch.eye(3, 4)[labels] + torch.randn(90, 4)
    names = {"model": nn.Sequential(*blocks, nn.Linear(8, 3)), "images": images, "loader": [(images, labels)]}
    (code,) = EXAMPLE.findall(README)
    exec(code, names)
    plt.close("all")
    assert (tmp_path / "report.html").stat().st_size
    assert len([line for line in code.splitlines() if line]) == 10


def test_the_ratios_are_those_of_the_benchmarks() -> None:
    measured = (ROOT / "docs" / "benchmarks.md").read_text().splitlines()
    rows = RATIO.findall(README)
    assert len(rows) >= 5
    for case, ratio in rows:
        (*_, latest) = [line for line in measured if line.startswith(f"| {case} |")]
        assert re.search(rf"\| {re.escape(ratio)}\b", latest), case


def test_every_notebook_is_named_and_counted() -> None:
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert all(f"(notebooks/{path.name})" in README for path in notebooks)
    assert f"{NUMBERS[len(notebooks)]} notebooks" in README


def test_the_answers_are_counted() -> None:
    assert f"answers {(ROOT / 'docs' / 'stories.md').read_text().count('### … ')} more questions" in README

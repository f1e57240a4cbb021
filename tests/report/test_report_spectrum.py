"""Ranks of the covariance in the report: one figure for all, and one each for what is no rank."""

from pathlib import Path

import torch

import neurocollapse as nc
from neurocollapse.report.curves import layer_pictures


def test_the_ranks_have_a_figure_together(tmp_path: Path) -> None:
    labels = torch.arange(60) % 3
    inputs = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(3, 5)[labels]
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Tanh())
    dataset = nc.analyze(model, [(inputs, labels)], quantities=["compression", "spectrum"], covariance=True)
    titles = [one.title for one in layer_pictures({"net": dataset})]
    assert titles.count("How many directions the covariance uses") == 1
    assert "Spectral decay by layer" in titles
    assert not any(title.startswith(("Stable rank", "Participation ratio", "Effective rank")) for title in titles)
    nc.report({"net": dataset}, tmp_path / "report.html")
    assert "participation ratio, corrected" in (tmp_path / "report.html").read_text(encoding="utf-8")
    alone = nc.analyze(model, [(inputs, labels)], quantities=["compression", "stable_rank"], covariance=True)
    assert "Stable rank by layer" in [one.title for one in layer_pictures({"net": alone})]

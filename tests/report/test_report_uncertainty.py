"""Intervals over samples in tables, figures and the report; nothing of them where none were measured."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import neurocollapse as nc
from neurocollapse.report.summary import sentences


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    """A small network with intervals."""
    labels = torch.arange(120) % 3
    inputs = torch.randn(120, 6, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(3, 6)[labels]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return nc.analyze(model, [(inputs, labels)], uncertainty=True)


def test_tables_have_a_column_for_each_interval(dataset: xr.Dataset) -> None:
    table = nc.table(dataset)
    column = next(one for one in table.columns if one.heading == "D, 95 %")
    low, high = dataset["compression_interval"].values[1]
    assert column.cells[1] == f"{low:.3g} to {high:.3g}"
    ratios = next(one for one in table.columns if one.heading == "D / D before, 95 %")
    assert ratios.cells[0] == "–"  # the first layer has no ratio
    assert any(name.startswith("slope of log D, 95 %") and " to " in value for name, value in table.totals)


def test_the_report_explains_the_intervals_in_two_sentences(dataset: xr.Dataset, tmp_path: Path) -> None:
    said = [text for text in sentences(dataset) if "interval" in text]
    low, high = dataset["compression_interval"].values[-1]
    assert said[1].startswith(
        f"Without the bias of few samples D is {low:.3g} to {high:.3g} at 2, and its factor per layer "
    )
    assert said[2] == "These intervals speak of samples, not of other networks or of how well a line fits the layers."
    nc.report({"net": dataset}, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "D, 95 %" in text
    assert "95 % intervals over draws of the samples" in text


def test_undefined_intervals_are_said_and_absent_ones_are_not_mentioned(dataset: xr.Dataset) -> None:
    nothing = dataset.assign(compression_interval=dataset["compression_interval"] * np.nan)
    assert any(text.startswith("D has no interval over samples") for text in sentences(nothing))
    plain = dataset.drop_vars([name for name in dataset.data_vars if "interval" in str(name)])
    assert not any("over draws" in text or "no interval" in text for text in sentences(plain))
    assert not any("95 %" in one.heading for one in nc.table(plain).columns)


def test_figures_draw_the_intervals_of_the_ratios_and_name_that_of_the_slope(dataset: xr.Dataset) -> None:
    ax = nc.plot.decay(dataset, ax=nc.plot.offscreen_axes())
    heights = [path.vertices[:, 1] for one in ax.collections for path in one.get_paths()]
    expected = dataset["decay_ratio_interval"].values[1:]
    np.testing.assert_allclose(np.sort(np.array(heights), axis=1), expected)
    words = [text.get_text() for text in nc.plot.compression(dataset, ax=nc.plot.offscreen_axes()).get_legend().texts]
    assert any("samples’ 95" in one for one in words)
    plain = dataset.drop_vars("decay_slope_interval")
    words = [text.get_text() for text in nc.plot.compression(plain, ax=nc.plot.offscreen_axes()).get_legend().texts]
    assert any("line’s 95" in one for one in words)

"""Layers against layers: every cell at its place, and a report with the heat maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import neurocollapse as nc
from neurocollapse import plots


@pytest.fixture
def pairs() -> xr.Dataset:
    """Two rows, three columns."""
    values = np.array([[1.0, 0.5, -0.1], [0.5, np.nan, 0.2]])
    words = {"long_name": "centred kernel alignment", "units": "1"}
    return xr.Dataset(
        {"cka": (("layer", "layer_"), values, words)}, {"layer": ["a", "b"], "layer_": ["first", "second", "third"]}
    )


def test_rows_go_upwards_and_columns_to_the_right(pairs: xr.Dataset) -> None:
    ax = plots.similarity(pairs)
    (mesh,) = ax.collections
    np.testing.assert_array_equal(mesh.get_array().filled(np.nan), pairs["cka"].values)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["first", "second", "third"]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-0.1, 1.0)
    np.testing.assert_array_equal(
        plots.similarity(pairs.transpose("layer_", "layer")).collections[0].get_array(), mesh.get_array()
    )


def test_what_is_no_matrix_of_layers_is_refused(pairs: xr.Dataset) -> None:
    with pytest.raises(TypeError, match=r"must be an xarray\.Dataset, got dict"):
        plots.similarity({"a": pairs})
    with pytest.raises(ValueError, match="has no 'class_cka' along layer, layer_"):
        plots.similarity(pairs, "class_cka")


def test_a_report_shows_the_heat_maps(tmp_path: Path) -> None:
    labels = torch.arange(24) % 3
    batch = torch.randn(24, 5, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(3, 5)[labels], labels
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
    dataset = nc.analyze(model, [batch]).merge(nc.similarity(model, [batch]), compat="override")
    nc.report({"net": dataset}, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Which layers are alike" in text
    assert "Whose class means are alike" in text

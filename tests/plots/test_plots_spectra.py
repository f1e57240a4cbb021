"""Spectra, and figures of several panels drawn in the caller's Axes."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr

from neurocollapse import plots


def test_every_spectrum_is_a_descending_line() -> None:
    weights = {"fc1": torch.tensor([0.5, 2.0, 1.0]), "fc2": np.array([3.0, 0.0])}
    ax = plots.spectra(weights, ax=plots.offscreen_axes())
    assert [list(line.get_ydata()) for line in ax.lines] == [[2.0, 1.0, 0.5], [3.0, 0.0]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["fc1", "fc2"]


def test_relative_spectra_start_at_one() -> None:
    ax = plots.spectra({"a": [4.0, 2.0]}, relative=True, ax=plots.offscreen_axes())
    assert list(ax.lines[0].get_ydata()) == [1.0, 0.5]
    assert ax.get_ylabel() == "value / largest value"


@pytest.mark.parametrize(("smallest", "scale"), [(1.0, "linear"), (1e-3, "log")])
def test_the_axis_is_logarithmic_where_values_lie_far_apart(smallest: float, scale: str) -> None:
    assert plots.spectra({"a": [2.0, smallest]}, ax=plots.offscreen_axes()).get_yscale() == scale


@pytest.mark.parametrize(
    ("values", "scales"),
    [({"a": [1.0, 0.9], "b": [1000.0, 900.0]}, ("log", "linear")), ({"a": [1e3, 1.0]}, ("log", "log"))],
)
def test_the_axis_follows_the_values_that_are_shown(values: dict[str, list[float]], scales: tuple[str, str]) -> None:
    drawn = [plots.spectra(values, relative=relative, ax=plots.offscreen_axes()) for relative in (False, True)]
    assert tuple(ax.get_yscale() for ax in drawn) == scales


def test_names_that_begin_with_an_underscore_stand_in_the_legend() -> None:
    ax = plots.spectra({"_orig_mod.fc1": [3.0, 1.0], "fc2": [2.0, 0.5]}, ax=plots.offscreen_axes())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["_orig_mod.fc1", "fc2"]


def test_many_spectra_are_all_drawn_and_told_by_the_colours_of_a_ramp() -> None:
    ax = plots.spectra({f"fc{index}": [3.0, 1.0] for index in range(15)}, ax=plots.offscreen_axes())
    assert len({line.get_color() for line in ax.lines}) == 15
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["fc0 to fc14, 15 spectra"]


def test_the_legend_of_spectra_hides_none() -> None:
    ax = plots.spectra({f"a long name of layer {index}": [3.0, 2.0, 1.0] for index in range(8)})
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1


def test_rows_of_a_data_array_are_named_and_lose_their_padding() -> None:
    array = xr.DataArray([[2.0, 1.0], [3.0, np.nan]], dims=("step", "component"), coords={"step": [0, 50]})
    ax = plots.spectra(array, ax=plots.offscreen_axes())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["step 0", "step 50"]
    assert list(ax.lines[1].get_ydata()) == [3.0]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({}, ValueError, "at least one"),
        ({"a": [[1.0]]}, ValueError, r"shape \(components,\)"),
        ({"a": [-1.0]}, ValueError, "not negative"),
        ({"a": [np.inf]}, ValueError, "finite"),
        ([1.0], TypeError, "mapping"),
        (xr.DataArray([1.0], dims="component"), ValueError, "component and one other"),
    ],
)
def test_bad_spectra_are_named(values: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plots.spectra(values)
    assert plt.get_fignums() == []


def test_layers_draws_in_four_given_axes(make_analysis) -> None:
    figure, grid = plt.subplots(2, 2)
    assert plots.layers(make_analysis(), ax=grid) is figure
    assert all(panel.lines for panel in grid.flat)
    with pytest.raises(ValueError, match="must hold 4 Axes"):
        plots.layers(make_analysis(), ax=grid[0])
    plt.close(figure)


def test_features_draw_in_given_axes() -> None:
    figure, grid = plt.subplots(1, 2)
    samples = np.random.default_rng(0).normal(size=(12, 3))
    assert plots.features({"a": samples, "b": samples}, np.arange(12) % 2, ax=grid) is figure
    assert [panel.get_title().split(",")[0] for panel in grid] == ["a", "b"]
    with pytest.raises(TypeError, match="must be a matplotlib Axes"):
        plots.features({"a": samples}, np.arange(12) % 2, ax="here")
    plt.close(figure)

"""Heat maps over training: every cell at its place and of its value, whatever the steps and the scale."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import LogNorm

from neurocollapse import plots


@pytest.fixture
def run(make_analysis) -> xr.Dataset:
    """Four steps, unevenly spaced."""
    steps = [make_analysis([4.0, 2.0, 1.0 / step], seed=step) for step in (1, 2, 4, 50)]
    return xr.concat(steps, pd.Index([0, 1, 10, 100], name="step"), combine_attrs="drop_conflicts", data_vars="all")


def mesh(ax: plt.Axes):
    (found,) = ax.collections
    return found


def test_rows_are_layers_and_columns_are_steps(run: xr.Dataset) -> None:
    ax = plots.evolution(run)
    np.testing.assert_array_equal(mesh(ax).get_array().filled(np.nan), run["compression"].values.T)
    corners = mesh(ax).get_coordinates()
    assert corners[0, :, 0].tolist() == [-0.5, 0.5, 5.5, 55.0, 145.0]
    assert corners[:, 0, 1].tolist() == [-0.5, 0.5, 1.5, 2.5]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["layers.0", "layers.1", "layers.2"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "layer")


def test_steps_in_any_order_are_drawn_in_theirs(run: xr.Dataset) -> None:
    mixed = mesh(plots.evolution(run.isel(step=[2, 0, 3, 1])))
    np.testing.assert_array_equal(mixed.get_array(), mesh(plots.evolution(run)).get_array())


def test_numbers_beside_logarithmic_colours_are_plain(run: xr.Dataset) -> None:
    ax = plots.evolution(run.isel(step=slice(3)))
    bar = ax.figure.axes[-1]
    ax.figure.canvas.draw()
    assert {"0.5", "1", "2"} <= {text.get_text() for text in bar.get_yticklabels()}
    assert not any(text.get_text() for text in bar.get_yticklabels(minor=True))


def test_colours_are_logarithmic_where_small_values_matter(run: xr.Dataset) -> None:
    norm = mesh(plots.evolution(run)).norm
    assert isinstance(norm, LogNorm)
    assert (norm.vmin, norm.vmax) == (0.02, 4.0)
    assert not isinstance(mesh(plots.evolution(run, "separation")).norm, LogNorm)


def test_what_is_undefined_or_has_no_place_is_left_grey(run: xr.Dataset) -> None:
    holed = run.copy(deep=True)
    holed["compression"][0, 0], holed["compression"][1, 1], holed["compression"][2, 2] = np.nan, 0.0, np.inf
    mask = np.ma.getmaskarray(mesh(plots.evolution(holed)).get_array())
    assert np.argwhere(mask).tolist() == [[0, 0], [1, 1], [2, 2]]
    nothing = run.assign(compression=run["compression"] * np.nan)
    assert np.ma.getmaskarray(mesh(plots.evolution(nothing)).get_array()).all()


def test_depth_is_relative_on_request(run: xr.Dataset) -> None:
    ax = plots.evolution(run, relative=True)
    assert mesh(ax).get_coordinates()[:, 0, 1].tolist() == [-0.25, 0.25, 0.75, 1.25]
    assert ax.get_ylabel() == "relative depth"


@pytest.mark.parametrize("count", [1, 200])
def test_one_step_of_one_layer_and_many_of_many_are_drawn(make_analysis, count: int) -> None:
    one = make_analysis(list(np.geomspace(1.0, 0.01, count)), names=[f"a.{index}" for index in range(count)])
    many = xr.concat([one] * count, pd.Index(range(count), name="step"), data_vars="all")
    drawn = mesh(plots.evolution(many))
    assert drawn.get_array().size == count**2
    assert bool(drawn.get_rasterized()) == (count > 1)


def test_named_steps_stand_side_by_side(run: xr.Dataset) -> None:
    ax = plots.evolution(run.assign_coords(step=["a", "b", "c", "d"]))
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "b", "c", "d"]


def test_the_callers_axes_are_used_and_nothing_stays_open_after_an_error(run: xr.Dataset, make_analysis) -> None:
    figure, ax = plt.subplots()
    assert plots.evolution(run, ax=ax) is ax
    plt.close(figure)
    with pytest.raises(ValueError, match="shows one network, got 2"):
        plots.evolution({"a": run, "b": run})
    with pytest.raises(ValueError, match="no dimension in front of its layers"):
        plots.evolution(make_analysis())
    with pytest.raises(ValueError, match="no variable 'compresion'"):
        plots.evolution(run, "compresion")
    assert not plt.get_fignums()

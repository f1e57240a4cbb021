"""Landscapes of spectra over training, and angles."""

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.colors import to_rgba_array
from mpl_toolkits.mplot3d import Axes3D

from neurocollapse import plots
from neurocollapse.dynamics import WeightTracker
from neurocollapse.plots.style import BLUE, GREY, ORANGE


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No figure outlives its test."""
    yield
    plt.close("all")


@pytest.fixture
def tracked() -> xr.Dataset:
    """A large and a small layer over six steps."""
    tracker, generator = WeightTracker(edge=2), torch.Generator().manual_seed(0)
    for step in range(6):
        tracker.record(step, [torch.randn(9, 9, generator=generator), torch.randn(4, 9, generator=generator)])
    return tracker.to_dataset()


def test_every_component_is_a_curve_in_the_colour_of_its_place(tracked: xr.Dataset) -> None:
    ax = plots.trajectory(tracked)
    curves = [line for line in ax.lines if len(set(line.get_data_3d()[1])) == 6]
    assert [line.get_color() for line in curves] == [ORANGE] * 2 + [GREY] * 5 + [BLUE] * 2
    drawn = np.array([line.get_data_3d()[2] for line in reversed(curves)])
    np.testing.assert_array_equal(drawn.T, tracked["singular_values"].isel(layer=0))


def test_a_small_layer_has_fewer_curves(tracked: xr.Dataset) -> None:
    ax = plots.trajectory(tracked, layer="W_2")
    assert sum(len(set(line.get_data_3d()[1])) == 6 for line in ax.lines) == 4


@pytest.mark.parametrize(
    ("size", "options", "colours"),
    [
        (300, {}, [GREY] * 30 + [BLUE]),  # a sketch knows no trailing value, and draws at most 30 between
        (25, {"components": 4, "edge": 2}, [GREY] * 2 + [BLUE] * 2),
        (25, {"components": 2, "edge": 3}, [BLUE] * 2),
        (5, {"edge": 3}, [ORANGE] * 2 + [GREY] + [BLUE] * 2),
        (1, {"edge": 3}, [GREY]),
    ],
)
def test_colours_tell_what_the_tracker_followed(size: int, options: dict[str, int], colours: list[str]) -> None:
    tracker, generator = WeightTracker(reference=None, **options), torch.Generator().manual_seed(0)  # type: ignore[arg-type]
    for step in range(2):
        tracker.record(step, [torch.randn(size, size, generator=generator)])
    ax = plots.trajectory(tracker.to_dataset())
    assert [line.get_color() for line in ax.lines if len(set(line.get_data_3d()[1])) == 2] == colours


def test_a_dataset_without_steps_is_refused_in_one_line(tracked: xr.Dataset) -> None:
    for draw in (plots.trajectory, plots.angles):
        with pytest.raises(ValueError, match="`dataset` has no step to draw; record some first"):
            draw(tracked.isel(step=slice(0)))
    assert not plt.get_fignums()


def test_the_drift_is_drawn_into_given_axes(tracked: xr.Dataset) -> None:
    ax = plt.figure().add_subplot(projection="3d")
    assert plots.trajectory(tracked, layer=-1, quantity="drift_singular_values", ax=ax) is ax
    assert isinstance(ax, Axes3D)


def test_angles_are_one_curve_a_vector_and_one_for_the_middle(tracked: xr.Dataset) -> None:
    ax = plots.angles(tracked, layer="W_1", side="left")
    assert len(ax.lines) == 5
    here = tracked["top_angle"].sel(layer="W_1", side="left")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), here.isel(edge=0))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [label.split()[0] for label in labels] == ["leading", "trailing", "those"]


def test_vectors_that_turn_like_the_middle_are_in_front_of_its_curve(tracked: xr.Dataset) -> None:
    same = {name: tracked["middle_angle"].broadcast_like(tracked[name]) for name in ("top_angle", "bottom_angle")}
    ax = plots.angles(tracked.assign(same))
    ax.get_legend().remove()
    ax.figure.canvas.draw()
    seen = {tuple(pixel) for pixel in np.asarray(ax.figure.canvas.buffer_rgba()).reshape(-1, 4).tolist()}  # type: ignore[attr-defined]
    assert {tuple(int(part) for part in to_rgba_array(ink)[0] * 255) for ink in (BLUE, ORANGE)} <= seen


def test_a_layer_without_a_middle_has_no_curve_for_it(tracked: xr.Dataset) -> None:
    assert len(plots.angles(tracked, layer="W_2").lines) == 4


def test_bad_choices_are_refused_in_one_line(tracked: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"'W_l' is not in the dataset; did you mean 'W_[12]' or 'W_[12]'\?"):
        plots.trajectory(tracked, layer="W_l")
    with pytest.raises(ValueError, match=r"\[0, 2\), got 5"):
        plots.angles(tracked, layer=5)
    with pytest.raises(ValueError, match="`side` must be one of 'left', 'right', got 'top'"):
        plots.angles(tracked, side="top")
    with pytest.raises(TypeError, match="projection='3d'"):
        plots.trajectory(tracked, ax=plt.subplots()[1])
    with pytest.raises(ValueError, match="no variable"):
        plots.trajectory(tracked, quantity="singular_value")
    assert len(plt.get_fignums()) == 1


def test_settings_stay_as_they_were(tracked: xr.Dataset) -> None:
    before = dict(plt.rcParams)
    plots.trajectory(tracked)
    plots.angles(tracked)
    assert dict(plt.rcParams) == before


@pytest.mark.parametrize("given", [None, "run.nc", [], {}, xr.DataArray([1.0])], ids=lambda given: type(given).__name__)
@pytest.mark.parametrize("figure", [plots.trajectory, plots.angles], ids=["trajectory", "angles"])
def test_what_is_no_dataset_is_refused_by_name(figure: Any, given: Any) -> None:
    with pytest.raises(TypeError, match=rf"`dataset` must be an xarray.Dataset, got {type(given).__name__}"):
        figure(given)

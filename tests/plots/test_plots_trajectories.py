"""Every layer over training, and several runs as a band between their extremes around their median."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.collections import PolyCollection

import neurocollapse as nc
from neurocollapse import plots


@pytest.fixture
def make_run(make_analysis):
    """A run in which every D falls, times a factor of its own, at steps of its own."""

    def make(factor: float = 1.0, steps: tuple[int, ...] = (0, 1, 10, 100)) -> xr.Dataset:
        parts = [make_analysis([factor * value / (1 + step) for value in (4.0, 2.0, 1.0)]) for step in steps]
        return xr.concat(parts, pd.Index(steps, name="step"), combine_attrs="drop_conflicts", data_vars="all")

    return make


def joined(*runs: xr.Dataset) -> xr.Dataset:
    names = pd.Index([f"seed {index}" for index in range(len(runs))], name="run")
    return xr.concat(runs, names, join="outer", combine_attrs="drop_conflicts", data_vars="all")


def lines(ax: plt.Axes) -> np.ndarray:
    return np.array([line.get_ydata() for line in ax.lines])


def test_each_layer_is_a_curve_from_light_to_dark(make_run) -> None:
    run = make_run()
    ax = plots.trajectories(run)
    np.testing.assert_array_equal(lines(ax), run["compression"].values.T)
    assert [line.get_xdata().tolist() for line in ax.lines] == [[0, 1, 10, 100]] * 3
    shades = [sum(plt.matplotlib.colors.to_rgb(line.get_color())) for line in ax.lines]
    assert shades == sorted(shades, reverse=True)
    assert ax.get_yscale() == "log"
    assert not ax.collections
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["layers.0", "layers.1", "layers.2"]


def test_several_runs_are_a_band_around_their_median(make_run) -> None:
    runs = [make_run(factor) for factor in (1.0, 5.0, 2.0)]
    for dataset in (joined(*runs), dict(zip("abc", runs, strict=True))):
        ax = plots.trajectories(dataset)
        np.testing.assert_allclose(lines(ax), 2 * runs[0]["compression"].values.T, rtol=1e-15)
        bands = [one for one in ax.collections if isinstance(one, PolyCollection)]
        for band, of_layer in zip(bands, runs[0]["compression"].values.T, strict=True):
            heights = band.get_paths()[0].vertices[:, 1]
            assert (heights.min(), heights.max()) == (of_layer.min(), 5 * of_layer.max())
        assert "lowest to highest of 3 runs" in ax.get_legend().get_texts()[-1].get_text()


def test_runs_of_other_steps_are_joined_and_each_step_has_those_that_reach_it(make_run) -> None:
    short, long = make_run(1.0, (0, 10)), make_run(3.0, (0, 5, 10, 20))
    ax = plots.trajectories(joined(short, long))
    assert ax.lines[0].get_xdata().tolist() == [0, 5, 10, 20]
    expected = [(1 + 3) / 2 * 4.0, 3 * 4.0 / 6, (1 + 3) / 2 * 4.0 / 11, 3 * 4.0 / 21]
    np.testing.assert_allclose(lines(ax)[0], expected, rtol=1e-15)
    assert [plots.evolution(one).lines for one in (short, long)]


def test_layers_can_be_chosen_and_many_are_one_entry(make_run, make_analysis) -> None:
    ax = plots.trajectories(make_run(), layers=["layers.2", "layers.0"])
    np.testing.assert_array_equal(lines(ax), make_run()["compression"].values.T[[0, 2]])
    many = make_analysis(list(np.geomspace(1.0, 0.01, 30)), names=[f"a.{index}" for index in range(30)])
    deep = xr.concat([many, many], pd.Index([0, 1], name="step"), data_vars="all")
    ax = plots.trajectories(deep)
    assert len(ax.lines) == 12
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a.0 to a.29, 12 layers"]


def test_mistakes_are_one_line(make_run, make_analysis) -> None:
    with pytest.raises(ValueError, match="no dimension with several steps"):
        plots.trajectories(make_analysis())
    with pytest.raises(ValueError, match=r"no layer 'layers\.9'; did you mean"):
        plots.trajectories(make_run(), layers=["layers.9"])
    with pytest.raises(ValueError, match="runs have different layers"):
        plots.trajectories({"a": make_run(), "b": make_run().isel(layer=[0, 1])})
    named = [make_run().assign_coords(step=list(letters)) for letters in ("abcd", "abce")]
    with pytest.raises(ValueError, match="runs have different steps, which have no numbers"):
        plots.trajectories(dict(zip("ab", named, strict=True)))
    assert not plt.get_fignums()


def test_everything_takes_runs_over_steps(make_run, tmp_path) -> None:
    runs = joined(make_run(1.0, (0, 10)), make_run(3.0, (0, 5, 10, 20)))
    assert [one.sizes["step"] for one in nc.support.dataset.networks(runs).values()] == [2, 4]
    legend = plots.compression(runs).get_legend().get_texts()
    assert [text.get_text().split(";")[0] for text in legend[:2]] == ["seed 0, step 10", "seed 1, step 20"]
    assert plots.quantities(runs, "compression", over="step").lines[0].get_xdata().tolist() == [0, 10]
    assert nc.table(runs).keys[0].cells == ("seed 0",) * 3 + ("seed 1",) * 3
    found = nc.check(runs, "compression@layers.2 < 0.1")
    assert [one.where for one in found.findings] == ["seed 0, step 10, layers.2"]
    nc.save(runs, tmp_path / "runs.nc")
    page = nc.report(nc.open(tmp_path / "runs.nc"), tmp_path / "runs.html").read_text(encoding="utf-8")
    assert "Compression D of every layer, 2 runs" in page
    assert "Compression D of every layer of" not in page

"""A leading dimension of any name: its steps are curves of one network, its models are networks of their own."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import to_rgb

from neurocollapse import plots

PANELS = [plots.compression, plots.separation, plots.decay, plots.class_spread, plots.probes, plots.ranks]
PROBED = ("probe_accuracy_train", "probe_accuracy_test", "ncm_accuracy_train", "ncm_accuracy_test")
RANKS = ("numerical_rank", "effective_rank")
every_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.__name__)


@pytest.fixture
def make_run(make_analysis):
    """A factory of joined analyses, one per label, in which D falls from step to step."""

    def make(dim: object, labels: list | None = None, count: int = 3) -> xr.Dataset:
        steps = []
        for step in range(len(labels) if labels is not None else count):
            one = make_analysis([4.0, 2.0 / (step + 1), 0.5 / (step + 1)], seed=step, warnings=f"step {step}")
            one = one.assign({name: ("layer", [0.5, 0.7, 0.9]) for name in PROBED})
            steps.append(one.assign({name: ("layer", [30.0, 20.0, 10.0]) for name in RANKS}))
        joined = xr.concat(steps, dim=dim, combine_attrs="drop_conflicts")
        return joined if labels is None or isinstance(dim, pd.Index) else joined.assign_coords({dim: labels})

    return make


def legend(ax: plt.Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def lightness(colour: object) -> float:
    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


@every_panel
@pytest.mark.parametrize(
    ("dim", "labels"),
    [
        ("epoch", [0, 10, 20]),
        ("step", None),
        ("checkpoint", ["start", "middle", "end"]),
        ("learning rate", [0.1, 0.2, 0.4]),
        (pd.Index([1, 2, 5], name="epoch"), [1, 2, 5]),
    ],
    ids=str,
)
def test_every_step_is_a_curve(make_run, panel, dim, labels):
    run = make_run(dim, labels)
    ax = panel(run)
    ax.figure.canvas.draw()
    inks = dict.fromkeys(line.get_color() for line in ax.lines if len(line.get_xdata()) == 3)
    assert len(inks) == 3
    assert sorted(inks, key=lightness, reverse=True) == list(inks)  # from light to dark
    first, last = (labels or [0, 1, 2])[0], (labels or [0, 1, 2])[-1]
    assert legend(ax)[0] == f"{getattr(dim, 'name', dim)} {first} to {last}, 3 curves"


def test_steps_hold_their_own_values(make_run):
    run = make_run("epoch", [0, 10, 20])
    lines = [line for line in plots.compression(run, fit=False).lines if len(line.get_xdata()) == 3]
    np.testing.assert_array_equal([line.get_ydata() for line in lines], run["compression"])


def test_only_the_last_step_has_its_fitted_line(make_run):
    run = make_run("epoch", [0, 10, 20])
    ax = plots.compression(run)
    (fitted,) = (line for line in ax.lines if len(line.get_xdata()) == 2)
    slope = np.diff(np.log(fitted.get_ydata()))[0] / 2
    assert slope == pytest.approx(float(run["decay_slope"][-1]), rel=1e-12)  # rounding of exp and log
    assert "fit: slope" in legend(ax)[1]
    assert "epoch 20" in legend(ax)[1].replace("\n", " ")


def test_numbered_steps_come_in_their_order(make_run):
    shuffled = make_run("epoch", [20, 0, 10])
    lines = [line for line in plots.compression(shuffled, fit=False).lines if len(line.get_xdata()) == 3]
    np.testing.assert_array_equal([line.get_ydata() for line in lines], shuffled["compression"].sortby("epoch"))


@pytest.mark.parametrize("dim", ["model", "run", "network"])
def test_models_are_networks_of_their_own(make_run, dim):
    run = make_run(dim, ["MLP", "hybrid", "CNN"])
    ax = plots.compression(run, fit=False)
    assert legend(ax) == ["MLP", "hybrid", "CNN"]
    named = plots.compression({name: run.sel({dim: name}) for name in ("MLP", "hybrid", "CNN")}, fit=False)
    assert [line.get_color() for line in ax.lines] == [line.get_color() for line in named.lines]


def test_runs_without_names_are_counted(make_run):
    assert legend(plots.compression(make_run("run"), fit=False)) == ["run 0", "run 1", "run 2"]


def test_several_networks_are_compared_at_their_last_steps(make_run):
    run = make_run("epoch", [0, 10, 20])
    ax = plots.compression({"a": run, "b": run.isel(epoch=slice(2))}, fit=False)
    assert legend(ax) == ["a, epoch 20", "b, epoch 10"]
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), run["compression"].isel(epoch=1))


@every_panel
@pytest.mark.parametrize(
    "chosen",
    [
        {"epoch": 1},
        {"epoch": [1]},
        {"layer": -1},
        {"layer": [0, 2]},
        {"layer": 1, "epoch": 0},
        {"layer": slice(1, None), "epoch": slice(1)},
    ],
    ids=str,
)
@pytest.mark.parametrize("drop", [False, True])
def test_what_is_cut_out_is_drawn(make_run, panel, chosen, drop):
    panel(make_run("epoch", [0, 10, 20]).isel(chosen, drop=drop)).figure.canvas.draw()


def test_one_layer_keeps_its_name(make_run):
    ax = plots.compression(make_run("epoch", [0, 10, 20]).isel(layer=1))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["layers.1"]


def test_the_overview_and_spectra_take_steps(make_run):
    assert len(plots.layers(make_run("epoch", [0, 10, 20])).axes) == 4
    rows = xr.DataArray(np.ones((3, 2)), dims=("epoch", "component"), coords={"epoch": [0, 1, 2]})
    inks = [line.get_color() for line in plots.spectra(rows).lines]
    assert sorted(set(inks), key=lightness, reverse=True) == inks


def test_layers_that_not_every_step_has_leave_gaps(make_analysis):
    long, short = make_analysis([4.0, 2.0, 1.0]), make_analysis([4.0, 2.0])
    joined = xr.concat(
        [short, long], dim=pd.Index([0, 1], name="epoch"), join="outer", coords="different", compat="equals"
    )
    plots.compression(joined).figure.canvas.draw()


def test_a_symbol_that_cannot_be_set_is_left_out_of_the_label(make_analysis):
    dataset = make_analysis()
    dataset["compression"].attrs["symbol"] = r"\nosuchcommand{"
    ax = plots.compression(dataset)
    ax.figure.canvas.draw()
    assert ax.get_ylabel() == "compression"

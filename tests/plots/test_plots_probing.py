"""Probe and rank curves: the right numbers in the right line, for one network and for several."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from neurocollapse import plots

VALUES = {
    "probe_accuracy_train": [0.7, 0.9, 1.0],
    "probe_accuracy_test": [0.6, 0.8, 0.95],
    "ncm_accuracy_train": [0.5, 0.75, 0.98],
    "ncm_accuracy_test": [0.45, 0.7, 0.94],
    "numerical_rank": [40.0, 20.0, 9.0],
    "effective_rank": [30.0, 15.0, 8.0],
}
DRAWN = {plots.probes: list(VALUES)[:4], plots.ranks: list(VALUES)[4:]}
every_plot = pytest.mark.parametrize("plot", DRAWN, ids=lambda plot: plot.__name__)


@pytest.fixture
def probed(make_analysis) -> xr.Dataset:
    return make_analysis([3.0, 1.0, 0.2]).assign({name: ("layer", values) for name, values in VALUES.items()})


def curves(ax: plt.Axes) -> list[list[float]]:
    return [list(line.get_ydata()) for line in ax.lines if len(line.get_ydata()) == 3]


def legend(ax: plt.Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


@every_plot
def test_every_variable_is_a_line(plot, probed):
    drawn = curves(plot(probed))
    assert sorted(drawn) == sorted(VALUES[name] for name in DRAWN[plot])


def test_held_out_and_train_are_told_apart_by_their_markers(probed):
    ax = plots.probes(probed)
    fill = {tuple(line.get_ydata()): line.get_markerfacecolor() for line in ax.lines}
    assert fill[tuple(VALUES["probe_accuracy_train"])] == fill[tuple(VALUES["ncm_accuracy_train"])] == "white"
    assert "white" not in (fill[tuple(VALUES["probe_accuracy_test"])], fill[tuple(VALUES["ncm_accuracy_test"])])
    words = legend(ax)
    assert words == [f"{one}, {part}" for one in ("linear probe", "nearest mean") for part in ("held out", "train")]


@every_plot
def test_networks_are_compared_in_their_colours(plot, probed):
    ax = plot({"MLP": probed, "hybrid": probed.isel(layer=slice(None))})
    assert len(curves(ax)) == 2 * len(DRAWN[plot])
    assert {line.get_color() for line in ax.lines if len(line.get_ydata()) == 3} == {"#0072B2", "#D55E00"}
    assert legend(ax)[:2] == ["MLP", "hybrid"]


def test_the_number_of_classes_is_a_line_where_all_networks_share_it(probed, make_analysis):
    assert "number of classes: 10" in legend(plots.ranks(probed))
    other = make_analysis([3.0, 1.0, 0.2], num_classes=4).assign(probed[["numerical_rank", "effective_rank"]])
    assert not [text for text in legend(plots.ranks({"a": probed, "b": other})) if "classes" in text]


@every_plot
def test_undefined_layers_leave_a_gap(plot, probed):
    spoilt = probed.assign({name: probed[name].where([True, False, True]) for name in VALUES})
    assert all(np.isnan(values[1]) and values[0] > 0 for values in curves(plot(spoilt)))


@every_plot
def test_the_axes_are_the_callers(plot, probed):
    ax = plots.offscreen_axes()
    before = plt.get_fignums()
    assert plot(probed, ax=ax) is ax
    assert plt.get_fignums() == before


@every_plot
def test_an_analysis_without_probes_is_refused_and_leaves_no_figure(plot, make_analysis):
    before = plt.get_fignums()
    with pytest.raises(ValueError, match=r"`dataset` has no variable '(probe_accuracy_test|numerical_rank)'"):
        plot(make_analysis())
    assert plt.get_fignums() == before


def test_an_accuracy_of_one_lies_below_the_edge(probed):
    assert plots.probes(probed).get_ylim()[1] > 1.0


def test_a_layer_of_rank_zero_is_marked_and_leaves_room(probed):
    dead = probed.assign(numerical_rank=("layer", [40.0, 0.0, 9.0]), effective_rank=("layer", [30.0, np.nan, 8.0]))
    ax = plots.ranks(dead)
    (mark,) = (line for line in ax.lines if line.get_marker() == "v")
    assert list(mark.get_xdata()) == [1.0]
    assert "rank 0" in [text.get_text() for text in ax.texts]
    assert not [line for line in plots.ranks(probed).lines if line.get_marker() == "v"]

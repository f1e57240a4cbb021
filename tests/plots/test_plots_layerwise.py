"""Curves over layers: what is drawn is what was measured, whatever was measured."""

from contextlib import nullcontext
from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from neurocollapse import plots

PANELS = [plots.compression, plots.separation, plots.decay, plots.class_spread]
NAN, INF = float("nan"), float("inf")
LONG_NAMES = [f"encoder.layer.{index}.attention.output.dense" for index in range(64)]


def legend(ax: plt.Axes) -> str:
    return "\n".join(text.get_text() for text in ax.get_legend().get_texts()).replace("\N{NO-BREAK SPACE}", " ")


def drawn(ax: plt.Axes, marker: str = "o") -> np.ndarray:
    return next(line for line in ax.lines if line.get_marker() == marker).get_ydata()


def overlapping(boxes: list) -> bool:
    ordered = sorted(boxes, key=lambda box: box.x0)
    return any(left.x1 > right.x0 for left, right in pairwise(ordered))


def test_compression_draws_the_measured_values_on_a_log_axis(make_analysis):
    dataset = make_analysis()
    ax = plots.compression(dataset)
    np.testing.assert_array_equal(drawn(ax), dataset["compression"])
    assert ax.get_yscale() == "log"


def test_the_fitted_line_has_the_slope_of_the_dataset_and_the_legend_says_it(make_analysis):
    dataset = make_analysis([8.0, 4.1, 1.9, 1.0])
    ax = plots.compression(dataset)
    line = next(line for line in ax.lines if len(line.get_xdata()) == 2)
    slope = np.diff(np.log(line.get_ydata()))[0] / 3
    assert slope == pytest.approx(float(dataset["decay_slope"]), rel=1e-12)
    assert f"slope {float(dataset['decay_slope']):.2f}".replace("-", "−") in legend(ax)
    assert "95 %" in legend(ax)
    assert "R² 1.00" in legend(ax)


def test_without_fit_there_is_no_line(make_analysis):
    assert "slope" not in legend(plots.compression(make_analysis(), fit=False))


def test_a_selection_of_layers_keeps_its_fitted_line(make_analysis):
    dataset = make_analysis([2.0**-index for index in range(8)])
    ax = plots.compression(dataset.isel(layer=slice(3, 7)))
    line = next(line for line in ax.lines if len(line.get_xdata()) == 2)
    np.testing.assert_allclose(line.get_ydata(), [2.0**-3, 2.0**-6], rtol=1e-12)  # rounding of exp and log


def test_a_dataset_of_chosen_layers_draws_the_line_it_was_fitted_with(make_analysis):
    dataset = make_analysis([8.0, 4.0, 2.0]).assign_coords(depth=("layer", [1, 5, 9]))  # fitted against 0, 1, 2
    line = next(line for line in plots.compression(dataset).lines if len(line.get_xdata()) == 2)
    np.testing.assert_allclose(line.get_ydata(), [8.0, 2.0], rtol=1e-12)  # rounding of exp and log
    np.testing.assert_array_equal(line.get_xdata(), [1.0, 9.0])


def test_decay_draws_ratios_and_the_fitted_factor(make_analysis):
    ax = plots.decay(make_analysis([8.0, 4.0, 2.0, 1.0]))
    np.testing.assert_allclose(drawn(ax), [np.nan, 0.5, 0.5, 0.5])
    assert "0.5 per layer" in legend(ax)


def test_separation_names_both_conventions(make_analysis):
    text = legend(plots.separation(make_analysis()))
    assert "centred, absolute" in text
    assert "uncentred, signed" in text
    assert "0.889" in text  # 1 - 1/(10 - 1)


@pytest.mark.parametrize("num_classes", [1, 2])
def test_no_frame_value_is_drawn_for_fewer_than_three_classes(make_analysis, num_classes):
    assert "simplex" not in legend(plots.separation(make_analysis(num_classes=num_classes)))


def test_class_spread_averages_to_compression(make_analysis):
    dataset = make_analysis()
    ax = plots.class_spread(dataset)
    curves = np.array([line.get_ydata() for line in ax.lines])
    assert len(curves) == 10
    np.testing.assert_allclose(curves.mean(axis=0), dataset["compression"], rtol=1e-12)  # equal class sizes


def test_many_classes_are_a_median_and_a_range(make_analysis):
    ax = plots.class_spread(make_analysis(num_classes=100))
    assert len(ax.collections) == 1
    assert "100 classes" in legend(ax)


def test_networks_are_compared_in_one_axes_and_differ_without_colour(make_analysis):
    networks = {"MLP": make_analysis(), "hybrid 3+4": make_analysis(seed=1)}
    for panel in PANELS:
        ax = panel(networks)
        assert "MLP" in legend(ax)
        assert "hybrid 3+4" in legend(ax)
        assert {"o", "s"} <= {line.get_marker() for line in ax.lines}


def test_networks_of_different_depth_stand_at_relative_depths(make_analysis):
    ax = plots.compression({"a": make_analysis([4.0, 2.0, 1.0]), "b": make_analysis([4.0, 1.0])}, fit=False)
    assert [line.get_xdata().tolist() for line in ax.lines] == [[0.0, 0.5, 1.0], [0.0, 1.0]]
    assert ax.get_xlabel().startswith("relative depth")
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "¼", "½", "¾", "1"]


def test_fitted_lines_of_networks_of_different_depth_keep_their_values(make_analysis):
    deep, shallow = make_analysis([8.0, 4.0, 2.0, 1.0]), make_analysis([9.0, 3.0, 1.0])
    ax = plots.compression({"deep": deep, "shallow": shallow})
    ends = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 2]
    np.testing.assert_allclose(ends, [[8.0, 1.0], [9.0, 1.0]], rtol=1e-12)  # rounding of exp and log


def test_networks_with_other_names_and_the_same_depth_share_a_numeric_axis(make_analysis):
    ax = plots.compression({"a": make_analysis([4.0, 2.0]), "b": make_analysis([4.0, 1.0], names=["x", "y"])})
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1"]


def test_a_network_has_the_same_colour_in_every_panel(make_analysis):
    networks = {"a": make_analysis(), "b": make_analysis(seed=1)}
    colours = {next(line.get_color() for line in panel(networks).lines if line.get_marker() == "s") for panel in PANELS}
    assert len(colours) == 1


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 0.0],
        [NAN, NAN],
        [INF, INF],
        [2.0],
        [0.0],
        [NAN],
        [1.0, 1.0],
        [3.0, 0.0, NAN, INF],
        [1e-300, 1e300],
        [5e-324, 1.0],
    ],
    ids=str,
)
def test_degenerate_curves_draw_without_a_warning(make_analysis, values):
    figure = plots.layers(make_analysis(values))
    figure.canvas.draw()
    assert all(np.isfinite(ax.get_ylim()).all() for ax in figure.axes)


def test_exact_collapse_is_marked_at_the_bottom_and_infinity_at_the_top(make_analysis):
    ax = plots.compression(make_analysis([4.0, 1.0, 0.0, INF]))
    marks = {line.get_marker(): line for line in ax.lines if line.get_transform() == ax.get_xaxis_transform()}
    assert marks["v"].get_xdata() == [2.0]
    assert marks["^"].get_xdata() == [3.0]
    assert "exactly collapsed" in [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("names", [LONG_NAMES, [f"stage{i % 4}.unit{i}.conv.weight.block.inner" for i in range(64)]])
def test_sixty_four_long_layer_names_do_not_overlap(make_analysis, names):
    ax = plots.compression(make_analysis(list(10 * 0.93 ** np.arange(64)), names=names))
    ax.figure.canvas.draw()
    labels = [text for text in ax.get_xticklabels() if text.get_text()]
    assert 2 <= len(labels) <= 12
    turned = labels[0].get_rotation() > 0
    boxes = [text.get_window_extent() for text in labels]
    if turned:  # turned labels may share columns as long as their baselines are a line apart
        height = 9 * ax.figure.dpi / 72
        assert np.diff([box.x1 for box in boxes]).min() > height
    else:
        assert not overlapping(boxes)


def test_shared_parts_of_names_move_to_the_axis_label(make_analysis):
    ax = plots.compression(make_analysis([4.0, 2.0, 1.0], names=LONG_NAMES[:3]))
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1", "2"]
    assert "encoder.layer.*.attention.output.dense" in ax.get_xlabel()


def test_shared_parts_that_are_too_long_are_cut_at_dots(make_analysis):
    names = [f"model.encoder_of_the_teacher.block.{index}.attention_with_rotation.projection" for index in range(3)]
    ax = plots.compression(make_analysis([4.0, 2.0, 1.0], names=names))
    assert "(…block.*.attention_with_rotation…)" in ax.get_xlabel()


@pytest.mark.parametrize("name", ["a$b$c", "_hidden", "x^2_{", r"\frac", "100 %", "", "层"])
def test_names_of_layers_networks_and_classes_are_shown_as_they_are(make_analysis, name):
    dataset = make_analysis(names=[name, *"bcdefg"], class_names=[name, *"123456789"])
    with pytest.warns(UserWarning, match="Glyph") if name == "层" else nullcontext():
        for given in (dataset, {name: dataset, "other": dataset}):
            figure = plots.layers(given)
            figure.canvas.draw()
    first = figure.axes[0].get_xticklabels()[0]
    assert first.get_text() == name
    assert not first.get_parse_math()


def test_legends_hide_no_data(make_analysis):
    figure = plots.layers({"MLP": make_analysis(), "a network with a long name": make_analysis(seed=1)})
    figure.canvas.draw()
    for ax in figure.axes:
        assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1


def test_labels_come_from_the_attributes(make_analysis):
    dataset = make_analysis()
    dataset["compression"].attrs.update(long_name="collapse", symbol="C_\\ell", units="nat")
    assert plots.compression(dataset).get_ylabel() == "collapse  $C_\\ell$  [nat]"


def test_everything_is_drawn_in_the_given_axes(make_analysis):
    figure, ax = plt.subplots()
    for panel in PANELS:
        assert panel(make_analysis(), ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_rc_parameters_of_the_user_are_left_alone(make_analysis):
    before = dict(mpl.rcParams)
    plots.layers(make_analysis())
    assert dict(mpl.rcParams) == before


def test_a_new_figure_is_known_to_pyplot_and_an_offscreen_one_is_not(make_analysis):
    ax = plots.compression(make_analysis(), ax=plots.offscreen_axes())
    assert plt.get_fignums() == []
    ax.figure.savefig("/dev/null", format="png")
    assert plots.compression(make_analysis()).figure.number in plt.get_fignums()


def test_a_failed_overview_leaves_no_figure(make_analysis):
    with pytest.raises(ValueError, match="class_scatter"):
        plots.layers(make_analysis().drop_vars("class_scatter"))
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (xr.Dataset({"compresion": ("layer", [1.0])}), ValueError, "did you mean 'compresion'"),
        (xr.Dataset({"compression": (("layer", "class"), [[1.0]])}), ValueError, "must have dimensions"),
        (xr.Dataset({"compression": (("step", "seed"), [[1.0]])}), ValueError, "2 dimensions in front.*step, seed"),
        (xr.Dataset({"compression": (("step", "layer"), np.empty((0, 2)))}), ValueError, "no steps.*is empty"),
        (xr.Dataset({"compression": ("layer", [])}), ValueError, "no layers.*is empty"),
        ([1.0, 2.0], TypeError, "nc.analyze"),
        ({}, ValueError, "empty mapping"),
        ({"a": 3}, TypeError, r"dataset\['a'\]"),
    ],
)
def test_bad_input_gets_one_clear_line(given, error, message):
    with pytest.raises(error, match=message) as caught:
        plots.compression(given, ax=plots.offscreen_axes())
    assert "\n" not in str(caught.value)


def test_a_figure_in_place_of_axes_is_refused(make_analysis):
    with pytest.raises(TypeError, match=r"`ax` must be a matplotlib Axes, got Figure; pass one of its axes"):
        plots.compression(make_analysis(), ax=plt.figure())


def test_what_a_backend_sets_on_the_way_is_kept() -> None:
    before = mpl.rcParams["interactive"]
    try:
        with plots.context():
            mpl.rcParams["interactive"] = not before
        assert mpl.rcParams["interactive"] is not before
    finally:
        mpl.rcParams["interactive"] = before

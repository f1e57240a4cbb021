"""Figures of one to forty networks: one legend, equal axes with room, nothing outside the figure."""

import inspect
from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from neurocollapse import plots
from neurocollapse.plots.frames import wrapped

PANELS = [plots.compression, plots.separation, plots.decay, plots.class_spread]
LONG = [f"encoder.layer.{index}.attention.output.dense.with_a_name_that_does_not_end" for index in range(12)]
COUNTS = [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(5, marks=pytest.mark.slow), 8]
MANY = [9, *(pytest.param(count, marks=pytest.mark.slow) for count in (20, 40))]
WIDTHS = [None, pytest.param("page", marks=pytest.mark.slow), "column"]
TOOLS = ("close", "context", "offscreen_axes", "svg_text")


@pytest.fixture
def make_networks(make_analysis):
    """A factory of so many networks, with intervals."""

    def make(count: int, **options: object) -> dict[str, xr.Dataset]:
        made = {}
        for index in range(count):
            one = make_analysis([8.0 * 0.6**place * (1 + index / 20) for place in range(7)], seed=index, **options)
            low, high = one["compression"].values * 0.9, one["compression"].values * 1.1
            made[f"network {index}"] = one.assign(compression_interval=(("layer", "bound"), np.stack([low, high], 1)))
        return made

    return make


def lightness(colour: object) -> float:
    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


def assert_nothing_is_cut(figure: plt.Figure) -> None:
    """Everything that is drawn lies in the figure, and no legend lies on axes."""
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= width + 0.01
    assert box.y1 <= height + 0.01
    legends = [*figure.legends, *(legend for ax in figure.axes if (legend := ax.get_legend()))]
    for legend in legends:
        for ax in figure.axes:
            assert not legend.get_window_extent().padded(-1).overlaps(ax.get_window_extent()), ax.get_ylabel()
    texts = [box for text in texts_of(figure) if (box := text.get_window_extent().padded(-1)).width > 0]
    for box, other in combinations(texts, 2):
        assert not box.overlaps(other), (box, other)


def texts_of(figure: plt.Figure) -> list[Text]:
    """Titles, labels, legends and numbers at the axes that are seen; not the words beside the data."""
    seen = [figure._supxlabel, figure._supylabel, *(text for legend in figure.legends for text in legend.get_texts())]
    for ax in figure.axes:
        if legend := ax.get_legend():
            seen += [legend.get_title(), *legend.get_texts()]
        seen += [ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            seen += [tick.label1 for tick in ticks if tick.label1.get_visible()]
    return [text for text in seen if text is not None and text.get_text()]


def inches(ax: plt.Axes) -> tuple[float, float]:
    box = ax.get_window_extent()
    return round(box.width / ax.figure.dpi, 2), round(box.height / ax.figure.dpi, 2)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", COUNTS)
def test_the_overview_has_equal_panels_with_room_and_one_legend_of_networks(make_networks, count, width):
    networks = make_networks(count)
    figure = plots.layers(networks, width=width)
    assert_nothing_is_cut(figure)
    assert len({inches(ax) for ax in figure.axes}) == 1
    assert min(inches(figure.axes[0])) >= 1.45  # 1.5 but for the padding between rows
    assert len(figure.legends) == (count > 1)
    if count > 1:
        assert [text.get_text() for text in figure.legends[0].get_texts()] == list(networks)
        own = [text.get_text() for ax in figure.axes if ax.get_legend() for text in ax.get_legend().get_texts()]
        assert not any("network" in text for text in own)


@pytest.mark.slow
@pytest.mark.parametrize("width", [None, "column"])
@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.__name__)
def test_a_panel_has_room_however_many_networks_there_are(make_networks, panel, count, width):
    ax = panel(make_networks(count), width=width)
    assert_nothing_is_cut(ax.figure)
    assert min(inches(ax)) >= 1.45


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_and_single_layers_fit(make_analysis, width):
    long = make_analysis([8.0 * 0.7**place for place in range(12)], names=LONG)
    for dataset in (long, long.isel(layer=[3]), {LONG[0]: long, LONG[1]: long.isel(layer=slice(5))}):
        figure = plots.layers(dataset, width=width)
        assert_nothing_is_cut(figure)
        assert len({inches(ax) for ax in figure.axes}) == 1


def test_steps_have_one_legend_and_colours_from_light_to_dark(make_networks):
    run = xr.concat(list(make_networks(9).values()), dim="step").assign_coords(step=np.arange(9) * 100)
    figure = plots.layers(run)
    assert_nothing_is_cut(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["step 0 to 800, 9 curves"]
    for ax in figure.axes:
        inks = list(dict.fromkeys(line.get_color() for line in ax.lines if len(line.get_xdata()) == 7))
        assert inks == sorted(inks, key=lightness, reverse=True)


def test_more_than_eight_networks_in_axes_of_the_caller_have_the_colours_of_a_ramp(make_networks):
    drawn = [plots.compression(make_networks(count), ax=plt.subplots()[1], fit=False).lines for count in (12, 8)]
    inks = [line.get_color() for line in drawn[0]]
    assert len(set(inks)) == 12
    assert inks == sorted(inks, key=lightness, reverse=True)
    assert len({line.get_marker() for line in drawn[1]}) == 8


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", MANY)
def test_more_than_eight_networks_are_small_multiples_with_the_same_axes_and_one_legend(make_networks, count, width):
    networks = make_networks(count)
    figure = plots.compression(networks, width=width).figure
    assert_nothing_is_cut(figure)
    assert [ax.get_title(loc="left") for ax in figure.axes] == list(networks)
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes}) == 1
    assert len({inches(ax) for ax in figure.axes}) == 1
    assert min(inches(figure.axes[0])) >= 0.75
    slopes = [float(one["decay_slope"]) for one in networks.values()]
    told = f"slopes of the fits: {min(slopes):.2f} to {max(slopes):.2f}".replace("-", "−")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["measured", "95 % interval, unbiased", told]
    for ax, one in zip(figure.axes, networks.values(), strict=True):
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), one["compression"])


@pytest.mark.slow
@pytest.mark.parametrize("width", [None, "column"])
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.__name__)
def test_small_multiples_of_every_panel_fit(make_networks, panel, width):
    assert_nothing_is_cut(panel(make_networks(11), width=width).figure)


@pytest.mark.parametrize("width", [None, pytest.param("column", marks=pytest.mark.slow)])
def test_the_overview_of_many_networks_has_a_row_for_each(make_networks, width):
    networks = make_networks(9)
    figure = plots.layers(networks, width=width)
    assert_nothing_is_cut(figure)
    assert len(figure.axes) == 4 * 9
    assert len({inches(ax) for ax in figure.axes}) == 1
    assert not figure.legends
    parts = [figure.axes[start : start + 9] for start in range(0, 36, 9)]
    for cells in parts:
        assert len({(ax.get_xlim(), ax.get_ylim()) for ax in cells}) == 1
        assert [ax.get_legend() is not None for ax in cells] == [True] + [False] * 8
    names = [text.get_text() for ax in parts[-1] for text in ax.texts if text.get_rotation() == 270]
    assert names == list(networks)


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (None, "model.encoder.layer.*.attention_with_rotation.output.dense"),
        ("column", "model.encoder.layer.*.attention_with_rotation…"),
    ],
)
def test_the_label_under_small_multiples_has_the_room_of_all_cells(make_analysis, width, shown):
    names = [f"model.encoder.layer.{index}.attention_with_rotation.output.dense" for index in range(5)]
    networks = {f"net {seed}": make_analysis([0.5**place for place in range(5)], names=names) for seed in range(9)}
    figure = plots.separation(networks, width=width).figure
    assert figure._supxlabel.get_text() == f"layer  ({shown})"
    assert_nothing_is_cut(figure)


def test_small_multiples_of_another_depth_stand_at_relative_depths(make_analysis):
    networks = {f"net {depth}": make_analysis([0.5**place for place in range(depth)]) for depth in range(3, 13)}
    figure = plots.compression(networks).figure
    assert figure._supxlabel.get_text().startswith("relative depth")
    assert all(line.get_xdata()[[0, -1]].tolist() == [0.0, 1.0] for line in (ax.lines[0] for ax in figure.axes))


def test_small_multiples_fill_a_figure_of_the_library_that_is_not_registered(make_networks):
    ax = plots.offscreen_axes()
    assert plots.separation(make_networks(9), ax=ax) is ax
    assert len(ax.figure.axes) == 9
    assert plt.get_fignums() == []


def test_small_multiples_that_cannot_be_drawn_leave_no_figure(make_networks):
    with pytest.raises(ValueError, match="has no variable 'probe_accuracy_test'"):
        plots.probes(make_networks(9))
    assert plt.get_fignums() == []


def test_the_axis_has_room_for_the_range_of_all_classes(make_networks):
    for count in (2, 9):
        for ax in plots.class_spread(make_networks(count)).figure.axes:
            heights = np.concatenate([band.get_paths()[0].vertices[:, 1] for band in ax.collections])
            low, high = ax.get_ylim()
            assert low < heights.min() < heights.max() < high


def test_more_networks_than_a_legend_can_name_are_one_entry(make_analysis):
    one, ax = make_analysis(), plt.subplots()[1]
    legend = plots.separation({f"seed {index}": one for index in range(60)}, ax=ax).get_legend()
    assert legend.get_texts()[0].get_text() == "seed 0 to seed 59, 60 networks"


def test_a_long_label_is_broken_once():
    label = "NC4, decisions for the nearest class\nmean"  # as wide as a label may be, then too wide for low axes
    assert wrapped(label, 28) == "NC4, decisions for the\nnearest class mean"
    assert wrapped(label + "  $P$", 28) == "NC4, decisions for the\nnearest class mean\n$P$"


@pytest.mark.parametrize(("width", "inch", "letters"), [("column", 3.3, 8.0), ("page", 6.9, 8.0), (None, 4.4, 10.0)])
def test_a_width_is_that_of_a_paper_with_its_letters(make_analysis, width, inch, letters):
    ax = plots.compression(make_analysis(), width=width)
    assert ax.figure.get_size_inches()[0] == pytest.approx(inch)
    assert ax.yaxis.label.get_size() == letters
    ax.figure.canvas.draw()
    assert ax.get_xticklabels()[0].get_size() == letters - 1


def test_every_figure_takes_a_width():
    for name in set(plots.__all__) - set(TOOLS):
        parameter = inspect.signature(getattr(plots, name)).parameters["width"]
        assert parameter.default is None, name
        assert parameter.kind is parameter.KEYWORD_ONLY, name


def test_a_width_that_there_is_not_or_that_others_chose_is_refused(make_analysis):
    with pytest.raises(ValueError, match="`width` must be one of 'column', 'page', got 'wide'"):
        plots.compression(make_analysis(), width="wide")
    for draw in (plots.compression, plots.layers):
        with pytest.raises(ValueError, match="`width` is that of a new figure; leave it out where `ax` is given"):
            draw(make_analysis(), width="page", ax=plots.offscreen_axes())
    assert plt.get_fignums() == []


def test_only_figures_of_the_library_change_their_size(make_networks):
    figure, ax = plt.subplots(figsize=(3.0, 2.0), layout="constrained")
    plots.compression(make_networks(3), ax=ax, fit=False)
    assert tuple(figure.get_size_inches()) == (3.0, 2.0)
    grown = plots.compression(make_networks(40), ax=plots.offscreen_axes())
    assert grown.figure.get_size_inches()[1] > 4.0


@pytest.mark.parametrize("count", [1, 12, 40])
def test_bars_of_many_networks_have_room_for_their_names(count):
    names = ("margin_efficiency", *(f"margin_{factor}" for factor in ("spread", "duality", "samples", "classes")))
    head = xr.Dataset({name: ("layer", [0.8]) for name in names})
    ax = plots.margin_efficiency({f"network {index}": head for index in range(count)})
    assert_nothing_is_cut(ax.figure)
    boxes = sorted((label.get_window_extent() for label in ax.get_yticklabels()), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 for below, above in pairwise(boxes))


@pytest.mark.parametrize("width", [None, "page", "column"])
def test_a_long_legend_beside_a_long_label_stays_in_the_figure(width):
    names = ("compression", "compression_floor", "compression_invisible", "compression_visible")
    table = {name: ("layer", np.array([1.0, 0.5, 0.25]) * scale) for scale, name in enumerate(names, start=1)}
    table["compression"] = (
        *table["compression"],
        {"long_name": "within- over between-class variability", "symbol": "D"},
    )
    table |= {f"certified_{side}": ("layer", [at, 0.5 * at, 0.2 * at]) for side, at in (("lower", 0.9), ("upper", 1.4))}
    table["layer"] = ["in", "a", "out"]
    figure = plots.certificate(xr.Dataset(table), width=width).figure
    for dpi in (100, 110, 144):
        figure.set_dpi(dpi)
        assert_nothing_is_cut(figure)

"""Any variable as a curve, labelled by its attributes, and the panels of neural collapse."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from neurocollapse import plots

LAYERS = ["a", "b", "c"]


def legend(ax: plt.Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def number(values: list, **attributes: object) -> tuple:
    return ("layer", values, attributes)


@pytest.fixture
def own() -> xr.Dataset:
    """Numbers with attributes of every kind."""
    return xr.Dataset(
        {
            "margin": number(
                [0.2, 0.5, 0.9], heading="margin", long_name="smallest margin", symbol="q", better="higher"
            ),
            "error": number([0.4, 0.04, 0.004], heading="error", at_collapse=0.0, better="lower", valid_max=1.0),
            "agreement": number([0.03, 0.5, 0.99], heading="agreement", at_collapse=1.0, valid_max=1.0),
            "bare": number([1.0, 2.0, 3.0]),
        },
        {"layer": LAYERS},
    )


@pytest.fixture
def collapsing() -> xr.Dataset:
    """Measures of the family of neural collapse, and one of another."""

    def measure(heading: str, values: list, limit: float = 0.0) -> tuple:
        return number(values, heading=heading, family="collapse", at_collapse=limit, long_name=f"measure {heading}")

    return xr.Dataset(
        {
            "nc4": measure("NC4", [0.5, 0.9, 1.0], 1.0),
            "nc1": measure("NC1", [9.0, 1.0, 0.01]),
            "nc2_norms": measure("NC2, norms", [0.5, 0.4, 0.0]),
            "nc2_angles": measure("NC2, angles", [0.5, 0.3, 0.2]),
            "unc3": measure("uniform duality", [0.5, 0.3, 0.2]),
            "cdnv": measure("CDNV", [0.5, 0.3, 0.2]),
            "gnc2": number([0.5, -0.3, 0.2], heading="GNC2", family="collapse", better="lower"),
            "separation": number([0.5, 0.3, 0.2], heading="S", family="geometry"),
        },
        {"layer": LAYERS},
    )


def test_the_label_is_what_the_variable_says_of_itself(own):
    ax = plots.quantities(own, "margin")
    assert ax.get_ylabel() == "smallest margin  $q$"
    assert legend(ax) == ["margin ↑"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), own["margin"])


def test_limits_are_told_and_drawn(own):
    ax = plots.quantities(own, ["agreement", "margin"])
    assert legend(ax) == ["agreement → 1", "margin ↑"]
    assert [line.get_ydata()[0] for line in ax.lines if len(line.get_ydata()) == 2] == [1.0]


def test_a_variable_without_attributes_is_drawn_under_its_name(own):
    assert plots.quantities(own, "bare").get_ylabel() == "bare"


@pytest.mark.parametrize(("name", "scale"), [("error", "log"), ("agreement", "linear"), ("margin", "linear")])
def test_the_axis_is_logarithmic_where_small_values_are_to_be_told_apart(own, name, scale):
    assert plots.quantities(own, name).get_yscale() == scale


def test_a_logarithmic_axis_points_to_a_limit_of_zero(own):
    assert "collapse" in [text.get_text() for text in plots.quantities(own, "error").texts]
    assert "collapse" not in [text.get_text() for text in plots.quantities(own, "margin").texts]


def test_zeros_of_a_logarithmic_axis_are_marked_and_negative_values_keep_it_linear(own):
    own["error"].values[:] = [0.4, 0.01, 0.0]
    ax = plots.quantities(own, "error")
    assert ax.get_yscale() == "log"
    assert "exactly 0" in [text.get_text() for text in ax.texts]
    own["error"].values[:] = [0.4, 0.01, -0.1]
    assert plots.quantities(own, "error").get_yscale() == "linear"


def test_the_last_layer_is_drawn_over_the_steps(own):
    run = xr.concat([own, own * 2, own * 3], dim="epoch").assign_coords(epoch=[5, 10, 20])
    ax = plots.quantities(run, ["margin", "bare"], over="epoch")
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [5, 10, 20])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [3, 6, 9])
    assert ax.get_xlabel() == "epoch, at layer c"


def test_steps_with_names_stand_at_their_names(own):
    run = xr.concat([own, own], dim="checkpoint").assign_coords(checkpoint=["start", "end"])
    ax = plots.quantities(run, "margin", over="checkpoint")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["start", "end"]


def test_networks_are_compared_over_their_steps(own):
    run = xr.concat([own, own], dim="epoch")
    ax = plots.quantities({"MLP": run, "hybrid": run}, ["margin", "bare"], over="epoch")
    assert legend(ax) == ["MLP", "hybrid", "margin ↑", "bare"]


@pytest.mark.parametrize(
    ("names", "over", "message"),
    [
        ([], "layer", "at least one variable"),
        ("magrin", "layer", "did you mean 'margin'"),
        ("margin", "epoch", r"has no dimension 'epoch' in front of its layers \(it has none\)"),
    ],
)
def test_what_cannot_be_drawn_gets_one_clear_line(own, names, over, message):
    before = plt.get_fignums()
    with pytest.raises(ValueError, match=message) as caught:
        plots.quantities(own, names, over=over)
    assert "\n" not in str(caught.value)
    assert plt.get_fignums() == before


def titles(figure: plt.Figure) -> list[str]:
    return [ax.get_legend().get_title().get_text() for ax in figure.axes]


def test_measures_of_collapse_stand_under_their_numbers(collapsing):
    figure = plots.collapse(collapsing)
    figure.canvas.draw()
    assert titles(figure) == [
        "NC1: variability collapse",
        "NC2: simplex frame of the means",
        "NC3: self-duality",
        "NC4: nearest class mean",
        "Further measures",
        "Measures without a known limit",
    ]
    assert legend(figure.axes[1]) == ["NC2, norms → 0", "NC2, angles → 0"]
    assert [ax.get_yscale() for ax in figure.axes] == ["log", *["linear"] * 5]


def test_collapse_is_drawn_over_the_steps_where_there_are_some(collapsing):
    run = xr.concat([collapsing, collapsing / 2], dim="epoch").assign_coords(epoch=[0, 30])
    ax = plots.collapse(run).axes[0]
    assert ax.get_xlabel() == "epoch, at layer c"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.01, 0.005])
    assert plots.collapse(run.isel(epoch=[1])).axes[0].get_xlabel() == "layer"


def test_networks_are_compared_by_what_all_have(collapsing):
    figure = plots.collapse({"a": collapsing, "b": collapsing.drop_vars("nc1")})
    assert titles(figure)[0] == "NC2: simplex frame of the means"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_collapse_draws_in_given_axes_and_says_what_is_missing(collapsing):
    figure, grid = plt.subplots(1, 6)
    assert plots.collapse(collapsing, ax=grid) is figure
    with pytest.raises(ValueError, match="no measure of neural collapse along `layer`; measure some with"):
        plots.collapse(collapsing[["separation"]])
    with pytest.raises(ValueError, match="must hold 6 Axes"):
        plots.collapse(collapsing, ax=grid[:2])
    assert plt.get_fignums() == [figure.number]

"""Bounds beside measurements."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from neurocollapse import plots

RATIO = np.array([0.29, 0.28, 0.283, 0.2805, 0.2807])


def certificate(**changed: list[float]) -> xr.Dataset:
    variables = {
        "decay_ratio": RATIO,
        "prior_lower": 0.85 * RATIO,
        "prior_upper": 1.18 * RATIO,
        "posterior_lower": 0.97 * RATIO,
        "posterior_upper": 1.02 * RATIO,
        "printed_lower": 0.6 * RATIO,
        "printed_upper": 1.6 * RATIO,
        "rate": np.full(5, 0.2838),
        "separation_uncentred": np.array([0.9, 0.968, 0.9716, 0.9761, 0.9809]),
        "separation_prior_lower": np.array([np.nan, 0.84, 0.86, 0.88, 0.9]),
        "separation_printed_lower": np.array([-90.0, -62.0, -45.0, -30.0, 0.2]),
        **{name: np.asarray(values) for name, values in changed.items()},
    }
    return xr.Dataset({name: ("layer", values) for name, values in variables.items()}, {"layer": np.arange(5)})


def words(ax: plt.Axes) -> str:
    return " ".join(text.get_text() for text in ax.get_legend().get_texts()).replace("\n", " ")


def brackets(ax: plt.Axes) -> list[np.ndarray]:
    return [np.array([s[:, 1] for s in c.get_segments()]) for c in ax.collections if len(c.get_segments())]


def test_brackets_run_from_the_lower_to_the_upper_bound_around_the_measurement():
    dataset = certificate()
    ax = plots.bounds(dataset)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), RATIO)
    prior = brackets(ax)[0]
    np.testing.assert_allclose(prior, np.stack([dataset["prior_lower"], dataset["prior_upper"]], axis=1))
    assert ax.get_yscale() == "log"


def test_bounds_that_are_undefined_or_absent_are_not_drawn():
    dataset = certificate(prior_lower=[np.nan] * 5).drop_vars(["printed_lower", "printed_upper"])
    ax = plots.bounds(dataset)
    assert "printed" not in words(ax)
    assert len(brackets(ax)[0]) == 5  # the a posteriori brackets come first, as no a priori one is known


def test_where_no_bound_applies_the_figure_says_so():
    nothing = certificate(**{name: [np.nan] * 5 for name in certificate().data_vars if name.endswith(("er", "rate"))})
    for quantity in ("decay_ratio", "separation"):
        ax = plots.bounds(nothing, quantity=quantity)
        assert words(ax) == "measured"
        assert "no bound applies" in ax.texts[0].get_text()


def test_vacuous_bounds_are_counted_among_the_layers_that_have_one():
    printed = [np.nan, -62.0, -45.0, 0.2, np.nan]
    ax = plots.bounds(certificate(separation_printed_lower=printed), quantity="separation")
    assert "empty, at 2 of 3 layers" in words(ax)


def test_huge_vacuous_bounds_are_short():
    ax = plots.bounds(certificate(separation_printed_lower=[-3.99e6] * 5), quantity="separation")
    assert {text.get_text() for text in ax.texts} == {r"$-4\times10^{6}$"}


def test_infinite_and_zero_ends_reach_the_edges():
    ax = plots.bounds(certificate(printed_lower=[0.0] * 5, printed_upper=[np.inf] * 5))
    ax.figure.canvas.draw()
    low, high = ax.get_ylim()
    ends = [segments for segments in brackets(ax) if np.allclose(segments, [low, high])]
    assert len(ends) == 1
    assert np.isfinite([low, high]).all()


def test_a_vacuous_separation_bound_is_written_instead_of_squeezing_the_axis():
    ax = plots.bounds(certificate(), quantity="separation")
    assert ax.get_ylim()[0] > -0.2
    assert {"−90", "−62", "−45", "−30"} == {text.get_text() for text in ax.texts}
    assert "at 4 of 5 layers" in words(ax)


def test_a_measurement_above_one_stays_in_view():
    ax = plots.bounds(certificate(separation_uncentred=[1.2] * 5), quantity="separation")
    assert ax.get_ylim()[1] > 1.2


def test_all_undefined_bounds_draw_without_a_warning():
    nothing = dict.fromkeys(certificate().data_vars, [np.nan] * 5)
    for quantity in ("decay_ratio", "separation"):
        plots.bounds(certificate(**nothing), quantity=quantity).figure.canvas.draw()


def described(name: str, place: int, **about: object) -> dict[str, tuple]:
    """Both sides of a theorem that no plot has heard of."""
    attributes = {"of": "decay_ratio", "label": f"theorem {name}", "place": place, **about}
    sides = {"lower": 0.9 * RATIO, "upper": 1.1 * RATIO}
    return {f"{name}_{side}": ("layer", values, {**attributes, "role": side}) for side, values in sides.items()}


def test_any_theorem_is_drawn_as_its_attributes_say():
    curve = {"law": ("layer", RATIO, {"role": "curve", "of": "decay_ratio", "long_name": "law", "symbol": "x^2"})}
    names = {name: described(name, place) for place, name in enumerate("abcdef")}
    variables = {name: variable for pair in names.values() for name, variable in pair.items()} | curve
    dataset = xr.Dataset({"decay_ratio": ("layer", RATIO), **variables}, {"layer": np.arange(5)})
    ax = plots.bounds(dataset)
    assert [text.get_text() for text in ax.get_legend().get_texts()][1:] == [
        *(f"theorem {n}" for n in "abcdef"),
        "law $x^2$",
    ]
    bars = [c for c in ax.collections if len(c.get_segments()) and len(set(c.get_segments()[0][:, 0])) == 1]
    assert len({tuple(bar.get_color()[0]) for bar in bars}) == 6
    starts = [bar.get_segments()[0][0, 0] for bar in bars]
    assert starts == sorted(starts)
    assert max(starts) - min(starts) < 1


def test_a_theorem_keeps_its_colour_where_others_are_absent():
    dataset = xr.Dataset({"decay_ratio": ("layer", RATIO), **described("b", 1)}, {"layer": np.arange(5)})
    both = dataset.assign(xr.Dataset(described("a", 0)))
    alone, beside = (plots.bounds(one).collections for one in (dataset, both))
    assert tuple(alone[0].get_color()[0]) in {tuple(one.get_color()[0]) for one in beside}


def test_what_is_compared_only_is_dashed():
    proved, compared = (
        plots.bounds(xr.Dataset({"decay_ratio": ("layer", RATIO), **described("a", 0, compared=flag)}))
        for flag in (0, 1)
    )
    assert proved.collections[0].get_linestyle() != compared.collections[0].get_linestyle()


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ({"a": certificate()}, {}, TypeError, "verification.to_dataset"),
        (certificate(), {"quantity": "ratio"}, ValueError, "no variable 'ratio'.*did you mean 'rate' or 'decay_ratio'"),
        (certificate().drop_vars("decay_ratio"), {}, ValueError, "no variable 'decay_ratio'"),
        (certificate(), {"ax": "here"}, TypeError, "got str; make one with plt.subplots"),
    ],
)
def test_bad_input_gets_one_clear_line(given, options, error, message):
    with pytest.raises(error, match=message):
        plots.bounds(given, **options)

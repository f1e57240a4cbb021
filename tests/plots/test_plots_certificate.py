"""The picture of what is proved: measured D, the band, floor and transient."""

import numpy as np
import pytest
import xarray as xr

from neurocollapse import plots


def dataset(**changed) -> xr.Dataset:
    """Three layers with everything that a verification has."""
    values = {
        "compression": [1.0, 0.4, 0.2],
        "certified_lower": [1.0, 0.3, 0.1],
        "certified_upper": [1.0, 0.5, 0.4],
        "compression_visible": [0.12, 0.11, 0.1],
        "compression_invisible": [0.88, 0.29, 0.1],
        "compression_floor": [0.1, 0.1, 0.1],
    } | changed
    return xr.Dataset({name: ("layer", list(one)) for name, one in values.items() if one is not None})


def labels(ax) -> set[str]:
    return {text.get_text().replace("\n", " ") for text in ax.get_legend().get_texts()}


def test_the_measurement_and_its_band_are_the_numbers_of_the_dataset() -> None:
    ax = plots.certificate(dataset())
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1.0, 0.4, 0.2])
    corners = ax.collections[0].get_paths()[0].vertices
    for point in ([1.0, 0.3], [1.0, 0.5], [2.0, 0.1], [2.0, 0.4]):
        assert (np.abs(corners - point).sum(1) < 1e-12).any()
    assert ax.get_yscale() == "log"
    assert {"measured D", "floor: D of the output", "certified from input, output and weights"} <= labels(ax)
    assert "outside the band" not in labels(ax)


def test_a_measurement_outside_the_band_is_ringed() -> None:
    ax = plots.certificate(dataset(compression=[1.0, 0.6, 0.2]))
    rings = [line for line in ax.lines if line.get_markersize() == 12]
    assert [line.get_xdata().tolist() for line in rings] == [[1.0]]
    assert "outside the band" in labels(ax)


def test_rounding_is_not_outside() -> None:
    assert "outside the band" not in labels(plots.certificate(dataset(compression=[1.0 + 1e-12, 0.4, 0.2])))


@pytest.mark.parametrize(
    "changed",
    [
        {"certified_lower": [np.nan] * 3, "certified_upper": [np.nan] * 3},
        {"certified_lower": None, "certified_upper": None, "compression_floor": None},
        {"certified_upper": [1.0, np.inf, np.inf]},
        {"compression_floor": [1e-30] * 3, "compression_visible": [1e-30] * 3},
        {"compression": [1.0, 0.0, 0.0], "certified_lower": [1.0, 0.0, 0.0]},
        {"compression": [np.nan] * 3},
    ],
    ids=["undefined", "missing", "unbounded", "no-floor", "collapsed", "nothing"],
)
def test_what_is_undefined_is_left_out(changed: dict) -> None:
    ax = plots.certificate(dataset(**changed))
    ax.figure.canvas.draw()
    bottom, top = ax.get_ylim()
    assert 0 < bottom < top < np.inf
    if changed.get("compression_floor") == [1e-30] * 3:
        assert bottom > 1e-3


def test_it_draws_where_it_is_told_and_refuses_what_is_no_dataset() -> None:
    ax = plots.offscreen_axes()
    assert plots.certificate(dataset(), ax=ax) is ax
    with pytest.raises(TypeError, match=r"pass verification.to_dataset\(\)"):
        plots.certificate({"compression": [1.0]})
    with pytest.raises(ValueError, match="compression"):
        plots.certificate(xr.Dataset({"x": ("layer", [1.0])}))

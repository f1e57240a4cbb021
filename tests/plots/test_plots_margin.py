"""The margin of a head: a bar of shares that add up, or its factors over the steps."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from neurocollapse import plots

FACTORS = ("margin_spread", "margin_duality", "margin_samples", "margin_classes")


def head(*factors: float) -> xr.Dataset:
    """A network whose last layer makes the logits, so that its margins stand at the layer before."""
    values = dict(zip(FACTORS, factors, strict=True)) | {"margin_efficiency": np.prod(factors)}
    variables = {name: ("layer", [np.nan, value, np.nan]) for name, value in values.items()}
    return xr.Dataset(variables, {"layer": ["fc1", "fc2@in", "fc2"]})


def widths(ax: plt.Axes) -> list[float]:
    return [part.get_width() for part in ax.patches]


def legend(ax: plt.Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_parts_of_a_bar_are_what_each_factor_costs() -> None:
    ax = plots.margin_efficiency(head(0.9, 0.8, 0.7, 0.6))
    efficiency = 0.9 * 0.8 * 0.7 * 0.6
    assert widths(ax) == pytest.approx([efficiency, 0.504 - efficiency, 0.72 - 0.504, 0.9 - 0.72, 0.1])
    assert sum(widths(ax)) == pytest.approx(1.0)
    assert legend(ax)[0] == "realised"
    assert legend(ax)[1:] == [
        "lost to unequal wrong classes (× 0.6)",
        "lost to unequal samples (× 0.7)",
        "lost to direction of the head (× 0.8)",
        "lost to spread within classes (× 0.9)",
    ]
    ends = [part.get_x() + part.get_width() for part in ax.patches]
    assert ends[:-1] == pytest.approx([part.get_x() for part in ax.patches][1:])


def test_full_collapse_fills_the_bar() -> None:
    assert widths(plots.margin_efficiency(head(1.0, 1.0, 1.0, 1.0))) == pytest.approx([1.0, 0.0, 0.0, 0.0, 0.0])


def test_networks_have_a_bar_each_and_an_undefined_one_says_so() -> None:
    untrained = head(0.7, -0.1, np.nan, np.nan)
    ax = plots.margin_efficiency({"before": untrained, "after": head(0.9, 0.8, 0.7, 0.6)})
    assert [text.get_text() for text in ax.get_yticklabels()] == ["before", "after"]
    assert len(ax.patches) == 5
    assert any("not positive" in text.get_text() for text in ax.texts)


def test_a_loss_above_chance_goes_below_zero() -> None:
    ax = plots.margin_efficiency(head(0.9, 0.8, 0.5, -0.5))
    assert widths(ax)[0] == pytest.approx(-0.18)
    assert ax.get_xlim()[0] < -0.18


@pytest.fixture
def run() -> xr.Dataset:
    """Three epochs, the first before training."""
    steps = [head(0.7, -0.1, np.nan, np.nan), head(0.8, 0.7, 0.9, 0.9), head(0.9, 0.8, 0.7, 0.6)]
    return xr.concat(steps, pd.Index([0, 5, 10], name="epoch"))


def test_over_training_each_factor_is_a_curve_and_the_area_their_product(run: xr.Dataset) -> None:
    ax = plots.margin_efficiency(run)
    assert len(ax.lines) == 4
    for line, name in zip(ax.lines, FACTORS, strict=True):
        assert line.get_xdata().tolist() == [0, 5, 10]
        np.testing.assert_array_equal(line.get_ydata(), run[name].isel(layer=1))
    assert ax.get_xlabel() == "epoch"
    assert legend(ax)[-1] == "their product, the margin efficiency"
    top = max(ax.collections[0].get_paths()[0].vertices[:, 1])
    assert top == pytest.approx(0.8 * 0.7 * 0.9 * 0.9)


def test_runs_are_compared_over_the_steps_that_they_share(run: xr.Dataset) -> None:
    assert len(plots.margin_efficiency({"a": run, "b": run}).lines) == 8
    assert len(plots.margin_efficiency({"a": run, "b": run.isel(epoch=-1)}).patches) == 10


@pytest.mark.parametrize("gone", ["margin_efficiency", "margin_spread", "margin_classes"])
def test_a_dataset_without_the_factors_is_refused(gone: str) -> None:
    with pytest.raises(ValueError, match=r"`dataset\['a'\]` has no margin efficiency; measure it with"):
        plots.margin_efficiency({"a": head(0.9, 0.8, 0.7, 0.6).drop_vars(gone)})
    with pytest.raises(ValueError, match="`dataset` has no margin efficiency"):
        plots.margin_efficiency(head(*[np.nan] * 4))
    assert not plt.get_fignums()

"""A dataset offers what the library does with it under its attribute `nc`."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import neurocollapse as nc

DATASET = xr.Dataset({"compression": ("layer", [2.0, 0.25], {"heading": "D"})}, {"layer": ["fc1", "fc2"]})


def test_every_figure_of_a_dataset_is_offered_and_no_other():
    takes = {
        name
        for name in nc.plot.__all__
        if inspect.isfunction(getattr(nc.plot, name))
        and next(iter(inspect.signature(getattr(nc.plot, name)).parameters), "") == "dataset"
    }
    assert dir(DATASET.nc.plot) == sorted(takes)


def test_a_figure_has_the_documentation_and_the_other_arguments_of_its_function():
    draw = DATASET.nc.plot.compression
    assert draw.__doc__ == nc.plot.compression.__doc__
    assert list(inspect.signature(draw).parameters) == list(inspect.signature(nc.plot.compression).parameters)[1:]
    ax = draw(fit=False, ax=nc.plot.offscreen_axes())
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), DATASET["compression"])


def test_methods_are_the_functions_of_the_same_name(tmp_path):
    assert str(DATASET.nc.table()) == str(nc.table(DATASET))
    assert str(DATASET.nc.check("compression@last > 0.2")) == str(nc.check(DATASET, "compression@last > 0.2"))
    assert DATASET.nc.report(tmp_path / "page.html", title="a title").read_text().count("a title")
    xr.testing.assert_identical(nc.open(DATASET.nc.save(tmp_path / "kept.nc")), DATASET)


def test_an_unknown_figure_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'layerz'"):
        _ = DATASET.nc.plot.layerz


@pytest.mark.parametrize("module", ["", ".support.files", ".metrics", ".plots", ".report", ".theory", ".dynamics"])
def test_whatever_returns_datasets_registers_it(module):
    code = f"import neurocollapse{module}, xarray; assert 'table' in dir(xarray.Dataset().nc)"
    subprocess.run([sys.executable, "-c", code], check=True)


def completed(shell, text: str) -> set[str]:
    """What IPython offers after a text."""
    with provisionalcompleter():
        return {one.text.lstrip(".") for one in shell.Completer.completions(text, len(text))}


def test_tab_finds_figures_before_their_first_use():
    code = (
        "import sys, neurocollapse as nc, xarray as xr\n"
        "assert 'plot' in dir(nc) and 'layers' in dir(xr.Dataset().nc.plot)\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    shell = InteractiveShell()
    shell.push({"nc": nc, "dataset": DATASET})
    assert "plot" in completed(shell, "nc.")
    assert completed(shell, "nc.plot.") == set(nc.plot.__all__)
    shell.Completer.use_jedi = True
    assert {"table", "to_table", "plot", "report"} <= completed(shell, "dataset.nc.")
    assert set(dir(DATASET.nc.plot)) <= completed(shell, "dataset.nc.plot.")

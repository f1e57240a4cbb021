"""Reports of datasets with a leading dimension, of parts of them, and of neural collapse."""

import importlib
import json
import re

import pandas as pd
import pytest
import xarray as xr

import neurocollapse as nc


@pytest.fixture
def run(make_analysis):
    """Three epochs of one network."""
    steps = [make_analysis([4.0, 2.0 / step, 0.5 / step], seed=step, created=f"at {step}") for step in (1, 2, 3)]
    return xr.concat(steps, dim=pd.Index([0, 10, 20], name="epoch"), combine_attrs="drop_conflicts")


@pytest.fixture
def drawn(tmp_path):
    """The text of a report, and how many figures it has."""

    def drawn(results) -> tuple[str, int]:
        page = nc.report(results, tmp_path / "page.html").read_text(encoding="utf-8")
        plain = re.sub(r"<svg.*?</svg>|<style.*?</style>", "", page, flags=re.DOTALL)
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", plain)), page.count("<figure")

    return drawn


@pytest.fixture
def words(drawn, monkeypatch):
    """The text of a report without its figures, which take most of the time."""
    page = importlib.import_module("neurocollapse.report.page")  # `neurocollapse.report` itself names the function
    monkeypatch.setattr(page, "_pictures", lambda *_: [])
    return lambda results: drawn(results)[0]


def test_the_last_step_is_told_and_all_are_drawn(drawn, run):
    text, figures = drawn(run)
    assert "in 10 classes, at epoch 20, the last of 3." in text
    assert "HybridMLP (epoch 20, the last of 3)" in text
    assert "Over training, epoch by epoch" in text
    assert "to 0.167 (layers.2)" in text  # 0.5 / 3
    assert figures == 4 + 1 + 3  # curves over the layers; over the epochs a heat map, and a figure a family


def test_a_single_step_needs_no_curves_over_steps(drawn, run):
    text, figures = drawn(run.isel(epoch=[2]))
    assert "at epoch 20." in text
    assert "epoch by epoch" not in text
    assert figures == 4


@pytest.mark.parametrize("chosen", [{"layer": 1}, {"layer": 1, "epoch": 1}, {"epoch": 0}, {"layer": [2]}], ids=str)
@pytest.mark.parametrize("drop", [False, True])
def test_what_is_cut_out_is_reported(words, run, chosen, drop):
    assert "Compression D" in words(run.isel(chosen, drop=drop))


@pytest.mark.parametrize("dim", ["model", "run", "network"])
def test_models_are_compared(words, make_analysis, dim):
    both = xr.concat([make_analysis([8.0, 0.4]), make_analysis([8.0, 0.01])], dim=pd.Index(["MLP", "hybrid"], name=dim))
    text = words(both)
    assert "Neural collapse, layer by layer: MLP, hybrid" in text
    assert "hybrid is 40 times more compressed than MLP" in text


def test_networks_with_and_without_steps_share_a_page(drawn, run, make_analysis):
    text, _ = drawn({"trained": run, "ready": make_analysis([4.0, 2.0, 1.0])})
    assert "trained (epoch 20, the last of 3)" in text
    assert "Over training, epoch by epoch" in text


def test_a_saved_run_is_reported_as_it_was(words, tmp_path, run):
    assert words(run) == words(nc.open(nc.save(run, tmp_path / "run.nc")))


def test_steps_of_different_layers_are_saved_and_reported(drawn, make_analysis, tmp_path):
    steps = [make_analysis([4.0, 2.0]), make_analysis([4.0, 2.0, 1.0])]
    joined = xr.concat(steps, dim="step", join="outer", coords="different", compat="equals")
    assert "3 layers" in drawn(nc.open(nc.save(joined, tmp_path / "run.nc")))[0]


def test_attributes_that_joining_dropped_are_not_missed(drawn, run):
    run.attrs = {}
    for name in run.variables:
        run[name].attrs = {}
    assert "3 layers in 10 classes, at epoch 20, the last of 3." in drawn(run)[0]


def test_warnings_of_a_joined_dataset_still_stand_first(words, run):
    assert "few samples" in words(run.assign_attrs(warnings=json.dumps(["few samples"])))


def test_a_dataset_without_compression_is_reported_with_what_it_has(drawn, make_analysis):
    text, figures = drawn(make_analysis()[["separation", "discrimination"]])
    assert "Compression D" not in text
    assert "Separation S (centred means, absolute cosine) goes from" in text
    assert figures == 1


@pytest.fixture
def collapsing(make_analysis):
    """An analysis with two measures of neural collapse."""
    of = {"family": "collapse", "better": "lower", "at_collapse": 0.0, "reference": "Papyan, Han, Donoho, 2020"}
    nc1 = {**of, "heading": "NC1", "long_name": "within over between", "convention": "tr(Σ_W Σ_B⁺)/K", "symbol": "S"}
    nc4 = {**of, "heading": "NC4", "long_name": "agreement", "better": "higher", "at_collapse": 1.0}
    values = {"nc1": ("layer", [3.0, 0.5], nc1), "nc4": ("layer", [0.6, 0.975], nc4)}
    return make_analysis([4.0, 1.0]).assign(values)


def test_collapse_has_a_section_of_its_own(drawn, collapsing):
    text, figures = drawn({"net": collapsing})
    section = text[text.rindex("Neural collapse of the last layer At") : text.rindex("Numbers")]
    assert "NC1 0.500 0 lower within over between: S " in section
    assert "At the last layer: 1 of 2 measures lie within 0.1 of their limit, farthest NC1 with 0.500 for 0." in section
    assert "NC1, S : within over between tr(Σ W Σ B ⁺)/K 0 at full collapse; lower is more collapsed. Papyan" in text
    assert "NC4 0.975 1 higher agreement" in section
    assert "NC1: variability collapse" in section
    assert figures == 4 + 2


def test_networks_without_measures_of_collapse_have_a_dash(words, collapsing, make_analysis):
    assert "NC1 0.500 – 0 lower" in words({"a": collapsing, "b": make_analysis([4.0, 1.0])})
    assert "Neural collapse of the last layer" not in words(make_analysis())


@pytest.mark.usefixtures("words")
def test_many_columns_are_one_table_a_family(tmp_path, collapsing):
    wide = collapsing.assign(
        {f"own{i}": ("layer", [1.0, 2.0], {"heading": f"o{i}", "family": "own"}) for i in range(3)}
    )
    page = nc.report(wide, tmp_path / "page.html").read_text(encoding="utf-8")
    families = re.findall(r"<h3>HybridMLP: (.*?)</h3>", page)
    assert families == ["variability", "decay", "geometry", "collapse", "own"]
    assert page.count(">layer</th>") == 5


def test_two_dimensions_in_front_are_refused_by_name(tmp_path, run):
    nested = xr.concat([run, run], dim=pd.Index([0, 1], name="seed"))
    with pytest.raises(
        ValueError, match=r"`results\['net'\]` has 2 dimensions in front .*seed, epoch.*isel\(seed=-1\)"
    ):
        nc.report({"net": nested}, tmp_path / "page.html")

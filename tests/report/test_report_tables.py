"""One table for terminals, reports and notebooks, made of what the variables say of themselves."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import neurocollapse as nc
from neurocollapse.metrics import Quantity
from neurocollapse.report import table
from neurocollapse.statistics import MomentCollection, Reader
from neurocollapse.support.formulas import typeset

OWN = Quantity(
    name="mean_norm",
    of=lambda layer: layer.moments.mean.norm(),
    heading="‖M‖",
    long_name="norm of the class means",
    symbol=r"\|M\|_F",
    convention="Frobenius, uncentred",
    reference="Somebody, 2025",
    better="lower",
    bounds=(0.0, np.inf),
)
READING = Quantity(
    name="reader_norm",
    of=lambda layer: layer.reader.weight.norm(),
    heading="‖W‖",
    long_name="norm of the classifier",
    needs=("reader",),
)
SECOND = Quantity(
    name="second_look",
    of=lambda layer: 0.125,
    heading="NC1 of mine",
    convention="tr(Σ_W Σ_B⁺)/K",
    gather=lambda layer, rows: rows.features,
    at_collapse=0.0,
    family="my own",
)


@pytest.fixture
def moments():
    """Two layers, the second of which a linear layer reads."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 3
    layers = {
        name: nc.ClassMoments.from_features(torch.randn(30, 4, generator=generator), labels) for name in ("fc1", "fc2")
    }
    return MomentCollection(layers, readers={"fc2": Reader(torch.full((3, 4), 0.5, dtype=torch.float64))})


def measured(moments, kind: str) -> xr.Dataset:
    """A dataset with a user's own quantity of one kind."""
    if kind == "means only":
        return nc.measure(moments, quantities=["variability", OWN])
    if kind == "with a reader":
        return nc.measure(moments, quantities=["variability", READING])
    dataset = nc.measure(moments, quantities="variability")  # what a second pass adds, without the pass
    return dataset.assign(second_look=("layer", [0.5, 0.125], SECOND.attributes()))


KINDS = {"means only": OWN, "with a reader": READING, "with a second pass": SECOND}


@pytest.mark.parametrize("kind", KINDS)
def test_a_users_own_number_is_in_every_table_and_definition(tmp_path, moments, kind):
    own, dataset = KINDS[kind], measured(moments, kind)
    assert own.heading in str(table(dataset)).splitlines()[0]
    assert f">{own.heading}<" in table(dataset)._repr_html_()
    saved = nc.save(dataset, tmp_path / "measured.nc")
    for results in (dataset, nc.open(saved)):
        page = nc.report(results, tmp_path / "page.html").read_text(encoding="utf-8")
        assert f'<th scope="col">{own.heading}</th>' in page
        definition = re.search(rf"<dt>{re.escape(own.heading)}.*?</dd>", page, flags=re.DOTALL)[0]
        for said in (own.long_name, own.convention, own.reference):
            assert typeset(said) in definition
        assert f"{own.long_name[:1].upper()}{own.long_name[1:]} by layer" in page


def test_a_definition_says_range_limit_direction_and_symbol(tmp_path, moments):
    page = nc.report(measured(moments, "means only"), tmp_path / "page.html").read_text(encoding="utf-8")
    definition = re.search(r"<dt>‖M‖.*?</dd>", page, flags=re.DOTALL)[0]
    assert '<msub><mo stretchy="false">‖</mo><mi>F</mi></msub></math>' in definition
    assert "at least 0; lower is more collapsed. Somebody, 2025" in definition


def test_layers_that_lack_what_a_number_needs_have_a_dash(moments):
    rows = table(measured(moments, "with a reader")).rows
    assert [row[-1] for row in rows] == ["–", "1.73"]


def test_columns_come_from_headings_in_the_order_of_the_dataset(make_analysis):
    shown = table(make_analysis())
    assert shown.headings == [
        "layer",
        "type",
        "features",
        "tr Σ_W",
        "tr Σ_B",
        "D",
        "D / D before",
        "S",
        "discrimination",
    ]
    assert shown.rows[0][:3] == ("layers.0", "Sequential", "64")
    assert len(shown.rows) == 7


def test_a_file_of_an_older_version_shows_all_numbers_under_their_names(make_analysis, tmp_path):
    old = make_analysis()
    for name in old.variables:
        old[name].attrs = {}
    old = nc.open(nc.save(old, tmp_path / "old.nc"))
    floats = [name for name, values in old.data_vars.items() if values.dims == ("layer",)]
    assert table(old).headings[3:] == floats
    page = nc.report(old, tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<th scope="col">separation_etf</th>' in page


def test_a_narrow_terminal_gets_several_blocks_that_repeat_the_layer(make_analysis):
    for width in (24, 40, 60, 80):
        lines = table(make_analysis()).as_text(width).splitlines()
        assert max(map(len, lines)) <= width
        headings = [line for line in lines if line.startswith("layer ")]
        assert len(headings) > 1 or width == 80
        assert " ".join(headings).split().count("discrimination") == 1


def test_blocks_break_between_families_where_they_can(make_analysis):
    dataset = make_analysis()
    for index, name in enumerate(("separation", "discrimination")):
        dataset[name].attrs |= {"heading": f"a heading of thirty letters {index}"}
    first, second = table(dataset).as_text(100).split("\n\n")
    assert "D / D before" in first
    assert "letters" not in first
    assert second.count("a heading of thirty letters") == 2


def test_a_name_wider_than_the_terminal_does_no_harm(make_analysis):
    shown = table(make_analysis([1.0], names=["a" * 90])).as_text(20)
    assert shown.count("a" * 90) == len(table(make_analysis()).columns)


def test_the_terminal_decides_the_width(make_analysis, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, str(table(make_analysis())).splitlines())) <= 40


def test_steps_show_the_last_one_and_say_so(make_analysis):
    run = xr.concat([make_analysis([4.0, 2.0]), make_analysis([4.0, 1.5])], dim=pd.Index([0, 10], name="epoch"))
    shown = table(run)
    assert str(shown).startswith("epoch 10\n\n")
    assert shown.rows[1][5] == "1.50"
    assert "epoch 10" in shown._repr_html_()


def test_models_stand_one_below_the_other(make_analysis):
    both = xr.concat(
        [make_analysis([4.0, 2.0]), make_analysis([3.0])], dim=pd.Index(["MLP", "CNN"], name="model"), join="outer"
    )
    shown = table(both)
    assert shown.headings[:2] == ["model", "layer"]
    assert [row[:2] for row in shown.rows] == [
        ("MLP", "layers.0"),
        ("MLP", "layers.1"),
        ("CNN", "layers.0"),
        ("CNN", "layers.1"),
    ]
    assert shown.rows[3][2:4] == ("–", "–")


@pytest.mark.parametrize("drop", [False, True])
def test_one_layer_is_one_row(make_analysis, drop):
    shown = table(make_analysis().isel(layer=2, drop=drop))
    assert [row[0] for row in shown.rows] == ["–" if drop else "layers.2"]
    assert "2.30" in shown.rows[0]


def test_numbers_of_the_whole_network_stand_below(make_analysis):
    dataset = make_analysis().assign(effective_depth=((), 3, {"heading": "effective depth"}))
    assert str(table(dataset)).endswith("\n\neffective depth: 3")
    assert "effective depth" in table(dataset)._repr_html_()


def test_headings_are_typeset_in_notebooks(make_analysis):
    page = table(make_analysis())._repr_html_()
    heads = re.findall(r"<th [^>]*>(.*?)</th>", page)
    letters = [re.sub("<br>", " | ", re.sub(r"<(?!br)[^>]+>", "", head)) for head in heads]
    assert letters == [
        "layer", "type", "features", "trΣW", "trΣB", "Dℓ", "D / D before | Dℓ/Dℓ−1", "Sℓ", "discrimination | Sℓunc"
    ]  # fmt: skip
    assert page.count("<math") == 6


def test_a_wide_table_is_several_in_a_notebook_as_on_a_terminal(make_analysis):
    dataset = make_analysis()
    for index in range(12):
        dataset[f"more{index}"] = dataset["separation"].assign_attrs(heading=f"more numbers {index}", symbol="")
    assert table(dataset)._repr_html_().count("<table>") == len(table(dataset).fitted(110)) > 1


def test_what_users_name_is_text_in_notebooks(make_analysis):
    page = table(make_analysis([1.0], names=["<b>"]))._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        ({"a": 1}, TypeError, "must be an xarray.Dataset, got dict"),
        (xr.Dataset(), ValueError, "no number along `layer`"),
        (xr.Dataset({"a": ("layer", ["words"])}), ValueError, "no number along `layer`"),
        (xr.Dataset({"a": (("x", "y", "layer"), np.ones((2, 2, 2)))}), ValueError, r"2 dimensions in front .*x, y"),
    ],
)
def test_what_is_no_table_gets_one_clear_line(dataset, error, message):
    with pytest.raises(error, match=message) as caught:
        table(dataset)
    assert "\n" not in str(caught.value)

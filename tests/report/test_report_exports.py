"""Tables for papers and other programs: what is printed reads back as what was measured."""

import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.mathtext import MathTextParser

from neurocollapse.metrics import QUANTITIES
from neurocollapse.report import table

CURVES = [[11.2, 6.4, 2.3, 0.031], [3.2e-8, 1.0, 250.0], [0.5, 0.25], [1437.0, 12.0]]


def number(text: str) -> float:
    """A number as LaTeX or Markdown shows it."""
    text = text.strip().strip("$")
    if text in ("–", "--"):
        return float("nan")
    text = re.sub(r"\\times 10\^\{(-?\d+)\}", r"e\1", text.replace(r"\infty", "inf"))
    return float(text)


def rows_of_latex(text: str) -> list[list[str]]:
    body = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
    return [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in body.splitlines()]


def rows_of_markdown(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()]


@pytest.fixture
def with_intervals(make_analysis) -> xr.Dataset:
    """D with its 95 % interval."""
    dataset = make_analysis([4.0, 2.0, 1.0])
    ends = np.stack([dataset["compression"].values * 0.9, dataset["compression"].values * 1.1], axis=1)
    attributes = next(one for one in QUANTITIES if one.name == "compression_interval").attributes()
    return dataset.assign(compression_interval=(("layer", "bound"), ends, attributes))


@pytest.mark.parametrize("values", CURVES, ids=str)
def test_latex_and_markdown_read_back_as_the_numbers(make_analysis, values):
    shown = table(make_analysis(values))
    column = shown.headings.index("D")
    for rows in (rows_of_latex(shown.to_latex()), rows_of_markdown(shown.to_markdown())[2:]):
        assert [row[0].strip() for row in rows] == [f"layers.{index}" for index in range(len(values))]
        np.testing.assert_allclose([number(row[column]) for row in rows], values, rtol=0.02)  # two digits at least


def test_a_column_has_the_same_number_of_decimals(make_analysis):
    shown = table(make_analysis([11.2, 6.4, 0.031]))
    for row in rows_of_latex(shown.to_latex()):
        assert len(row[shown.headings.index("D")].strip().partition(".")[2]) == 3
    for row in rows_of_latex(shown.to_latex(decimals=1)):
        assert len(row[shown.headings.index("D")].strip().partition(".")[2]) == 1


def test_what_is_undefined_or_infinite_has_a_sign_of_its_own(make_analysis):
    shown = table(make_analysis([4.0, float("inf"), float("nan")]))
    column = shown.headings.index("D")
    assert [row[column].strip() for row in rows_of_latex(shown.to_latex())] == ["4", r"$\infty$", "--"]
    assert [row[column] for row in rows_of_markdown(shown.to_markdown())[2:]] == ["4", "inf", "–"]


def test_negative_numbers_are_formulas():
    shown = table(xr.Dataset({"gnc2": ("layer", [-0.5, 0.25])}))
    assert [row[-1].strip() for row in rows_of_latex(shown.to_latex())] == ["$-0.500$", "0.250"]


@pytest.mark.parametrize("name", ["fc_1", "a&b", "100 %", "x^2", "{y}", "a|b", "c$d", "~", "back\\slash", "Σ_W"])
def test_names_are_escaped(make_analysis, name):
    shown = table(make_analysis([2.0, 1.0], names=[name, "plain"]))
    latex, columns = shown.to_latex(), len(shown.headings)
    assert {len(row) for row in rows_of_latex(latex)} == {columns}
    unescaped = re.sub(
        r"\\(?:[&%$#_{}]|textbackslash\{\}|textasciitilde\{\}|textasciicircum\{\})|\$[^$]*\$| \\\\(?=\n)", "", latex
    )
    body = unescaped.partition("\\midrule\n")[2].partition("\\bottomrule")[0].replace("&", "")
    assert not re.search(r"[\\%$#_{}~^]", body)
    assert {len(row) for row in rows_of_markdown(shown.to_markdown())} == {columns}


def test_every_symbol_that_stands_above_a_column_can_be_set():
    data = {one.name: (one.dims, np.ones((1,) * len(one.dims)), one.attributes()) for one in QUANTITIES}
    head = table(xr.Dataset({name: of for name, of in data.items() if of[0] == ("layer",)})).to_latex().splitlines()[2]
    symbols = [
        cell.strip() for cell in re.split(r"(?<!\\)&", head.removesuffix(r" \\")) if cell.strip().startswith("$")
    ]
    assert len(symbols) > 20
    for symbol in symbols:
        MathTextParser("path").parse(symbol)
    assert r"\alpha" in head
    assert r"\arg" not in head  # a whole formula is left to its heading


def test_two_columns_with_the_same_symbol_keep_their_headings():
    both = {name: ("layer", [1.0], {"heading": name, "symbol": "r"}) for name in ("one rank", "other rank")}
    assert table(xr.Dataset(both)).to_latex().splitlines()[2] == r"layer & one rank & other rank \\"


def test_intervals_have_a_cell_in_texts_and_two_columns_in_a_frame(with_intervals):
    shown = table(with_intervals)
    assert next(row[-1].strip() for row in rows_of_latex(shown.to_latex())) == "$[3.60, 4.40]$"
    assert next(row[-1] for row in rows_of_markdown(shown.to_markdown())[2:]) == "[3.60, 4.40]"
    frame = shown.to_pandas()
    np.testing.assert_array_equal(frame["D, 95 %, low"], with_intervals["compression_interval"][:, 0])
    np.testing.assert_array_equal(frame["D, 95 %, high"], with_intervals["compression_interval"][:, 1])


def test_a_frame_holds_the_numbers_themselves(make_analysis):
    dataset = make_analysis()
    frame = dataset.nc.to_table()
    np.testing.assert_array_equal(frame["D"], dataset["compression"])
    assert frame.index.name == "layer"
    assert list(frame.index) == [f"layers.{index}" for index in range(7)]
    assert frame["features"].dtype.kind == "i"
    assert frame["type"].iloc[0] == "Sequential"


@pytest.mark.parametrize(("dim", "values"), [("epoch", [0, 10]), ("step", [0.5, 1.5]), ("checkpoint", ["a", "b"])])
def test_every_step_has_its_rows(make_analysis, dim, values):
    run = xr.concat([make_analysis([4.0, 2.0]), make_analysis([4.0, 1.5])], dim=pd.Index(values, name=dim))
    frame = run.nc.to_table("pandas")
    assert frame.index.names == [dim, "layer"]
    assert frame.loc[(values[1], "layers.1"), "D"] == 1.5
    assert len(run.nc.to_table("pandas", steps="last")) == 2
    assert len(rows_of_markdown(run.nc.to_table("markdown"))) == 2 + 4
    assert rows_of_latex(run.nc.to_table("latex"))[3][0].strip().startswith(f"{values[1]}")


def test_models_and_steps_name_the_rows_together(make_analysis):
    run = xr.concat([make_analysis([4.0, 2.0]), make_analysis([4.0, 1.5])], dim=pd.Index([0, 10], name="epoch"))
    both = xr.concat([run, run * 2], dim=pd.Index(["MLP", "CNN"], name="model"), combine_attrs="override")
    frame = both.nc.to_table("pandas")
    assert frame.index.names == ["model", "epoch", "layer"]
    assert frame.loc[("CNN", 10, "layers.1"), "D"] == 3.0


def test_a_format_or_choice_that_there_is_not_is_refused(make_analysis):
    with pytest.raises(ValueError, match="`format` must be one of 'pandas', 'latex', 'markdown', 'text', got 'html'"):
        make_analysis().nc.to_table("html")
    with pytest.raises(ValueError, match="`steps` must be one of 'last', 'all'"):
        table(make_analysis(), steps="first")

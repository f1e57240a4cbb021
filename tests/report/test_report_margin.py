"""Reports of networks whose head was measured: a sentence, a bar a network, a table, curves over training."""

import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import neurocollapse as nc
from neurocollapse.metrics import QUANTITIES
from neurocollapse.report.summary import glance_rows, sentences

ATTRIBUTES = {quantity.name: quantity.attributes() for quantity in QUANTITIES}


@pytest.fixture
def measured(make_analysis):
    """A factory of analyses whose last layer but one is read by the head."""

    def measured(*factors: float) -> xr.Dataset:
        names = ("margin_spread", "margin_duality", "margin_samples", "margin_classes")
        values = dict(zip(names, factors, strict=True)) | {"margin_efficiency": np.prod(factors), "margin_best": 20.0}
        variables = {name: ("layer", [np.nan, value, np.nan], ATTRIBUTES[name]) for name, value in values.items()}
        return make_analysis([3.0, 1.0, 0.2], names=["fc1", "fc2@in", "fc2"]).assign(variables)

    return measured


def text_and_figures(results, folder) -> tuple[str, list[str]]:
    page = nc.report(results, folder / "page.html").read_text(encoding="utf-8")
    section = page.partition('<section id="margin">')[2].partition("</section>")[0]
    plain = re.sub(r"<svg.*?</svg>", "", section, flags=re.DOTALL)
    titles = re.findall(r"<figcaption><strong>(.*?)</strong>", section)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", plain)), titles


def test_one_network_has_a_sentence_a_bar_and_a_table(measured, tmp_path) -> None:
    dataset = measured(0.9, 0.8, 0.7, 0.6)
    (sentence,) = [text for text in sentences(dataset) if "margin" in text]
    assert sentence == (
        "The head at fc2@in realises 0.302 of the margin that its norms allow; spread within classes leaves 0.900, "
        "its direction 0.800, unequal samples 0.700, unequal wrong classes 0.600."
    )
    text, titles = text_and_figures(dataset, tmp_path)
    assert titles == ["What becomes of the largest margin."]
    assert "Margin efficiency by layer" not in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "margin efficiency 0.302" in text
    assert "margin, best 20" in text


def test_networks_are_compared_and_one_without_a_head_is_not_drawn(measured, make_analysis, tmp_path) -> None:
    both = {"a": measured(0.9, 0.8, 0.7, 0.6), "b": measured(0.5, 0.5, 0.5, 0.5), "c": make_analysis([3.0, 1.0, 0.2])}
    text, titles = text_and_figures(both, tmp_path)
    assert len(titles) == 1
    assert "margin efficiency 0.3024 0.0625 –" in text
    assert not any("margin" in row[0].exact for row in glance_rows(both))


def test_over_training_the_factors_are_drawn_once_more(measured, tmp_path) -> None:
    steps = [measured(0.8, -0.7, np.nan, np.nan), measured(0.9, 0.8, 0.7, 0.6)]
    run = xr.concat(steps, pd.Index([0, 9], name="epoch"), combine_attrs="drop_conflicts")
    _, titles = text_and_figures(run, tmp_path)
    assert titles == ["What becomes of the largest margin.", "What is left of the margin, epoch by epoch."]


def test_an_undefined_efficiency_is_said_to_be(measured) -> None:
    assert "The margin efficiency at fc2@in is undefined, as the mean margin is not positive." in sentences(
        measured(0.8, -0.7, np.nan, np.nan)
    )


def test_a_part_of_the_numbers_is_a_table_without_a_bar(measured, tmp_path) -> None:
    text, titles = text_and_figures(measured(0.9, 0.8, 0.7, 0.6).drop_vars("margin_classes"), tmp_path)
    assert not titles
    assert "margin efficiency 0.302" in text


def test_without_a_head_there_is_no_section(make_analysis, tmp_path) -> None:
    assert text_and_figures(make_analysis([3.0, 1.0]), tmp_path) == ("", [])

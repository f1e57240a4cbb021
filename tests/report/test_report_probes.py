"""What probes found, as pictures, a table and a sentence of the page."""

import importlib

import numpy as np
import pytest

from neurocollapse.metrics import QUANTITIES
from neurocollapse.report import report

ATTRIBUTES = {quantity.name: quantity.attributes() for quantity in QUANTITIES}
PROBED = {
    "probe_accuracy_train": [0.61, 0.91, 0.99, 1.0],
    "probe_accuracy_test": [0.52, 0.89, 0.97, 0.963],
    "ncm_accuracy_train": [0.43, 0.82, 0.985, 0.995],
    "ncm_accuracy_test": [0.41, 0.81, 0.952, 0.961],
    "numerical_rank": [44.0, 31.0, 15.0, 9.0],
    "effective_rank": [33.3, 21.7, 12.1, 8.77],
}


@pytest.fixture
def probed(make_analysis):
    measured = {name: ("layer", values, ATTRIBUTES[name]) for name, values in PROBED.items()}
    return make_analysis([4.0, 2.0, 0.5, 0.1]).assign(measured)


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The page of some results without its curves, which take most of the time."""
    monkeypatch.setattr(importlib.import_module("neurocollapse.report.page"), "_pictures", lambda *_: [])
    return lambda results: report(results, tmp_path / "words.html").read_text(encoding="utf-8")


def test_probes_are_pictured_tabled_and_told(tmp_path, probed):
    page = report({"net": probed}, tmp_path / "probed.html").read_text(encoding="utf-8")
    assert "What can be read from each layer." in page
    assert "How many directions the features use." in page
    assert "<td>0.9900</td><td>0.9700</td><td>0.9850</td><td>0.9520</td></tr>" in page
    assert "<td>15</td><td>12.10</td></tr>" in page
    assert "samples best at layers.2, with accuracy 0.970; it stays within 0.01 of that from layers.2 on." in page
    assert "The numerical rank of the features goes from 44 to 9." in page


@pytest.mark.parametrize(
    ("accuracy", "sentence"),
    [
        ([0.5, 0.9, 0.7, 0.8], "best at layers.1, with accuracy 0.900."),
        ([0.9, 0.9, 0.9, 0.9], "best at input, with accuracy 0.900; it stays within 0.01 of that from input on."),
        (
            [np.nan, 0.9, 0.5, 0.9],
            "best at layers.1, with accuracy 0.900; it stays within 0.01 of that from layers.3 on.",
        ),
    ],
)
def test_the_sentence_on_probes_is_true_of_curves_that_fall(words, probed, accuracy, sentence):
    changed = probed.assign(probe_accuracy_test=("layer", accuracy))
    changed = changed.assign_coords(layer=["input", "layers.1", "layers.2", "layers.3"])
    assert sentence in words({"net": changed})


@pytest.mark.parametrize(
    ("attributes", "split"), [({"probe_test_samples": 40}, False), ({"probe_test_samples": 40, "probe_seed": 3}, True)]
)
def test_the_samples_of_the_probes_are_told_and_the_seed_where_there_was_a_split(words, probed, attributes, split):
    page = words({"net": probed.assign_attrs(attributes)})
    assert '<th scope="row">samples that the probes are tested on</th><td class="text">40</td>' in page
    assert ("seed of the split" in page) == split


def test_probes_that_are_undefined_everywhere_are_passed_over(words, probed):
    empty = probed.assign({name: probed[name] * np.nan for name in PROBED})
    page = words({"net": empty})
    assert "A linear probe reads" not in page
    assert "numerical rank of the features goes" not in page


def test_networks_of_which_one_has_no_probes_are_compared_without_them(tmp_path, probed, make_analysis):
    page = report({"with": probed, "without": make_analysis()}, tmp_path / "two.html").read_text(encoding="utf-8")
    assert "What can be read" not in page
    assert page.count('<th scope="col">probe, held out</th>') == 1

"""The page: complete, self-contained, safe, reproducible, small."""

import importlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from neurocollapse import plots
from neurocollapse.report import report
from neurocollapse.support.atomic import ResultFileError

EVIL = "<script>alert('x')</script> \"'&$"


class Page(HTMLParser):
    """Text, tags, attributes, ids and well-formedness of a page."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.ids, self.words, self._open = [], [], [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def write(tmp_path):
    """Write a report and parse it."""

    def write(results, **options) -> Page:
        return Page(report(results, tmp_path / "report.html", **options).read_text(encoding="utf-8"))

    return write


@pytest.fixture
def read(write, monkeypatch):
    """The words of a report without its curves, which take most of the time and have tests of their own."""
    page = importlib.import_module("neurocollapse.report.page")  # `neurocollapse.report` itself names the function
    monkeypatch.setattr(page, "_pictures", lambda *_: [])
    monkeypatch.setattr(page, "_verification_pictures", lambda *_: [])
    return lambda results, **options: write(results, **options).text


def test_the_headline_says_what_was_measured_and_found(read, make_analysis):
    text = read(make_analysis([8.0, 4.0, 2.0, 1.0]))
    assert "4 layers of HybridMLP (123,456 parameters), measured on 1,437 samples in 10 classes." in text
    assert "Compression D falls from 8 (layers.0) to 1 (layers.3), on average a factor 0.500 per layer" in text
    assert "95 % interval" in text
    assert "R² = 1.00" in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, 2.0, 4.0], "rises from 1"),
        ([1.0, 0.3, 0.0], "to 0 (layers.2), exact collapse"),
        ([2.0], "Compression D is 2 at layers.0."),
        ([np.nan, np.nan], "undefined at every layer"),
        ([1.0, 9.0, 0.5, 8.0, 1.1], "describes this curve poorly"),
        ([1.0, 9.0, 0.5, 8.0, 1.1], "no steady decay"),
        ([1.0, np.inf], "to ∞"),
    ],
)
def test_the_headline_is_true_of_curves_that_do_not_fall(read, make_analysis, values, words):
    assert words in read(make_analysis(values))


def test_factors_beyond_the_largest_float_are_infinite(read, make_analysis):
    fit = {"decay_slope": 0.0, "decay_slope_lower_of_line": -1052.0, "decay_slope_upper_of_line": 1052.0}
    steep = make_analysis([1e30, 1e-32, 1e30]).assign(fit)
    text = read({"a": steep, "b": steep.assign(decay_slope=800.0)})
    assert "on average a factor 1 per layer (95 % interval of the line 0 to ∞)" in text
    assert "on average a factor ∞ per layer" in text
    assert "factor per layer 1 ∞ 95 % interval of the line 0 to ∞ 0 to ∞" in text


def test_networks_are_compared_in_words(read, make_analysis):
    text = read({"MLP": make_analysis([8.0, 0.4]), "hybrid": make_analysis([8.0, 0.01])})
    assert "hybrid is 40 times more compressed than MLP (D = 0.0100 against 0.400)" in text


def test_every_layer_is_in_the_table_with_its_numbers(write, make_analysis):
    dataset = make_analysis([11.23456, 1e-9, 0.0])
    page = write(dataset)
    for expected in ("layers.0", "layers.2", "Sequential", "64", "1.12×10¹", "1.00×10⁻⁹"):
        assert expected in page.words


def test_nothing_is_loaded_and_nothing_runs(write, make_analysis, make_verification):
    page = write(
        {"a": make_analysis(), "b": make_verification()}, figures={"curve": plots.compression(make_analysis()).figure}
    )
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    for _, key, value in page.attributes:
        assert not key.startswith("on")
        if key in ("src", "href", "xlink:href", "action"):
            kinds = ("image/svg+xml;charset=utf-8,", "image/png;base64,", "text/csv;charset=utf-8,")
            assert value.startswith(("#", *(f"data:{kind}" for kind in kinds)))
    policy = next(value for _, key, value in page.attributes if key == "content" and "default-src" in value)
    assert "default-src 'none'" in policy


def test_ids_are_unique_and_every_reference_is_found(write, make_analysis, make_verification):
    figures = {"one": plots.layers(make_analysis()), "two": plots.layers(make_analysis())}
    page = write(
        {"a": make_analysis(), "b": make_analysis(), "c": make_verification(), "d": make_verification()},
        figures=figures,
    )
    assert len(page.ids) == len(set(page.ids))
    references = [value[1:] for _, key, value in page.attributes if key == "href" and value.startswith("#")]
    references += [found for _, _, value in page.attributes for found in re.findall(r"url\(#([^)]+)\)", value or "")]
    assert references
    assert set(references) <= set(page.ids)


def test_what_users_name_is_text_and_never_markup(write, make_analysis, make_verification):
    dataset = make_analysis(
        names=[EVIL, *"bcdefg"], class_names=[EVIL, *"123456789"], model=EVIL, warnings=json.dumps([EVIL]),
        skipped_layers=json.dumps({EVIL: EVIL}), own_entry=EVIL,
    )  # fmt: skip
    figure = plots.features({EVIL: np.eye(4)}, [0, 1, 0, 1], classes=[EVIL, 'id="x"'])
    page = write({EVIL: dataset, "v": make_verification()}, title=EVIL, figures={EVIL: figure})
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 8
    assert 'id="x"' in page.text


def test_warnings_stand_before_everything_else(read, make_analysis):
    dataset = make_analysis([1.0, np.nan], warnings=json.dumps(["three classes have few samples"]))
    dataset["class_count"][:, 3] = 0
    text = read(dataset)
    assert text.index("three classes have few samples") < text.index("In short")
    assert "compression is undefined (0/0) at layers.1" in text
    assert "no samples of class 3" in text


def test_no_warning_box_without_warnings(read, make_analysis):
    assert "Read this first" not in read(make_analysis())


def test_skipped_layers_and_provenance_are_listed(read, make_analysis):
    text = read(make_analysis(skipped_layers=json.dumps({"pool": "never fired"}), optimiser="adam"))
    assert "pool HybridMLP never fired" in text.replace("  ", " ")
    for expected in ("neurocollapse report", "2.13.0", "equal", "cpu", "optimiser", "adam"):
        assert expected in text


def test_attributes_that_are_not_json_do_not_break_the_page(read, make_analysis):
    assert "plain words" in read(make_analysis(warnings="plain words", skipped_layers="not json"))


def test_a_dataset_without_provenance_is_reported(read, make_analysis):
    dataset = make_analysis()
    dataset.attrs = {}
    assert "7 layers in 10 classes." in read(dataset)


def test_the_same_results_give_the_same_bytes(tmp_path, make_analysis):
    pages = []
    for _ in range(2):
        figure = plots.features({"a": np.random.default_rng(0).normal(size=(50, 4))}, np.arange(50) % 5)
        pages.append(report({"a": make_analysis()}, tmp_path / "r.html", figures={"PCA": figure}).read_bytes())
    assert pages[0] == pages[1]


def test_two_networks_with_pictures_stay_below_two_megabytes(tmp_path, make_analysis):
    values = {f"layers.{index}": np.random.default_rng(index).normal(size=(2000, 8)) for index in range(7)}
    figures = {name: plots.features(values, np.arange(2000) % 10) for name in ("MLP", "hybrid")}
    path = report({"MLP": make_analysis(), "hybrid": make_analysis(seed=1)}, tmp_path / "r.html", figures=figures)
    assert path.stat().st_size < 2e6


@pytest.mark.parametrize("kind", ["dataset", "list", "generator", "mapping"])
def test_results_come_in_every_shape(read, make_analysis, make_verification, kind):
    one = make_analysis()
    shapes = {
        "dataset": one,
        "list": [one, one, make_verification()],
        "generator": (item for item in (one, one)),
        "mapping": {"a": one, "b": make_verification()},
    }
    text = read(shapes[kind])
    if kind in ("list", "generator"):
        assert "HybridMLP (2)" in text


def test_an_experiment_without_a_name_has_that_of_its_kind(read, make_verification):
    class Experiment:
        name, shows, source = "svd-evolution", "Something holds.", "Somebody, 2025"

    class Outcome:
        status, assumptions, verdicts, experiment = "holds", {}, (), Experiment()
        to_dataset = make_verification().to_dataset
        figure = None

    text = read([Outcome(), Outcome()])
    assert "svd-evolution (2)" in text


def test_figures_stay_open_and_pyplot_hears_of_no_new_one(tmp_path, make_analysis, make_verification):
    figure = plots.layers(make_analysis())
    report([make_analysis(), make_verification()], tmp_path / "r.html", figures={"own": figure})
    assert plt.get_fignums() == [figure.number]


def test_scripts_that_the_font_lacks_are_left_to_the_browser(write, make_analysis):
    page = write({"一": make_analysis(), "二": make_analysis()})
    assert any("一" in word for word in page.words)


def test_importing_the_report_does_not_import_matplotlib():
    code = "import sys, neurocollapse.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_page_that_fails_leaves_the_old_one_and_nothing_else(tmp_path, make_analysis):
    path = report(make_analysis(), tmp_path / "r.html")
    before = path.read_bytes()
    with pytest.raises(TypeError, match="Figure"):
        report(make_analysis(), path, figures={"a": 3})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_no_part(tmp_path, make_analysis, monkeypatch):
    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ResultFileError, match="disk full"):
        report(make_analysis(), tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("results", "error", "message"),
    [
        ([], ValueError, "at least one Dataset or Verification"),
        ({}, ValueError, "at least one Dataset or Verification"),
        (3, TypeError, "`results` must be the Dataset of nc.analyze.*got int"),
        ("report.html", TypeError, "got str"),
        ({"a": None}, TypeError, r"`results\['a'\]` must be .* got NoneType"),
        ([xr.Dataset()], ValueError, r"`results\[0\]` holds no number along 'layer'; pass the result of nc.analyze"),
        (xr.Dataset({"posterior_upper": ("layer", [1.0])}), ValueError, "pass the Verification itself"),
    ],
)
def test_bad_results_get_one_clear_line(tmp_path, results, error, message):
    with pytest.raises(error, match=message) as caught:
        report(results, tmp_path / "r.html")
    assert "\n" not in str(caught.value)


def test_bad_paths_get_one_clear_line(tmp_path, make_analysis):
    with pytest.raises(FileNotFoundError, match="which does not exist; create it first"):
        report(make_analysis(), tmp_path / "missing" / "r.html")
    with pytest.raises(IsADirectoryError, match="must be a file, got the folder"):
        report(make_analysis(), tmp_path)
    with pytest.raises(TypeError, match="mapping of captions to figures, got list"):
        report(make_analysis(), tmp_path / "r.html", figures=[])

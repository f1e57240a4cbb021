"""How the page is built: verdict, figure, contents, prose; what folds, what can be saved, and what is described."""

import base64
import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

import neurocollapse as nc
from neurocollapse.report.leads import steps_lead

OF = {"family": "collapse", "better": "lower", "at_collapse": 0.0, "heading": "NC1", "long_name": "within over between"}


class Outline(HTMLParser):
    """Headings with their level, links, tables as rows of texts, and figures, in the order of the page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.order: list[str] = []
        self.levels: list[int] = []
        self.links: list[dict[str, str]] = []
        self.figures: list[dict[str, list[str]]] = []
        self.tables: list[list[list[str]]] = []
        self.files: dict[int, str] = {}
        self.ids: set[str] = set()
        self.focusable: list[dict[str, str]] = []
        self._cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {key: value or "" for key, value in attrs}
        self.ids |= {known["id"]} if "id" in known else set()
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag in ("figure", "nav", "p") or (tag == "ul" and "nav" not in self.order):
            self.order.append(tag)
        if tag == "figure":
            self.figures.append({"alt": [], "saved": []})
        if known.get("role") == "img":
            self.figures[-1]["alt"].append(known.get("aria-label", ""))
        if tag == "a":
            self.links.append(known)
            if known.get("href", "").startswith("data:text/csv"):
                self.files[len(self.tables) - 1] = known["href"]
            elif "download" in known:
                self.figures[-1]["saved"].append(known["href"])
        if "tabindex" in known:
            self.focusable.append(known)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append(re.sub(r"\s+", " ", "".join(self._cell)).strip())
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


@pytest.fixture(scope="module")
def everything(analysis, make_verification):
    """Two networks, one over epochs, with collapse, intervals and similarity, and a verification."""
    ends = np.stack([np.linspace(3.0, 0.3, 4), np.linspace(5.0, 0.5, 4)], axis=-1)
    added = {
        "nc1": ("layer", [3.0, 2.0, 0.5, 1 / 3], OF),
        "compression_interval": (("layer", "bound"), ends, {"heading": "D, 95 %", "family": "uncertainty"}),
        "cka": (("layer", "layer_"), np.eye(4) * 0.5 + 0.5),
    }
    values = [4.0, 2.0, 1.0, 0.4]
    names = {"layer_": [f"layers.{at}" for at in range(4)]}
    steps = [analysis(values, seed=step).assign(added).assign_coords(names) for step in (1, 2)]
    run = xr.concat(steps, pd.Index([0, 10], name="epoch"), combine_attrs="drop_conflicts")
    return {"run": run, "other": analysis(values).assign(added), "tail": make_verification()}


@pytest.fixture(scope="module")
def written(everything, tmp_path_factory) -> str:
    """The page of all of them."""
    return nc.report(everything, tmp_path_factory.mktemp("report") / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def outline(written) -> Outline:
    """Its structure."""
    return Outline(written)


def csv_of(address: str) -> list[list[str]]:
    """The rows of a table that is saved."""
    return list(csv.reader(io.StringIO(unquote(address.partition(",")[2]))))


def test_the_page_is_verdict_figure_contents_prose(written, outline) -> None:
    order = [tag for tag in outline.order if tag in ("ul", "figure", "nav", "p")]
    assert order[:4] == ["ul", "figure", "nav", "p"]
    places = [written.index(f'id="{key}"') for key in ("verdict", "findings", "layers", "steps", "collapse")]
    assert places == sorted(places)
    assert written.index("<svg") < written.index('id="findings"')


def test_every_section_has_a_link_and_every_link_a_section(written, outline) -> None:
    linked = [one["href"][1:] for one in outline.links if one["href"].startswith("#")]
    sections = re.findall(r'<section id="([^"]+)"', written)
    assert linked == sections[1:]  # the first is the verdict, above the links
    assert {"findings", "layers", "steps", "collapse", "uncertainty", "similarity", "numbers", "result0"} <= set(linked)


def test_sections_fold_and_evidence_is_folded(written) -> None:
    folds = dict(re.findall(r'<section id="([^"]+)"[^>]*>\s*<details( open)?>', written))
    assert {key for key, is_open in folds.items() if not is_open} == {"numbers", "definitions", "provenance"}
    assert '<details class="evidence" open' not in written
    assert written.count('<details class="evidence">') >= 5


def test_every_section_begins_with_one_sentence(written) -> None:
    for key in ("layers", "steps", "collapse", "uncertainty", "similarity"):
        section = written.partition(f'<section id="{key}">')[2].partition("</section>")[0]
        lead = re.search(r'</summary>\s*<p class="lead">(.*?)</p>', section, flags=re.DOTALL)
        assert lead is not None, key
        assert re.fullmatch(r"[A-Z].*[.]", lead[1]), lead[1]
    assert "At the last layer: in run, 0 of 1 measures lie within 0.1 of their limit, farthest NC1" in written


def test_several_runs_go_from_one_number_to_another_each() -> None:
    run = xr.Dataset({"compression": (("epoch", "layer"), [[4.0], [0.5]])}, {"epoch": [0, 9], "layer": ["a"]})
    assert steps_lead({"one": run}) == "D of the last layer goes from 4 at epoch 0 to 0.500 at epoch 9."
    both = "in one from 4 at epoch 0 to 0.500 at epoch 9; in two from 8 at epoch 0 to 1 at epoch 9"
    assert steps_lead({"one": run, "two": 2 * run}) == f"D of the last layer goes {both}."


def test_every_figure_is_described_and_saved_as_svg_and_png(outline) -> None:
    assert len(outline.figures) > 8
    for figure in outline.figures:
        assert len(figure["alt"]) == 1
        assert len(figure["alt"][0]) > 10
        svg, png = figure["saved"]
        assert svg.startswith("data:image/svg+xml")
        assert unquote(svg).rstrip().endswith("</svg>")
        image = Image.open(io.BytesIO(base64.b64decode(png.partition("base64,")[2])))
        assert image.format == "PNG"
        assert min(image.size) > 300
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_the_description_of_a_curve_says_where_it_begins_and_ends(outline) -> None:
    assert outline.figures[0]["alt"][0] == (
        "Compression D by layer. run: compression from 4 at layers.0 to 0.400 at layers.3. "
        "other: compression from 4 at layers.0 to 0.400 at layers.3."
    )


NUMBER = re.compile(r"−?\d[\d,]*(\.\d+)?(×10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)?")


def seen(text: str) -> float:
    """A number as it is shown."""
    mantissa, _, power = text.replace("−", "-").replace(",", "").partition("×10")
    exponent = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))) if power else 0
    return float(mantissa) * 10.0**exponent


def half_a_digit(text: str) -> float:
    """By how much a number may differ from what is shown."""
    mantissa, _, power = text.partition("×")
    decimals = len(mantissa.partition(".")[2])
    return 0.5001 * seen(f"1×{power}" if power else "1") * 10.0**-decimals


def test_every_table_is_saved_with_the_numbers_that_it_shows(outline) -> None:
    assert len(outline.tables) > 8
    assert set(outline.files) == set(range(len(outline.tables)))
    compared = 0
    for at, table in enumerate(outline.tables):
        heads, *saved = csv_of(outline.files[at])
        assert len(saved) == len(table) - 1
        for shown_row, saved_row in zip(table[1:], saved, strict=True):
            cells = iter(zip(heads, saved_row, strict=True))
            for shown in shown_row:
                name, exact = next(cells)
                ends = [exact, next(cells)[1]] if name.endswith(", from") else [exact]
                parts = re.split(" to | … ", shown) if len(ends) == 2 else [shown]
                for part, end in zip(parts if len(parts) == len(ends) else parts * 2, ends, strict=True):
                    if NUMBER.fullmatch(part):
                        assert abs(seen(part) - float(end)) <= half_a_digit(part), (name, part, end)
                        compared += 1
    assert compared > 60


def test_numbers_are_saved_in_full_precision(written) -> None:
    saved = [csv_of(one) for one in re.findall(r'href="(data:text/csv[^"]+)"', written)]
    cells = {cell for rows in saved for row in rows for cell in row}
    assert repr(1 / 3) in cells
    assert [name for rows in saved for name in rows[0] if "95 %" in name][:2] == ["D, 95 %, from", "D, 95 %, to"]


def test_headings_are_in_order_and_the_page_has_its_landmarks(written, outline) -> None:
    assert outline.levels[0] == 1
    assert outline.levels.count(1) == 1
    steps = np.diff(outline.levels)
    assert (steps <= 1).all()
    assert written.count("<main") == written.count("<nav") == written.count("<header") == 1
    assert '<html lang="en">' in written


def test_what_scrolls_can_be_reached_by_keyboard_and_has_a_name(written, outline) -> None:
    boxes = re.findall(r'<div class="(?:scroll|canvas)"([^>]*)>', written)
    assert boxes
    assert all('tabindex="0"' in one and 'aria-label="' in one for one in boxes)
    assert {one["tabindex"] for one in outline.focusable} == {"0"}
    for one in outline.links:
        assert one["href"].startswith("#") or one["aria-label"].startswith("Save ")


def test_the_page_has_neither_script_nor_foreign_address(written) -> None:
    assert "<script" not in written
    plain = re.sub(r'href="data:[^"]*"|xmlns(:\w+)?="[^"]*"', "", written)
    assert not re.findall(r"(?:https?:)?//\w", re.sub(r"<style>.*?</style>", "", plain, flags=re.DOTALL))
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in written


def test_no_table_shows_formulas_as_they_are_typed(outline) -> None:
    texts = [cell for table in outline.tables for row in table for cell in row]
    assert not [text for text in texts if re.search(r"\\[a-z]+|[_^]\{", text)]


def test_similarity_alone_is_a_page(tmp_path: Path) -> None:
    values = np.array([[1.0, 0.9, 0.2], [0.9, 1.0, 0.4], [0.2, 0.4, 1.0]])
    layers = ["a", "b", "c"]
    pairs = xr.Dataset({"cka": (("layer", "layer_"), values)}, {"layer": layers, "layer_": layers})
    written = nc.report({"net": pairs}, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "The features change most between b and c (CKA 0.400)." in written
    assert "<td>1.000</td><td>0.900</td><td>0.200</td>" in written
    assert '<section id="similarity">' in written
    assert "<h2>Numbers" not in written

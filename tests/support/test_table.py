"""Tables line up in a terminal, and in a notebook show any text as text."""

import re

import pytest
from markupsafe import Markup

from neurocollapse.support.table import aligned, html_table

HEADINGS = ["layer", "D"]


@pytest.mark.parametrize(
    "rows", [[["fc1", "11.2"], ["a long name", "0.3"]], [["", ""]], [["x", "1"], ["y", "2"], ["z", "1000000"]]]
)
def test_numbers_end_and_names_begin_in_one_column(rows: list[list[str]]) -> None:
    lines = aligned(HEADINGS, rows, numbers={1}).split("\n")
    assert len(lines) == len(rows) + 1
    width = max(map(len, lines))
    for line, (name, number) in zip(lines, [HEADINGS, *rows], strict=True):
        assert line.startswith(name)
        assert not number or (line.endswith(number) and len(line) == width)
        assert line == line.rstrip()


def test_a_table_without_rows_is_its_headings() -> None:
    assert aligned(HEADINGS, []) == "layer  D"
    assert html_table(HEADINGS, []).count("<th ") == 2


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a & b", '"quoted"', "1 < 2", "{}"])
def test_a_cell_of_a_notebook_is_never_markup(text: str) -> None:
    shown = html_table([text], [[text]])
    assert set(re.findall(r"<(\w+)", shown)) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert shown.striptags() == " ".join([text, text])


def test_markup_that_the_library_made_is_kept() -> None:
    assert "<b>D</b></th>" in html_table([Markup("<b>D</b>")], [])


def test_numbers_are_flush_right_and_words_flush_left_in_a_notebook() -> None:
    sides = re.findall(r"<t[hd] style=.text-align:(\w+)", html_table(HEADINGS, [["fc1", "11.2"]], numbers={1}))
    assert sides == ["left", "right", "left", "right"]

"""What is said about names and errors fits on one line."""

import pytest

from neurocollapse.support.text import first_line, listed, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fc", "fc"),
        ("Größe × 2 層", "Größe × 2 層"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("a\u202eb\u2028c", r"a\u202eb\u2028c"),
        ("file\udcff", r"file\udcff"),
    ],
)
def test_control_characters_are_written_out_and_letters_stay(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(text).isprintable()


def test_a_long_name_keeps_its_ends() -> None:
    for length in (60, 61, 1000):
        shown = visible("a" * length + "z", most=60)
        assert len(shown) <= 60
        assert (shown[0], shown[-1]) == ("a", "z")
        assert "…" in shown
    assert visible("a" * 60, most=60) == "a" * 60


def test_the_first_few_are_listed_and_the_others_counted() -> None:
    assert listed([]) == ""
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed("abcdefg") == "a, b, c and 4 more"
    assert listed((str(number) for number in range(5)), most=1) == "0 and 4 more"
    assert listed({"a": 1, "b\n": 2}) == r"a, b\n"


def test_a_list_of_any_names_is_bounded() -> None:
    assert len(listed(["x" * 10_000] * 10_000)) < 300


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("wrong\nTraceback"), "wrong"),
        (ValueError("\n\n  wrong\r\nmore"), r"wrong\r"),
        (KeyError(), "KeyError"),
        (OSError("\x1b[2J"), r"\x1b[2J"),
        (OSError("two ways, \x1b[1mdo either\x1b[0m. "), "two ways, do either."),
    ],
)
def test_an_error_becomes_one_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_a_long_line_of_an_error_ends_after_a_word() -> None:
    assert first_line(ValueError("word " * 100)) == "word " * 16 + "word…"
    path = "no file " + "/" + "a" * 100 + "/weights.pt"
    assert first_line(OSError(path)).endswith("aaa/weights.pt")
    assert all(len(first_line(OSError(text), most=40)) <= 40 for text in (path, "word " * 100, "x" * 41))

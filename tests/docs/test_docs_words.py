"""Plain English: words that readers stumble over, and sentences without their noun, stay out."""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WRITTEN = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if not {"_build", "generated"} & set(path.parts)),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]
SOURCES = sorted([*(ROOT / "neurocollapse").rglob("*.py"), *(ROOT / "hooks").rglob("*.py")])
RARE = re.compile(r"\b(anew|lest|sooner or later|goes? on from|went on from|'s sake|never hears|gives? away)\b")
HEADLESS = re.compile(r"^\s*Of [a-z`:]", re.MULTILINE)
"""A line that begins with a genitive: "Of the random start" for "Seed of the random start"."""

BARE = re.compile(r"^ +[A-Za-z]\.$", re.MULTILINE)
"""A symbol alone, which documentation takes for the number of a list's item."""


def prose(path: Path) -> str:
    """The text of a page, or of a notebook's cells."""
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a module, its classes and functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield inspect.cleandoc(text)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_pages_and_notebooks_use_plain_words(path: Path) -> None:
    assert RARE.findall(prose(path)) == []


def test_the_package_uses_plain_words() -> None:
    found = {path.relative_to(ROOT).as_posix(): RARE.findall(path.read_text()) for path in SOURCES}
    assert {name: words for name, words in found.items() if words} == {}


def test_no_line_of_a_docstring_begins_with_a_genitive() -> None:
    found = {path.relative_to(ROOT).as_posix(): HEADLESS.findall("\n".join(docstrings(path))) for path in SOURCES}
    for path in SOURCES:  # strings below constants, too
        found[path.relative_to(ROOT).as_posix()] += re.findall(r'^\s*"""Of [a-z`:]', path.read_text(), re.MULTILINE)
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_no_parameter_is_described_by_a_symbol_alone() -> None:
    found = {path.relative_to(ROOT).as_posix(): BARE.findall("\n".join(docstrings(path))) for path in SOURCES}
    assert {name: lines for name, lines in found.items() if lines} == {}

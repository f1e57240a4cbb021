"""The written pages: links lead somewhere, examples run and give what they say, nothing of a machine is in them."""

import ast
import re
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from site_pages import write_all

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LLMS = DOCS / "llms.txt"
WRITTEN = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "generated"} & set(path.parts))
LINKING = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *WRITTEN]
PLACEHOLDERS = {"index.md", "distributed.md", "stories.md", "errors.md"}
"""Pages whose examples are about the reader's own model; stories and errors have tests of their own."""
OTHERS = {"trainers.md": ("lightning", "transformers", "accelerate"), "coming_from.md": ("torchmetrics",)}
"""Pages whose examples need other libraries, which warn of their own future."""

TOCTREE = re.compile(r"```\{toctree\}\n(.*?)```", flags=re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
EXAMPLE = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
RESULT = re.compile(r"  # → (.+)$")

CODE = re.compile(r"^```[\s\S]*?^```|`[^`\n]*`|\$\$[\s\S]*?\$\$|\$[^$\n]+\$|^ {4}[^\n]*$", flags=re.MULTILINE)
UNDERSCORE = re.compile(r"([^\w\s\\])_(?=\S)")

each_page = pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    write_all(folder)
    return folder


def exists(target: Path, generated: Path) -> bool:
    """Whether a file is there, or will be when the site is built."""
    folder = DOCS / "generated"
    return (generated / target.relative_to(folder) if target.is_relative_to(folder) else target).is_file()


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page: Path, generated: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if not link.startswith(("http", "#", "mailto:")):
            assert exists((page.parent / link.partition("#")[0]).resolve(), generated), link


def test_every_page_is_in_the_contents(generated: Path) -> None:
    lines = [line for tree in TOCTREE.findall((DOCS / "index.md").read_text()) for line in tree.splitlines()]
    entries = {re.sub(r".*<(.+)>", r"\1", line) for line in lines if line and not line.startswith(":")}
    assert {page.relative_to(DOCS).with_suffix("").as_posix() for page in WRITTEN} - {"index"} <= entries
    for entry in entries:
        assert any(exists(DOCS / f"{entry}{ending}", generated) for ending in (".md", ".rst")), entry


@each_page
def test_examples_run_and_give_what_the_page_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if page.name in OTHERS:
        for library in OTHERS[page.name]:
            pytest.importorskip(library)
        warnings.simplefilter("ignore")  # pytest puts the filters back
    namespace: dict[str, Any] = {}
    for code in EXAMPLE.findall(page.read_text()):
        statements = ast.parse(code).body
        for statement in statements if page.name not in PLACEHOLDERS else ():
            line = code.splitlines()[(statement.end_lineno or 0) - 1]
            if stated := RESULT.search(line):
                assert repr(eval(ast.unparse(statement), namespace)) == stated[1]
            else:
                exec(ast.unparse(statement), namespace)
    plt.close("all")


@each_page
def test_no_underscore_of_a_formula_begins_an_emphasis(page: Path) -> None:
    """After a mark such as ‖ one does, up to the next: ‖Z‖_F² loses its index, and what follows is in italics."""
    found = UNDERSCORE.finditer(CODE.sub("", page.read_text()))
    assert [match[0] for match in found if unicodedata.category(match[1])[0] in "PS"] == []


@each_page
def test_nothing_of_a_machine_is_in_a_page(page: Path) -> None:
    assert not re.search(r"/(home|root|tmp|work|Users)/", page.read_text())


def test_the_index_for_language_models_names_every_page_and_no_other(generated: Path) -> None:
    links = set(LINK.findall(LLMS.read_text()))
    pages = {link.removesuffix(".html") for link in links}
    assert {page.relative_to(DOCS).with_suffix("").as_posix() for page in WRITTEN} - {"index"} <= pages
    for page in pages:
        assert any(exists(DOCS / f"{page}{ending}", generated) for ending in (".md", ".rst")), page
    assert f'html_extra_path = ["{LLMS.name}"]' in (DOCS / "conf.py").read_text()


def test_the_index_for_language_models_counts_the_answers_and_its_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = LLMS.read_text()
    assert f"{(DOCS / 'stories.md').read_text().count('### … ')} questions" in text
    (code,) = EXAMPLE.findall(text)
    exec(code, {})
    plt.close("all")
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "analysis.nc"}

"""Names that are markup, quotes or control characters stay text in a report, in a parser and in a real browser."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import neurocollapse as nc

MARKED = "<b>injected</b>"
NAMES = (
    "<script>document.title='INJECTED'</script>",
    "<img src=x onerror=\"document.title='INJECTED'\">",
    "\"'><svg onload=\"document.title='INJECTED'\">",
    "</title></style></svg></script><script>document.title='INJECTED'</script>",
    "javascript:alert(1)//{{7*7}}${7*7}<%=7*7%>&lt;&amp;",
    "\x00\x1b[31m\x07\u202e\u2028\x85\ud800\x7f",
    "<!-- --><![CDATA[x]]><?php ?>",
    "$\\href{javascript:alert(1)}{x}$",
)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def evil(name: str) -> xr.Dataset:
    """A result in which every text is one name."""
    source = np.random.default_rng(0)
    moments = {
        f"{layer}{name}": nc.ClassMoments.from_features(source.normal(size=(60, 5)), np.arange(60) % 3)
        for layer in ("a", "b")
    }
    dataset = nc.measure(moments)
    dataset = dataset.assign_coords(class_name=("class", [f"{index}{name}" for index in range(3)]))
    dataset["compression"].attrs |= {"long_name": name, "convention": name, "reference": name, "heading": name}
    return dataset.assign_attrs({"title": name, "model": name, "warnings": f'["{MARKED}"]', name: name})


class Page(HTMLParser):
    """Tags, and attributes that run code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.running: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            leads = name in ("href", "xlink:href", "src", "action") and (value or "").strip().startswith("javascript:")
            self.running += [(name, value or "")] if name.startswith("on") or leads else []


@pytest.fixture(params=range(len(NAMES)))
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A report with one of the names everywhere."""
    name = NAMES[request.param]
    return nc.report({name: evil(name)}, tmp_path / "report.html", title=name, figures=None)


def test_no_name_becomes_markup(page: Path) -> None:
    found = Page(page.read_text())
    assert not found.tags & {"script", "img", "iframe", "object", "embed", "link", "b", "base", "form"}
    assert found.running == []
    assert "&lt;b&gt;injected" in page.read_text()


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium or Chrome on the path")
def test_no_name_runs_in_a_browser(page: Path) -> None:
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>INJECTED</title>" not in shown
    assert "</html>" in shown

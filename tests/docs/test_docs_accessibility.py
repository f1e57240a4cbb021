"""The built site in a real browser: axe-core finds nothing to mend, keys reach everything, no page scrolls sideways."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import browser
from tests.browser import in_browser

pytestmark = [*in_browser, pytest.mark.timeout(1800)]

LOOKS = {"light, 1280 px": (1280, "light"), "dark, 390 px": (390, "dark")}
UNDECIDED = {"empty-table-header", "identical-links-same-purpose"}
"""What axe leaves to people: corners of tables that pandas prints, and equal links, which lead to one page."""

SOURCES = "_modules/neurocollapse/"
SOURCE = f"{SOURCES}hooks/capture.html"
"""One page for all that show a module's source, which differ in their code alone."""

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=LOOKS.values(), ids=LOOKS)
def found(site: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Found:
    """What the browser finds in every page."""
    width, theme = request.param
    names = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    pages = [name for name in names if not name.startswith(SOURCES) or name == SOURCE]
    copy = shutil.copytree(site, tmp_path_factory.mktemp("shown") / "site")
    before = f'document.body.dataset.theme = "{theme}"; {browser.UNFOLDED}'
    return browser.examined(copy, pages, width=width, before=before)


def test_axe_finds_nothing_to_mend(found: Found) -> None:
    assert len(found) > 70
    assert {page: one["violations"] for page, one in found.items() if one["violations"]} == {}
    assert min(one["passes"] for one in found.values()) > 20
    assert {name for one in found.values() for name in one["unsure"]} <= UNDECIDED


def test_no_page_is_wider_than_the_window(found: Found) -> None:
    assert {page: one["wide"] for page, one in found.items() if one["wide"] or one["scroll"] > one["width"]} == {}


def test_keys_reach_every_link_switch_and_box_that_scrolls(found: Found) -> None:
    assert min(one["keys"] for one in found.values()) > 3  # menu, name, theme, previous or next page
    assert {page: one["unreached"] for page, one in found.items() if one["unreached"]} == {}
    assert {page: one["scrolls"] for page, one in found.items() if one["scrolls"]} == {}


def test_axe_and_the_measurements_would_find_what_is_wrong(site: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(site, tmp_path / "site")
    (copy / "_static" / "site.js").write_text("")
    page = copy / "generated" / "experiments.html"
    text = page.read_text().replace('<html class="no-js" lang="en"', "<html")
    page.write_text(text.replace("</body>", f"<pre>{'wide' * 999}</pre><p style='width: 500px'>wide</p></body>"))
    found = browser.examined(copy, ["generated/experiments.html"], width=390)["generated/experiments.html"]
    assert {name for name, _ in found["violations"]} >= {"html-has-lang", "scrollable-region-focusable"}
    assert found["scrolls"]
    assert found["wide"]
    assert found["scroll"] > found["width"]

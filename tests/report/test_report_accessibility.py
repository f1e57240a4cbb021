"""The page in a real browser: axe-core finds nothing to mend, keys reach everything, the page scrolls one way only."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import neurocollapse as nc
from tests import browser
from tests.browser import in_browser

pytestmark = in_browser


@pytest.fixture(scope="module")
def pages(analysis, make_verification) -> dict[str, Callable[[Path], Path]]:
    """Reports of each kind, by name."""
    layers = [f"layers.{at}" for at in range(4)]
    matrix = np.eye(4) * 0.5 + 0.5
    pairs = xr.Dataset({"cka": (("layer", "layer_"), matrix)}, {"layer": layers, "layer_": layers})
    networks = {"first": analysis([4.0, 2.0, 1.0, 0.4]), "second": analysis([4.0, 2.0, 0.5, 0.1], seed=1)}
    warned = analysis(warnings=json.dumps(["few samples"]), skipped_layers=json.dumps({"pool": "never fired"}))
    everything = {**networks, "warned": warned, "pairs": pairs, "tail": make_verification("violated")}
    return {
        "everything": lambda path: nc.report(everything, path),
        "comparison": lambda path: nc.report(networks, path, compare=True),
    }


def examined(page: str, folder: Path, *, width: int, axe: bool = True, folded: bool = False) -> dict[str, Any]:
    """What a browser finds in a page that is shown at some width, with everything unfolded."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)  # which would not let axe run
    # Shadows at the ends of tables are gradients, before which axe cannot tell a contrast.
    page = page.replace("</body>", "<style>.scroll { background: none !important; }</style></body>")
    folder.joinpath("inner.html").write_text(page, encoding="utf-8")
    before = "" if folded else browser.UNFOLDED
    return browser.examined(folder, ["inner.html"], width=width, axe=axe, before=before)["inner.html"]


@pytest.mark.parametrize("kind", ["everything", "comparison"])
@pytest.mark.parametrize("look", ["light", "dark"])
def test_axe_finds_nothing_to_mend(pages, tmp_path: Path, kind: str, look: str) -> None:
    page = pages[kind](tmp_path / "page.html").read_text(encoding="utf-8")
    if look == "dark":
        assert "(prefers-color-scheme: dark)" in page
        page = page.replace("(prefers-color-scheme: dark)", "all")
    found = examined(page, tmp_path, width=1280)
    assert found["violations"] == []
    assert found["passes"] > 20


def test_axe_would_find_what_is_wrong(pages, tmp_path: Path) -> None:
    page = pages["comparison"](tmp_path / "page.html").read_text(encoding="utf-8")
    page = page.replace('<html lang="en">', "<html>").replace("--soft: #57606a", "--soft: #c0c0c0")
    assert {one for one, _ in examined(page, tmp_path, width=1280)["violations"]} == {"html-has-lang", "color-contrast"}


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_but_tables_and_figures_scrolls_sideways(pages, tmp_path: Path, width: int) -> None:
    page = pages["everything"](tmp_path / "page.html").read_text(encoding="utf-8")
    found = examined(page, tmp_path, width=width, axe=False)
    assert found["width"] <= width
    assert found["scroll"] == found["width"]
    assert found["wide"] == []


def test_keys_reach_every_link_fold_and_box_that_scrolls(pages, tmp_path: Path) -> None:
    page = pages["everything"](tmp_path / "page.html").read_text(encoding="utf-8")
    found = examined(page, tmp_path, width=390, axe=False)
    assert found["keys"] > 40
    assert found["unreached"] == []
    assert found["scrolls"] == []


@pytest.mark.parametrize("medium", ["screen", "print"])
def test_what_is_folded_on_the_screen_is_unfolded_in_print(pages, tmp_path: Path, medium: str) -> None:
    page = pages["comparison"](tmp_path / "page.html").read_text(encoding="utf-8")
    if medium == "print":
        page = page.replace("@media print", "@media all")
    found = examined(page, tmp_path, width=800, axe=False, folded=True)
    assert len(found["folded"]) > 3
    assert set(found["folded"]) == {medium == "print"}

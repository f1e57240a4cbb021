"""The page in a real browser: axe-core finds nothing to mend, keys reach everything, the page scrolls one way only."""

import html
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import neurocollapse as nc

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def _axe() -> Path | None:
    """The script of axe-core, from a Python package that brings it."""
    for package in ("axe_playwright_python", "axe_core_python"):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (script := Path(folder) / "axe.min.js").exists():
                return script
    return None


AXE = _axe()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(AXE is None, reason="no axe-core; pip install axe-core-python"),
]

EXAMINE = """
const say = (found) => parent.postMessage(JSON.stringify(found), "*");
window.addEventListener("load", async () => {
  const all = [...document.querySelectorAll("*")], width = document.documentElement.clientWidth;
  const inBox = (one) => one.closest(".scroll, .canvas, svg, math, dd");
  const keys = [...document.querySelectorAll("a, summary, [tabindex]")];
  const unreached = keys.filter((one) => { one.focus(); return document.activeElement !== one; });
  const scrolls = all.filter((one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth
    && ["auto", "scroll"].includes(getComputedStyle(one).overflowX) && one.tabIndex < 0);
  const found = {
    width, scroll: document.documentElement.scrollWidth, keys: keys.length,
    wide: all.filter((one) => !inBox(one) && one.getBoundingClientRect().right > width + 1).map((one) => one.outerHTML),
    unreached: unreached.map((one) => one.outerHTML), scrolls: scrolls.map((one) => one.outerHTML),
    folded: [...document.querySelectorAll("details:not([open]) table")].map((one) => one.checkVisibility()),
  };
  const result = window.axe ? await axe.run(document, {resultTypes: ["violations", "incomplete"]}) : null;
  const about = (one) => [one.id, one.nodes.map((node) => node.html.slice(0, 200) + node.failureSummary)];
  say({...found, violations: result && result.violations.map(about), passes: result && result.passes.length,
    unsure: result && result.incomplete.filter((one) => one.id != "color-contrast").map((one) => one.id)});
});
"""
FRAME = """<!DOCTYPE html><html lang="en"><title>frame</title><body>
<iframe src="inner.html" style="width:{width}px;height:900px;border:0"></iframe>
<script>addEventListener("message", (one) => {{
  const shown = document.createElement("pre");
  shown.id = "found"; shown.textContent = one.data; document.body.append(shown);
}});</script></body></html>"""


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
    assert BROWSER is not None
    assert AXE is not None
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)  # which would not let axe run
    if not folded:
        page = re.sub(r"<details([^>]*?)( open)?>", r"<details\1 open>", page)
    # Shadows at the ends of tables are gradients, before which axe cannot tell a contrast.
    style = "<style>.scroll { background: none !important; }</style>"
    scripts = [AXE.read_text(encoding="utf-8")] if axe else []
    tags = "".join(f"<script>{text.replace('</script', '<')}</script>" for text in [*scripts, EXAMINE])
    folder.joinpath("inner.html").write_text(page.replace("</body>", f"{style}{tags}</body>"), encoding="utf-8")
    folder.joinpath("outer.html").write_text(FRAME.format(width=width), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=1400,1000", "--virtual-time-budget=100000", "--dump-dom"]
    command.append(folder.joinpath("outer.html").as_uri())
    shown = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True).stdout
    found = re.search(r'<pre id="found">(.*?)</pre>', shown, flags=re.DOTALL)
    assert found is not None, shown[-2000:]
    return json.loads(html.unescape(found[1]))


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

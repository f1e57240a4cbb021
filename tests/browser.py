"""Pages in a real browser: what axe-core would mend, what keys do not reach, what is wider than the window."""

import html
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--virtual-time-budget=1000000")


def _axe() -> Path | None:
    """The script of axe-core, from a Python package that brings it."""
    for package in ("axe_playwright_python", "axe_core_python"):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (script := Path(folder) / "axe.min.js").exists():
                return script
    return None


AXE = _axe()
in_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(AXE is None, reason="no axe-core; pip install axe-core-python"),
]
"""Marks of a test that needs both."""

UNFOLDED = 'document.querySelectorAll("details").forEach((one) => { one.open = true; });'
"""A statement that opens all folds."""

EXAMINE = """
const say = (found) => parent.postMessage(JSON.stringify(found), "*");
const clips = (one) => one && one !== document.body && one !== document.documentElement
  && (["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(one).overflowX) || clips(one.parentElement));
window.addEventListener("load", async () => {
  BEFORE
  await new Promise((later) => setTimeout(later, 400));  // sizes are observed, and colours fade
  const all = [...document.querySelectorAll("*")].filter((one) => one.checkVisibility({visibilityProperty: true}));
  const width = document.documentElement.clientWidth;
  const keys = all.filter((one) => one.matches(":is(a[href], summary, button, input, [tabindex]):not(:disabled)"));
  const unreached = keys.filter((one) => { one.focus(); return document.activeElement !== one; });
  const scrolls = all.filter((one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth && one.tabIndex < 0
    && ["auto", "scroll"].includes(getComputedStyle(one).overflowX) && one !== document.documentElement);
  const wide = all.filter((one) => !one.closest("svg, math") && !clips(one)
    && one.getBoundingClientRect().right > width + 1);
  const start = (one) => one.outerHTML.slice(0, 200);
  const found = {
    width, scroll: document.documentElement.scrollWidth, keys: keys.length, wide: wide.map(start),
    unreached: unreached.map(start), scrolls: scrolls.map(start),
    folded: [...document.querySelectorAll("details:not([open]) table")].map((one) => one.checkVisibility()),
  };
  const result = window.axe ? await axe.run(document, {resultTypes: ["violations", "incomplete"]}) : null;
  const about = (one) => [one.id, one.nodes.map((node) => node.html.slice(0, 200) + node.failureSummary)];
  say({...found, violations: result && result.violations.map(about), passes: result && result.passes.length,
    unsure: result && result.incomplete.filter((one) => one.id != "color-contrast").map((one) => one.id)});
});
"""
FRAME = """<!DOCTYPE html><html lang="en"><title>frame</title><body>
<iframe style="width:WIDTHpx;height:900px;border:0"></iframe>
<script>
const pages = PAGES, found = {};
const frame = document.querySelector("iframe");
const next = () => { frame.src = pages[Object.keys(found).length]; };
addEventListener("message", ({ data }) => {
  found[pages[Object.keys(found).length]] = JSON.parse(data);
  if (Object.keys(found).length < pages.length) { next(); return; }
  const shown = document.createElement("pre");
  shown.id = "found"; shown.textContent = JSON.stringify(found); document.body.append(shown);
});
next();
</script></body></html>"""


def examined(
    folder: Path, pages: Sequence[str], *, width: int, axe: bool = True, before: str = UNFOLDED
) -> dict[str, dict[str, Any]]:
    """What a browser finds in pages of a folder, which it changes, at some width and after a statement has run."""
    assert BROWSER is not None
    assert AXE is not None
    scripts = [AXE.read_text(encoding="utf-8")] if axe else []
    folder.joinpath("examine.js").write_text("\n".join([*scripts, EXAMINE.replace("BEFORE", before)]), "utf-8")
    for name in pages:
        path = folder / name
        tag = f'<script src="{"../" * name.count("/")}examine.js"></script>'
        path.write_text(path.read_text("utf-8").replace("</body>", f"{tag}</body>"), "utf-8")
    outer = folder / "outer.html"
    outer.write_text(FRAME.replace("WIDTH", str(width)).replace("PAGES", json.dumps([*pages])), "utf-8")
    command = [BROWSER, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", outer.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r'<pre id="found">(.*?)</pre>', shown, flags=re.DOTALL)
    assert found is not None, shown[-2000:]
    return json.loads(html.unescape(found[1]))

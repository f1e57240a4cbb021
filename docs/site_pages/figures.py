"""What stands in place of a notebook's figures for those who do not see them, from the code that drew them."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from neurocollapse.experiments import EXPERIMENTS
from site_pages import experiments, gallery

_HEADING = re.compile(r"^#+ (.+)$", flags=re.MULTILINE)
_PLOT = re.compile(r"nc\.plot\.(\w+)\(")
_EXPERIMENT = re.compile(r"experiment\(\s*\"([\w-]+)\"")
_LABEL = re.compile(r"([xy])label(?:=|\()[fr]?\"([^\"]+)\"")
_TITLE = re.compile(r"title\(f?\"([^\"{]+)")
_TITLE_IN_OUTPUT = re.compile(r"<h\d>(.*?)</h\d>", flags=re.DOTALL)

Cell = dict[str, Any]


def described(notebook: dict[str, Any]) -> dict[str, Any]:
    """A copy in which every figure has a text, and no output a heading, which would upset those of the page."""
    cells = [_described(cell, heading) for cell, heading in with_headings(notebook)]
    return notebook | {"cells": cells}


def with_headings(notebook: dict[str, Any]) -> Iterator[tuple[Cell, str]]:
    """Each cell with the last heading above it."""
    heading = ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            heading = (_HEADING.findall("".join(cell["source"])) or [heading])[-1]
        yield cell, heading


def draws(cell: Cell) -> bool:
    """Whether a cell has drawn a figure."""
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", ()))


def alt(cell: Cell, heading: str) -> str:
    """The heading above a figure, and what its functions draw or what its axes are called."""
    source = "".join(cell["source"])
    drawn = [gallery.summary(name).rstrip(".") for name in _PLOT.findall(source) if name in gallery.FIGURES]
    if ".figure(" in source:  # of an experiment
        drawn += [experiments.drawn(EXPERIMENTS[name]) for name in _EXPERIMENT.findall(source) if name in EXPERIMENTS]
    drawn = drawn or _axes(source) or [_plain(title) for title in _TITLE.findall(source)]
    return ": ".join([heading, "; ".join(dict.fromkeys(drawn))]).strip(": ")


def _described(cell: Cell, heading: str) -> Cell:
    """A copy of a cell, with a text for its figures unless the notebook has one, and outputs without headings."""
    if not cell.get("outputs"):
        return cell
    outputs = [_without_headings(output) for output in cell["outputs"]]
    metadata = cell.get("metadata", {})
    if draws(cell):
        metadata = {"mystnb": {"image": {"alt": alt(cell, heading)}}, **metadata}
    return cell | {"metadata": metadata, "outputs": outputs}


def _without_headings(output: dict[str, Any]) -> dict[str, Any]:
    """A copy of an output in which headings are paragraphs in bold."""
    if "text/html" not in output.get("data", {}):
        return output
    page = _TITLE_IN_OUTPUT.sub(r"<p><strong>\1</strong></p>", "".join(output["data"]["text/html"]))
    return output | {"data": output["data"] | {"text/html": page}}


def _axes(source: str) -> list[str]:
    """What the axes of a figure are called where a cell draws it itself: "error and time against steps"."""
    labels: dict[str, list[str]] = {"y": [], "x": []}
    for axis, label in _LABEL.findall(source):
        labels[axis].append(_plain(label))
    sides = [" and ".join(dict.fromkeys(found)) for found in labels.values() if found]
    return [" against ".join(sides)] if sides else []


def _plain(text: str) -> str:
    """A label without TeX."""
    return re.sub(r"[${}]", "", re.sub(r"\\([A-Za-z]+)", lambda found: _letter(found[1]), text)).strip(" ,.")


def _letter(name: str) -> str:
    """A letter that TeX calls by its name; nothing for any other command."""
    try:
        return unicodedata.lookup(f"GREEK {'SMALL' if name.islower() else 'CAPITAL'} LETTER {name.upper()}")
    except KeyError:
        return {"ell": "ℓ"}.get(name, "")

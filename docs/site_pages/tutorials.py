"""The notebooks as pages, and their gallery: each with its question and a figure of its own."""

import base64
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from site_pages import figures

READING_ORDER = (
    "hook_a_model",
    "separate_and_compress",
    "hybrid_against_nonlinear",
    "verify_the_theorem",
    "what_is_proved",
    "law_of_parsimony",
    "initialisation_and_depth",
    "your_own_checkpoint",
    "compressed_training",
    "low_rank_layers",
    "deep_lora",
    "watch_a_network_collapse",
    "collapse_in_a_language_model",
    "which_layer_to_fine_tune",
)
"""Notebooks that are not named here come after these, by name."""

THUMBNAIL_SIZE = (720, 440)
THUMBNAIL_TAG = "thumbnail"

Notebook = dict[str, Any]

_GALLERY = """\
# Tutorials

Each page is a notebook that answers one question and runs on a laptop without a GPU. What you see is what it printed
and drew; the notebooks are run as tests.

::::{{grid}} 1 2 2 2
:gutter: 3

{cards}
::::

```{{toctree}}
:hidden:

{entries}
```
"""

_CARD = """\
:::{{grid-item-card}} {title}
:link: {stem}
:link-type: doc
:img-top: {stem}.png
:img-alt: {alt}
:class-card: picture

{question}
:::
"""


def pages(notebooks: Sequence[Path]) -> dict[str, str | bytes]:
    """Name → content of the gallery, of each notebook and of its thumbnail."""
    read = {path.stem: json.loads(path.read_text()) for path in sorted(notebooks, key=_position)}
    written: dict[str, str | bytes] = {"tutorials/index.md": gallery(read)}
    for stem, notebook in read.items():
        page = with_links(with_download(figures.described(notebook), stem), [*read])
        written[f"tutorials/{stem}.ipynb"] = json.dumps(page, indent=1)
        written[f"tutorials/{stem}.png"] = thumbnail(notebook)
    return written


def gallery(notebooks: dict[str, Notebook]) -> str:
    """The page of cards."""
    cards = [
        _CARD.format(stem=stem, title=title(book), question=question(book), alt=figures.alt(*_pictured(book)))
        for stem, book in notebooks.items()
    ]
    return _GALLERY.format(cards="\n".join(cards), entries="\n".join(notebooks))


def title(notebook: Notebook) -> str:
    """The first heading.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = re.search(r"^# (.+)$", _prose(notebook), flags=re.MULTILINE)
    if found is None:
        raise ValueError("a notebook must begin with a heading '# …'")
    return found[1].strip()


def question(notebook: Notebook) -> str:
    """The question that the notebook says it answers.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = re.search(r"\*\*Question\.\*\*\s+(.+?)(?:\n\s*\n|\Z)", _prose(notebook), flags=re.DOTALL)
    if found is None:
        raise ValueError(f"notebook {title(notebook)!r} must ask its question in a paragraph '**Question.** …'")
    return " ".join(found[1].split())


def thumbnail(notebook: Notebook) -> bytes:
    """The first figure, or that of the cell tagged "thumbnail", on white in a fixed shape, as PNG.

    Raises
    ------
    ValueError
        If no cell has drawn anything.
    """
    cell, _ = _pictured(notebook)
    drawn = next(output["data"]["image/png"] for output in cell["outputs"] if "image/png" in output.get("data", {}))
    figure = Image.open(io.BytesIO(base64.b64decode("".join(drawn)))).convert("RGBA")
    figure.thumbnail(THUMBNAIL_SIZE, Image.Resampling.LANCZOS)
    card = Image.new("RGBA", THUMBNAIL_SIZE, "white")
    card.alpha_composite(figure, tuple((room - side) // 2 for room, side in zip(card.size, figure.size, strict=True)))
    stream = io.BytesIO()
    card.convert("RGB").save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _pictured(notebook: Notebook) -> tuple[dict[str, Any], str]:
    """The first cell with a figure, or that which is tagged "thumbnail", and the heading above it."""
    drawn = [(cell, heading) for cell, heading in figures.with_headings(notebook) if figures.draws(cell)]
    if not drawn:
        raise ValueError(f"notebook {title(notebook)!r} must contain a figure")
    return min(drawn, key=lambda found: THUMBNAIL_TAG not in found[0].get("metadata", {}).get("tags", ()))


def with_download(notebook: Notebook, stem: str) -> Notebook:
    """A copy that says, under its title, where the notebook itself is."""
    link = f"{{download}}`Download this notebook <{stem}.ipynb>`"
    cell = {"cell_type": "markdown", "id": "download", "metadata": {}, "source": link}
    first, *rest = notebook["cells"]
    return notebook | {"cells": [first, cell, *rest]}


def with_links(notebook: Notebook, stems: Sequence[str]) -> Notebook:
    """A copy whose mentions of other notebooks, and of the page of theory, are links."""
    targets = {f"{stem}.ipynb": f"{stem}.ipynb" for stem in stems} | {"docs/theory.md": "../../theory.md"}
    mention = re.compile("|".join(f"`({re.escape(name)})`" for name in targets))

    def linked(cell: dict[str, Any]) -> dict[str, Any]:
        text = "".join(cell["source"])
        found = mention.sub(lambda match: f"[`{match[match.lastindex]}`]({targets[match[match.lastindex]]})", text)
        return cell | {"source": found} if cell["cell_type"] == "markdown" else cell

    return notebook | {"cells": [linked(cell) for cell in notebook["cells"]]}


def _prose(notebook: Notebook) -> str:
    """All markdown cells, one after the other."""
    return "\n\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")


def _position(path: Path) -> tuple[int, str]:
    """Where a notebook comes in the gallery."""
    return READING_ORDER.index(path.stem) if path.stem in READING_ORDER else len(READING_ORDER), path.stem

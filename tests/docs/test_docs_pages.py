"""Every public name, notebook, experiment and option has its place on the site, without anybody adding it."""

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import xarray as xr
from PIL import Image
from site_pages import commands, experiments, figures, gallery, quantities, reference, tutorials, write_all

import neurocollapse as nc
from neurocollapse.cli.program import app
from neurocollapse.experiments import EXPERIMENTS, Experiment

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def api() -> dict[str, str]:
    return reference.pages()


def documented(pages: dict[str, str]) -> list[str]:
    """Package and name of everything that a page documents."""
    return [
        f"{name.removesuffix('.rst')}: {line.rpartition(' ')[2]}"
        for name, page in pages.items()
        for line in page.splitlines()
        if line.startswith((".. auto", ".. py:data::"))
    ]


@pytest.mark.parametrize("name", nc.__all__)
def test_every_public_name_of_the_library_is_listed_with_what_it_does(api: dict[str, str], name: str) -> None:
    row = api["api/neurocollapse.rst"].partition(f":`{name} <neurocollapse")[2]
    assert row.partition("\n     - ")[2].partition("\n")[0].strip()


def test_every_public_name_of_every_package_is_documented_once(api: dict[str, str]) -> None:
    found = documented(api)
    assert len(found) == len(set(found))
    names = {line.partition(": ")[2] for line in found}
    for package, module in reference.packages().items():
        modules = {name for name in module.__all__ if isinstance(getattr(module, name), ModuleType)}
        assert set(module.__all__) - modules <= names, package


def test_a_name_that_is_public_twice_is_documented_where_it_is_shortest(api: dict[str, str]) -> None:
    assert ".. autofunction:: verify\n" in api["api/neurocollapse.rst"]
    assert ".. autofunction:: verify\n" not in api["api/theory.rst"]
    assert ":py:obj:`verify <neurocollapse.verify>`" in api["api/theory.rst"]


def test_a_constant_shows_its_value_and_the_string_after_it(api: dict[str, str]) -> None:
    shown = api["api/theory.rst"].partition(".. py:data:: EXACT")[2]
    assert "interior_balance=1e-08" in shown.partition("\n\n")[0]
    assert "constructed networks" in shown.partition("\n\n")[2].partition("\n")[0]


def test_every_public_name_of_every_package_says_what_it_is() -> None:
    homes: dict[int, reference.Entry] = {}
    listed = {name: list(reference.entries(module, homes)) for name, module in reference.packages().items()}
    assert [(name, entry.name) for name, found in listed.items() for entry in found if not entry.summary] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_a_card_with_its_question_and_a_page(path: Path) -> None:
    pages = tutorials.pages(NOTEBOOKS)
    gallery = str(pages["tutorials/index.md"])
    notebook = json.loads(path.read_text())
    card = gallery.partition(f":link: {path.stem}\n")[2].partition(":::\n")[0]
    assert tutorials.question(notebook) in card
    assert tutorials.question(notebook).endswith("?")
    assert f"\n{path.stem}\n" in gallery.partition("{toctree}")[2]
    assert len(json.loads(pages[f"tutorials/{path.stem}.ipynb"])["cells"]) == len(notebook["cells"]) + 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_thumbnail_has_the_same_shape_and_shows_something(path: Path) -> None:
    picture = Image.open(io.BytesIO(tutorials.thumbnail(json.loads(path.read_text()))))
    assert picture.size == tutorials.THUMBNAIL_SIZE
    assert len(picture.getcolors(maxcolors=2**20) or ()) > 10


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_of_a_notebook_has_a_text_of_its_own(path: Path) -> None:
    pages = tutorials.pages([path])
    cells = json.loads(pages[f"tutorials/{path.stem}.ipynb"])["cells"]
    texts = [cell["metadata"]["mystnb"]["image"]["alt"] for cell in cells if figures.draws(cell)]
    assert texts
    for text in texts:
        assert ": " in text or len(text.split()) > 4, text  # more than a heading
        assert not set(text) & set("$\\"), text
    card = str(pages["tutorials/index.md"]).partition(":img-alt: ")[2].partition("\n")[0]
    assert card in texts


def test_the_text_of_a_figure_says_what_its_code_draws() -> None:
    def text(source: str) -> str:
        return figures.alt({"source": source}, "Here")

    assert text("nc.plot.ranks(dataset)") == f"Here: {gallery.summary('ranks').rstrip('.')}"
    outcome = 'outcome = experiment("svd-evolution")'
    assert text(f"{outcome}\noutcome.figure()").startswith("Here: The first weight's spectrum over the steps")
    assert text(f'{outcome}\nax.set(xlabel="steps", ylabel=r"$\\sigma_i$ of $W$")') == "Here: σ_i of W against steps"
    assert text('ax.set_title(f"change of $W_2$, {name}")') == "Here: change of W_2"
    assert text("draw()") == "Here"


def test_outputs_of_a_notebook_bring_no_headings_and_keep_texts_of_its_own() -> None:
    book = notebook_of("# Title", figures=1)
    book["cells"][1] |= {"metadata": {"mystnb": {"image": {"alt": "own"}}}}
    book["cells"][1]["outputs"].append({"output_type": "display_data", "data": {"text/html": ["<h4>a", ": b</h4>"]}})
    cell = figures.described(book)["cells"][1]
    assert cell["metadata"]["mystnb"]["image"]["alt"] == "own"
    assert cell["outputs"][1]["data"]["text/html"] == "<p><strong>a: b</strong></p>"


def notebook_of(*markdown: str, figures: int = 0, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    """A notebook with text and, in its last cells, figures of one pixel."""
    output = {"output_type": "display_data", "data": {"image/png": PIXEL}}
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "source": text} for text in markdown]
    return {"cells": [*cells, *[{"cell_type": "code", "source": "", "outputs": [output]}] * figures]}


def test_a_notebook_without_question_title_or_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="must ask its question"):
        tutorials.question(notebook_of("# Title"))
    with pytest.raises(ValueError, match="begin with a heading"):
        tutorials.title(notebook_of("no title"))
    with pytest.raises(ValueError, match="must contain a figure"):
        tutorials.thumbnail(notebook_of("# Title"))
    assert tutorials.thumbnail(notebook_of("# Title", figures=1))


def test_mentions_of_other_notebooks_become_links() -> None:
    book = notebook_of("see `other.ipynb`, `missing.ipynb` and `docs/theory.md`")
    text = tutorials.with_links(book, ["other"])["cells"][0]["source"]
    assert text == "see [`other.ipynb`](other.ipynb), `missing.ipynb` and [`docs/theory.md`](../../theory.md)"


@dataclass(frozen=True)
class Setting:
    """A setting.

    Attributes
    ----------
    depth : int
        Number of weights,
        at least 2.
    scale, seed : number
        Of the initial weights.

    Notes
    -----
    depth
        Not this.
    """

    depth: int = 3
    scale: tuple[float, ...] = (0.5, 0.25)
    seed: int = 0


@dataclass(frozen=True)
class Wider(Setting):
    """More of it.

    Attributes
    ----------
    width : int
        Features.
    """

    width: int = 4


def test_an_experiment_shows_its_settings_at_both_scales() -> None:
    def draw(dataset: xr.Dataset) -> None:
        """Draw loss
        against steps.

        Then more.
        """

    entry = Experiment(
        "a-name", "what it shows", "A paper", Wider(), Wider(depth=9), ("1 s", "1 h"),
        run=lambda *_: xr.Dataset(), draw=draw, claims=lambda _: [],
    )  # fmt: skip
    page = experiments.pages({"a-name": entry})["experiments.md"]
    assert "| `depth` | `3` | `9` | Number of weights, at least 2. |" in page
    assert "| `width` | `4` | `4` | Features. |" in page
    assert "| `scale` | `0.5,0.25` | `0.5,0.25` | Of the initial weights. |" in page
    card = page.partition(":::{grid-item-card} a-name\n")[2].partition("\n:::\n")[0]
    assert ":img-top: ../images/experiments/a-name.png\n:img-alt: Loss against steps\n" in card
    assert card.endswith("What it shows. *Takes* 1\N{NO-BREAK SPACE}s.")
    assert "*Source:* A paper. *Takes* 1\N{NO-BREAK SPACE}s; at paper scale 1\N{NO-BREAK SPACE}h." in page


def test_every_experiment_is_on_the_page() -> None:
    page = experiments.pages()["experiments.md"]
    for name, entry in EXPERIMENTS.items():
        assert (
            f"## {name}\n\n{entry.shows[0].upper()}{entry.shows[1:].rstrip('.')}.\n\n*Source:* {entry.source}" in page
        )


def test_every_command_and_option_is_on_the_page() -> None:
    page = commands.pages()["command_line.md"]
    assert [info.name or info.callback.__name__ for info in app.registered_commands] == [
        line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")
    ]
    for shown in ("--checkpoint <", "--no-include-input", "NEUROCOLLAPSE_DATA", "[default: small]"):
        assert shown in page.replace("\\", "")


def test_options_in_a_help_text_are_code_because_two_hyphens_would_become_a_dash() -> None:
    assert commands.markdown("Short for --set seed=1, as --num-classes (a_b).") == (
        "Short for `--set` seed=1, as `--num-classes` (a\\_b)."
    )
    outside = re.sub(r"```[\s\S]*?```|`[^`\n]+`", "", commands.pages()["command_line.md"])
    assert not re.findall(r"--[a-z]\S*", outside)


def test_writing_removes_what_is_no_longer_there_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    (tmp_path / "tutorials").mkdir()
    (tmp_path / "tutorials" / "gone.ipynb").write_text("{}")
    write_all(tmp_path)
    assert not (tmp_path / "tutorials" / "gone.ipynb").exists()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.stem for path in times} >= {path.stem for path in NOTEBOOKS} | {"experiments", "command_line"}
    write_all(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize("quantity", nc.metrics.QUANTITIES, ids=lambda quantity: quantity.name)
def test_every_quantity_is_on_its_page_with_what_it_needs(quantity: nc.Quantity) -> None:
    entry = quantities.pages()["quantities.md"].partition(f"`{quantity.name}`\n: ")[2].partition("\n")[0]
    assert quantity.long_name.lower() in entry.lower()
    assert ("Needs" in entry) == bool(quantity.needs)
    assert ("At full collapse" in entry) == (quantity.at_collapse is not None)

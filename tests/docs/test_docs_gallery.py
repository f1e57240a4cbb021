"""Every figure is in the gallery and on the page of its function, and its code draws it."""

import io

import pytest
from PIL import Image
from site_pages import gallery, reference


def test_every_function_that_draws_is_in_the_gallery_with_its_code() -> None:
    assert sorted(gallery.FIGURES) == gallery.figures()
    page = str(gallery.pages()["gallery.md"])
    for name, code in gallery.FIGURES.items():
        section = page.partition(f"(figure-{name})=\n")[2].partition("All arguments")[0]
        assert f"gallery/{name}.png" in section
        assert code.splitlines()[-1].strip() in section
        assert f"nc.plot.{name}(" in code


def test_the_page_of_every_function_shows_its_figure() -> None:
    page = reference.pages()["api/plots.rst"]
    for name in gallery.FIGURES:
        own = page.partition(f".. autofunction:: {name}\n")[2].partition("\n.. auto")[0]
        assert f".. image:: ../gallery/{name}.png" in own
        assert f"<figure-{name}>" in own


@pytest.mark.slow
def test_the_code_of_the_gallery_draws_its_pictures() -> None:
    pictures = gallery.pictures()
    assert [*pictures] == [*gallery.FIGURES]
    for name, content in pictures.items():
        picture = Image.open(io.BytesIO(content))
        assert min(picture.size) > 250, name
        assert len(picture.convert("RGB").getcolors(maxcolors=2**20) or ()) > 10, name

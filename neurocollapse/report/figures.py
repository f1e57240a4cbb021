"""Figures as inline SVG: small, scalable, the same bytes each time, and several of them on one page."""

import base64
import io
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from neurocollapse.report.downloads import bytes_uri, file_name, text_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

_LEAST_SCALE = 0.72
_FONTS = "'DejaVu Sans', Verdana, sans-serif"  # Verdana is as wide, so labels keep their room
_PNG_DPI = 150
"""Dots per inch of a figure saved as PNG: sharp on a slide, a few tens of kilobytes in 256 colours."""


@dataclass(frozen=True)
class Picture:
    """One figure of the page.

    Attributes
    ----------
    svg
        The figure within the page.
    title, caption
        Its heading, and what to read in it.
    wide
        Whether it needs the whole width.
    files
        Name and address of the same figure as SVG and as PNG.
    """

    svg: Markup
    title: str
    caption: str
    wide: bool
    files: tuple[tuple[str, str], ...] = ()


def picture(figure: "Figure", *, title: str, caption: str, prefix: str, alt: str = "") -> Picture:
    """Embed a matplotlib figure; ``prefix`` keeps its ids apart from those of other figures on the page.

    ``alt`` is what a reader who does not see the figure is told; by default its title and caption.
    """
    from neurocollapse import plots  # here, not above: importing the library must not cost importing matplotlib

    text = plots.svg_text(figure)
    sizes = [re.search(rf'<svg[^>]* {side}="([\d.]+)pt"', text) for side in ("width", "height")]
    width, height = (float(size[1]) * 4 / 3 if size else 480.0 for size in sizes)
    start = text.index(">", text.index("<svg")) + 1
    view = re.search(r'viewBox="([^"]+)"', text)
    body = _small(_stripped(text[start:]))
    opening = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{}" viewBox="{}" style="{}">'
    ).format(
        alt or ". ".join(filter(None, (title, caption))),
        view[1] if view else "",
        f"width:100%;max-width:{1.25 * width:.0f}px;min-width:{_LEAST_SCALE * width:.0f}px",
    )
    alone = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    alone += (
        f'width="{width:.0f}" height="{height:.0f}" viewBox="{view[1] if view else ""}" stroke-linejoin="round">{body}'
    )
    files = (
        (file_name(title, "svg"), text_uri("image/svg+xml", alone)),
        (file_name(title, "png"), bytes_uri("image/png", _png(figure))),
    )
    return Picture(opening + Markup(_own_ids(body, prefix)), title, caption, width > 600, files)


def _stripped(body: str) -> str:
    """Without metadata, comments, and the style sheet that would reach every other SVG on the page."""
    for pattern in (r"<metadata>.*?</metadata>", r"<!--.*?-->", r"<style[^>]*>.*?</style>"):
        body = re.sub(pattern, "", body, flags=re.DOTALL)
    return re.sub(r"\n\s*", "\n", body)


def _small(body: str) -> str:
    """With hundredths of a point, without names that nothing refers to, with fonts that all have, in 256 colours."""
    used = {name for found in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', body) for name in found}

    def shorter(tag: re.Match[str]) -> str:
        if "base64," in tag[0]:
            return tag[0]
        text = re.sub(r' id="([^"]*)"', lambda name: name[0] if name[1] in used else "", tag[0])
        return re.sub(r"(?<![\w#.])(-?\d+\.\d\d)\d+(?!\w)", r"\1", text).replace("'DejaVu Sans'", _FONTS)

    body, before = _with_palette(re.sub(r"<[^<>]+>", shorter, body)), ""
    while before != body:
        before, body = body, re.sub(r"<(g|defs)>\s*</\1>\n?", "", body)
    return body


def _with_palette(body: str) -> str:
    """Embedded pixels with 256 colours, a third of the bytes: scatter pictures have few colours and many points."""
    from PIL import Image

    def smaller(uri: re.Match[str]) -> str:
        pixels = Image.open(io.BytesIO(base64.b64decode(uri[2]))).convert("RGBA")
        content = _with_colours(pixels, Image.Quantize.FASTOCTREE)  # the only method that keeps transparency
        return uri[1] + base64.b64encode(content).decode("ascii") if len(content) < len(uri[2]) else uri[0]

    return re.sub(r'(="data:image/png;base64,\s*)([A-Za-z0-9+/=\s]+)', smaller, body)


def _with_colours(image: "Image", method: int) -> bytes:
    """A picture as PNG of 256 colours."""
    buffer = io.BytesIO()
    image.quantize(256, method=method).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _png(figure: "Figure") -> bytes:
    """The figure as pixels, laid out as its SVG is; it keeps its layout engine."""
    from PIL import Image

    engine, buffer = figure.get_layout_engine(), io.BytesIO()
    if engine is not None:
        figure.set_layout_engine("none")  # which would lay it out for another size of dots
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(buffer, format="png", dpi=_PNG_DPI, bbox_inches=None if engine else "tight")
    finally:
        if engine is not None:
            figure.set_layout_engine(engine)
    pixels = Image.open(buffer).convert("RGB")
    return _with_colours(pixels, Image.Quantize.MEDIANCUT)  # paper stays white, lines keep their colours


def _own_ids(body: str, prefix: str) -> str:
    """Every id and every reference to one with the prefix, in tags only: a layer may be called `id="x"`."""

    def renamed(tag: re.Match[str]) -> str:
        text = re.sub(r' id="', f' id="{prefix}-', tag[0])
        text = re.sub(r' (?:xlink:)?href="#', f' href="#{prefix}-', text).replace("xlink:href=", "href=")
        return text.replace("url(#", f"url(#{prefix}-")

    return re.sub(r"<[^<>]+>", renamed, body)

"""Figures as inline SVG: small, scalable, the same bytes each time, and several of them on one page."""

import base64
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST_SCALE = 0.72
_FONTS = "'DejaVu Sans', Verdana, sans-serif"  # Verdana is as wide, so labels keep their room


@dataclass(frozen=True)
class Picture:
    """One figure of the page: its SVG, a heading, what to read in it, and whether it needs the whole width."""

    svg: Markup
    title: str
    caption: str
    wide: bool


def picture(figure: "Figure", *, title: str, caption: str, prefix: str) -> Picture:
    """Embed a matplotlib figure; ``prefix`` keeps its ids apart from those of other figures on the page."""
    from neurocollapse import plots  # here, not above: importing the library must not cost importing matplotlib

    text = plots.svg_text(figure)
    match = re.search(r'<svg[^>]* width="([\d.]+)pt"', text)
    width = float(match[1]) * 4 / 3 if match else 480.0
    body = text[text.index(">", text.index("<svg")) + 1 :]
    view = re.search(r'viewBox="([^"]+)"', text)
    opening = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{}" viewBox="{}" style="{}">'
    ).format(
        title,
        view[1] if view else "",
        f"width:100%;max-width:{1.25 * width:.0f}px;min-width:{_LEAST_SCALE * width:.0f}px",
    )
    return Picture(opening + Markup(_own_ids(_with_palette(_stripped(body)), prefix)), title, caption, wide=width > 600)


def _stripped(body: str) -> str:
    """Without metadata, comments, and the style sheet that would reach every other SVG on the page."""
    for pattern in (r"<metadata>.*?</metadata>", r"<!--.*?-->", r"<style[^>]*>.*?</style>"):
        body = re.sub(pattern, "", body, flags=re.DOTALL)
    return re.sub(r"\n\s*", "\n", body)


def _with_palette(body: str) -> str:
    """Embedded pixels with 256 colours, a third of the bytes: scatter pictures have few colours and many points."""
    from PIL import Image

    def smaller(uri: re.Match[str]) -> str:
        image = Image.open(io.BytesIO(base64.b64decode(uri[2])))
        buffer = io.BytesIO()
        image.convert("RGBA").quantize(256, method=Image.Quantize.FASTOCTREE).save(buffer, "png", optimize=True)
        return uri[1] + base64.b64encode(buffer.getvalue()).decode("ascii") if buffer.tell() < len(uri[2]) else uri[0]

    return re.sub(r'(="data:image/png;base64,\s*)([A-Za-z0-9+/=\s]+)', smaller, body)


def _own_ids(body: str, prefix: str) -> str:
    """Every id and every reference to one with the prefix, in tags only: a layer may be called `id="x"`."""

    def renamed(tag: re.Match[str]) -> str:
        text = re.sub(r' id="', f' id="{prefix}-', tag[0])
        text = re.sub(r' (?:xlink:)?href="#', f' href="#{prefix}-', text).replace("xlink:href=", "href=")
        return text.replace("url(#", f"url(#{prefix}-").replace("'DejaVu Sans'", _FONTS)

    return re.sub(r"<[^<>]+>", renamed, body)

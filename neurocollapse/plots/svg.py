"""Figures as SVG text."""

import io
import warnings

from matplotlib import rc_context
from matplotlib.figure import Figure

_RASTER_DPI = 144


def svg_text(figure: Figure) -> str:
    """A figure as SVG, always the same bytes: text stays text, and points that a figure rasterises have 144 dpi.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        It stays open and unchanged.

    Examples
    --------
    >>> svg_text(Figure()).count("<svg")
    1
    """
    buffer = io.StringIO()
    # Text stays text: smaller than outlines, selectable, and scripts that DejaVu lacks are drawn by the browser,
    # so matplotlib's complaint about their missing glyphs does not apply. A fixed salt makes the bytes reproducible.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "neurocollapse"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # A layout engine has already fitted everything; cropping would draw the figure a second time.
        box = None if figure.get_layout_engine() else "tight"
        figure.savefig(buffer, format="svg", bbox_inches=box, dpi=_RASTER_DPI, metadata={"Date": None})
    return buffer.getvalue()

"""Small pictures of experiments for their page, drawn from outcomes; each file says which command made the run."""

import dataclasses
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from neurocollapse import plots
from neurocollapse.experiments.experiment import Outcome
from reproduction.outcomes import command, scale_of

SIZE = (560, 330)
"""Pixels of a picture: twice what a card is wide, for dense screens."""
COLOURS = 64
"""Few enough for a file of some kilobytes."""
COMMAND = "command"
"""Key of a picture's text that holds the command of its run."""


def chosen(outcomes: Iterable[Outcome]) -> dict[str, Outcome]:
    """Experiment → the outcome to draw: at the small scale rather than the paper's, and with the first seed 0."""
    ranked = sorted(outcomes, key=lambda one: (_SCALES.index(scale_of(one)), one.setting.seed), reverse=True)
    return {one.experiment.name: one for one in ranked}


_SCALES = ("small", "paper", "changed")


def picture(outcome: Outcome) -> bytes:
    """The figure of an outcome, small and on white, as PNG; of a figure with many rows the first."""
    figure = outcome.figure()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    drawn = Image.open(stream).convert("RGB")
    drawn = drawn.crop((0, 0, drawn.width, height(figure, dpi=_DPI)))
    plots.close(figure)
    drawn.thumbnail(SIZE, Image.Resampling.LANCZOS)
    card = Image.new("RGB", SIZE, "white")
    card.paste(drawn, tuple((room - side) // 2 for room, side in zip(SIZE, drawn.size, strict=True)))
    text = PngInfo()
    text.add_text(COMMAND, command(outcome.experiment, dataclasses.asdict(outcome.setting)))
    small = io.BytesIO()
    card.quantize(COLOURS, method=_METHOD, dither=Image.Dither.NONE).save(small, "PNG", optimize=True, pnginfo=text)
    return small.getvalue()


_DPI = 200
_METHOD = Image.Quantize.FASTOCTREE
"""Keeps the few pixels of a line in their own colour, which the median cut mixes with those of others."""


def height(figure: Any, *, dpi: float) -> int:
    """Pixels from the top of a figure down to the last row of panels with which it is no higher than wide."""
    width, full = figure.bbox.size
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    ends = [box.y0 for box in boxes if not any(other.y0 < box.y0 - 1 < other.y1 for other in boxes)]
    fitting = [end for end in ends if full - end <= width]
    end = 0 if full <= width or not fitting else min(fitting)
    return round((full - end) * dpi / figure.dpi)


def write_pictures(outcomes: Iterable[Outcome], folder: Path) -> list[Path]:
    """Draw the chosen outcome of every experiment into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, outcome in chosen(outcomes).items():
        written.append(folder / f"{name}.png")
        written[-1].write_bytes(picture(outcome))
    return written

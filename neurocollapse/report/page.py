"""The page itself: results in, one HTML file out."""

import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from neurocollapse.report.figures import Picture, picture
from neurocollapse.report.results import Results, sort_results
from neurocollapse.report.summary import comparison, glance, sentences
from neurocollapse.report.tables import PROBED, layer_rows, probe_rows, provenance_rows, skipped_rows, warning_rows
from neurocollapse.report.verification import bound_tables, is_experiment, section
from neurocollapse.support.atomic import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CAPTIONS = {
    "compression": (
        "Compression D by layer",
        "D is the spread within classes over the spread between them; lower is more collapsed. On this log axis a "
        "straight line means that every layer multiplies D by the same factor. Dashed: the least-squares line.",
    ),
    "decay": (
        "Decay ratio by layer",
        "D of a layer over D of the layer before. Below 1 a layer pulls classes together, above 1 it spreads them "
        "again. Dashed: the one factor of the fit.",
    ),
    "separation": (
        "Separation of the class means by layer",
        "S and discrimination differ in where the means are measured from and whether the cosine keeps its sign, so "
        "they are not comparable. Dotted: S at a simplex frame, the most symmetric arrangement of the classes.",
    ),
    "class_spread": (
        "Spread of every class by layer",
        "Spread of each class over the between-class trace. The curves average to D, weighted by samples, so a class "
        "far above the others is the one that holds D up.",
    ),
    "probes": (
        "What can be read from each layer",
        "Accuracy of a linear probe, and of the nearest class mean. Where the probe's curve flattens the classes are "
        "separable; where the nearest mean catches up they are compressed as well.",
    ),
    "ranks": (
        "How many directions the features use",
        "Numerical rank: how many singular values carry 95 % of their sum. Effective rank: exp of their entropy. "
        "Dotted: the number of classes, which neither exceeds at full collapse.",
    ),
}
_NEEDED = {
    "class_spread": ("class_scatter",),
    "probes": ("probe_accuracy_train", "probe_accuracy_test", "ncm_accuracy_train", "ncm_accuracy_test"),
    "ranks": ("numerical_rank", "effective_rank"),
}
"""Variables without which a picture is left out."""


def report(
    results: Any,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    figures: "Mapping[str, Figure] | None" = None,
) -> Path:
    """Write analyses and verifications as one self-contained HTML page and return its path.

    The page needs no network: style, figures (SVG) and formulas (MathML) are inside it, and the same results give the
    same bytes. It is written in one piece; a page that was there before stays until the new one is complete.

    Parameters
    ----------
    results
        A Dataset of `nc.analyze` or `nc.measure`, a Verification of `nc.verify`, a mapping of names to either, or a
        list of either. Several analyses are compared in the same figures.
    path
        File to write; its folder must exist.
    title
        Heading of the page.
    figures
        Caption to matplotlib figure, shown after the others; they stay open and unchanged.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    TypeError, ValueError
        If ``results`` holds something else, or nothing, or ``figures`` is not a mapping of captions to figures.
    FileNotFoundError, IsADirectoryError
        If the folder of ``path`` does not exist, or ``path`` is a folder.
    ResultFileError
        If the system refuses to write the page.

    Examples
    --------
    >>> import tempfile, xarray as xr
    >>> names = "compression decay_ratio separation discrimination within_trace between_trace".split()
    >>> dataset = xr.Dataset({name: ("layer", [1.0, 0.5]) for name in names}, {"layer": ["a", "b"]})
    >>> report({"net": dataset}, tempfile.mkdtemp() + "/report.html").name
    'report.html'
    """
    target = _check_path(path)
    found = sort_results(results)
    sections = [section(name, value) for name, value in found.verifications.items()]
    page = _template().render(
        title=title or _title(found),
        style=_style(),
        analyses=[
            {"name": name, "sentences": sentences(dataset), "rows": layer_rows(dataset), "probes": probe_rows(dataset)}
            for name, dataset in found.analyses.items()
        ],
        probed=list(PROBED.values()),
        glance=glance(found.analyses),
        comparison=comparison(found.analyses),
        pictures=_pictures(found.analyses),
        extra=_extra(figures),
        verifications=[
            {**shown, "pictures": _verification_pictures(value, shown["dataset"], index)}
            for index, (shown, value) in enumerate(zip(sections, found.verifications.values(), strict=True))
        ],
        warnings=warning_rows(found.analyses),
        skipped=skipped_rows(found.analyses),
        provenance=provenance_rows(found.analyses),
    )
    return write(target, page)


def _title(found: Results) -> str:
    """A heading from the names of the results."""
    names = [*found.analyses, *(name for name in found.verifications if name not in found.analyses)]
    return "Neural collapse, layer by layer: " + ", ".join(names[:4]) + (" and more" if len(names) > 4 else "")


def _pictures(analyses: Mapping[str, xr.Dataset]) -> list[Picture]:
    """The curves, all networks in the same axes, each panel a figure of its own so that it fits a phone."""
    if not analyses:
        return []
    from neurocollapse import plots  # here, not above: importing the library must not cost importing matplotlib

    drawn: Any = next(iter(analyses.values())) if len(analyses) == 1 else analyses
    pictures = []
    for name, (heading, caption) in _CAPTIONS.items():
        if not all(needed in one.data_vars for one in analyses.values() for needed in _NEEDED.get(name, ())):
            continue
        axes = getattr(plots, name)(drawn, ax=plots.offscreen_axes())
        pictures.append(picture(axes.figure, title=heading, caption=caption, prefix=name))
    return pictures


def _verification_pictures(result: Any, dataset: Any, index: int) -> list[Picture]:
    """An experiment's own figure, or the bounds beside the measurements of a verification."""
    from neurocollapse import plots  # see _pictures

    if is_experiment(result):
        figure = result.figure()
        drawn = picture(figure, title=str(result.experiment.name), caption="", prefix=f"experiment{index}")
        plots.close(figure)
        return [drawn]
    pictures = []
    for table in bound_tables(dataset):
        axes: Any = plots.bounds(dataset, quantity=table["quantity"], ax=plots.offscreen_axes())
        title = f"{table['heading'].capitalize()} and what the theorems allow"
        caption = "Dots inside a bracket agree with it; a lower bound below zero says nothing."
        prefix = f"verification{index}-{table['quantity']}"
        pictures.append(picture(axes.figure, title=title, caption=caption, prefix=prefix))
    return pictures


def _extra(figures: "Mapping[str, Figure] | None") -> list[Picture]:
    """The caller's own figures."""
    if figures is None:
        return []
    if not isinstance(figures, Mapping):
        raise TypeError(f"`figures` must be a mapping of captions to figures, got {type(figures).__name__}")
    for caption, figure in figures.items():
        if not hasattr(figure, "savefig"):
            raise TypeError(f"`figures[{caption!r}]` must be a matplotlib Figure, got {type(figure).__name__}")
    return [
        picture(figure, title=str(caption), caption="", prefix=f"extra{index}")
        for index, (caption, figure) in enumerate(figures.items())
    ]


@cache
def _template() -> Any:
    """The compiled template; names of layers and classes are input, so everything is escaped."""
    environment = Environment(
        loader=PackageLoader("neurocollapse.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _style() -> Markup:
    """The style sheet, which is ours and therefore not escaped."""
    return Markup(files("neurocollapse.report").joinpath("page.css").read_text(encoding="utf-8"))


def _check_path(path: str | os.PathLike[str]) -> Path:
    """A file that can be written, or an error before any work is done."""
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"`path` must be a file, got the folder {str(target)!r}; add a name, e.g. report.html")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"`path` lies in {str(target.parent)!r}, which does not exist; create it first")
    return target

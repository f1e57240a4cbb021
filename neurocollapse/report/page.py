"""The page itself: results in, one HTML file out."""

import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
from markupsafe import Markup

from neurocollapse.report.curves import (
    collapse_pictures,
    layer_pictures,
    margin_pictures,
    step_pictures,
    with_steps,
)
from neurocollapse.report.definitions import collapse_rows, definitions, margin_rows
from neurocollapse.report.figures import Picture, picture
from neurocollapse.report.provenance import provenance_rows, skipped_rows, warning_rows
from neurocollapse.report.results import Results, sort_results
from neurocollapse.report.summary import comparison, fits, glance, sentences
from neurocollapse.report.tables import table
from neurocollapse.report.verification import bound_tables, is_experiment, section
from neurocollapse.support.atomic import write
from neurocollapse.support.checks import file_path
from neurocollapse.support.dataset import last, leading
from neurocollapse.support.text import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_COLUMNS = 12
"""A table with more columns is split, one table a family."""
_WIDTH = 120
"""Characters of a row that fit on the page."""


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
        list of either. Several analyses are compared in the same figures. Of datasets joined along a step or epoch the
        last one is told in words and tables, and all are drawn; along `model`, `run` or `network`, each is a network.
    path
        File to write; its folder must exist.
    title : str, optional
        Heading of the page.
    figures : mapping, optional
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
    >>> dataset = xr.Dataset({"compression": ("layer", [1.0, 0.5])}, {"layer": ["a", "b"]})
    >>> report({"net": dataset}, tempfile.mkdtemp() + "/report.html").name
    'report.html'
    """
    target = _check_path(path)
    found = sort_results(results)
    latest = {name: last(dataset)[0] for name, dataset in found.analyses.items()}
    sections = [section(name, value) for name, value in found.verifications.items()]
    page = _template().render(
        title=title or _title(found),
        style=_style(),
        analyses=[_analysis(name, dataset) for name, dataset in found.analyses.items()],
        fits=fits(latest),
        glance=glance(latest),
        comparison=comparison(latest),
        pictures=dict(_pictures(found.analyses)),
        over=with_steps(found.analyses)[1],
        collapse=collapse_rows(latest),
        margin=margin_rows(latest),
        extra=_extra(figures),
        verifications=[
            {**shown, "pictures": _verification_pictures(value, shown["dataset"], index)}
            for index, (shown, value) in enumerate(zip(sections, found.verifications.values(), strict=True))
        ],
        definitions=definitions(latest),
        warnings=warning_rows(latest),
        skipped=skipped_rows(latest),
        provenance=provenance_rows(latest),
    )
    return write(target, page)


def _title(found: Results) -> str:
    """A heading from the names of the results."""
    names = [*found.analyses, *(name for name in found.verifications if name not in found.analyses)]
    return "Neural collapse, layer by layer: " + ", ".join(names[:4]) + (" and more" if len(names) > 4 else "")


def _analysis(name: str, dataset: xr.Dataset) -> dict[str, Any]:
    """Sentences and tables of one network; of several steps the last one."""
    latest, step = last(dataset)
    dim = leading(dataset)
    if dim and dataset.sizes[dim] > 1:
        step += f", the last of {dataset.sizes[dim]}"
    whole = table(latest)
    parts = whole.families() if len(whole.headings) > _MOST_COLUMNS else [whole]
    tables = [one for part in parts for one in part.fitted(_WIDTH)]
    return {"name": name, "sentences": sentences(latest, step), "step": step, "tables": tables, "totals": whole.totals}


def _pictures(analyses: Mapping[str, xr.Dataset]) -> list[tuple[str, list[Picture]]]:
    """The curves of each section."""
    return [
        ("layers", layer_pictures(analyses)),
        ("steps", step_pictures(analyses)),
        ("collapse", collapse_pictures(analyses)),
        ("margin", margin_pictures(analyses)),
    ]


def _verification_pictures(result: Any, dataset: Any, index: int) -> list[Picture]:
    """An experiment's own figure, or the bounds beside the measurements of a verification."""
    from neurocollapse import plots  # here, not above: importing the library must not cost importing matplotlib

    if is_experiment(result):
        figure = result.figure()
        drawn = picture(figure, title=str(result.experiment.name), caption="", prefix=f"experiment{index}")
        plots.close(figure)
        return [drawn]
    pictures = []
    if "certified_upper" in dataset.data_vars:
        band: Any = plots.certificate(dataset, ax=plots.offscreen_axes())
        caption = "The band is proved from the input, the output and the weights; D is a transient on a floor."
        prefix = f"verification{index}-certificate"
        pictures.append(picture(band.figure, title="What is proved about D", caption=caption, prefix=prefix))
    for bound in bound_tables(dataset):
        axes: Any = plots.bounds(dataset, quantity=bound["quantity"], ax=plots.offscreen_axes())
        title = f"{bound['heading'].capitalize()} and what the theorems allow"
        caption = "Dots inside a bracket agree with it; a lower bound below zero says nothing."
        prefix = f"verification{index}-{bound['quantity']}"
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
    from jinja2 import Environment, PackageLoader, StrictUndefined  # slow import, needed only here

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
    target = Path(file_path("path", path))
    if os.path.isdir(target):
        raise IsADirectoryError(f"`path` must be a file, got the folder {str(target)!r}; add a name, e.g. report.html")
    if not os.path.isdir(target.parent):
        place = visible(target.parent)
        raise FileNotFoundError(f"`path` lies in '{place}', which does not exist; create it first")
    return target

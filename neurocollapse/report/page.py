"""The page itself: results in, one HTML file out."""

import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
from markupsafe import Markup

from neurocollapse.report.compare import comparison_of, comparison_pictures, to_compare
from neurocollapse.report.curves import (
    collapse_pictures,
    layer_pictures,
    margin_pictures,
    similarity_pictures,
    step_pictures,
    uncertainty_pictures,
)
from neurocollapse.report.definitions import definitions
from neurocollapse.report.figures import Picture, picture
from neurocollapse.report.grids import Grid, grid
from neurocollapse.report.leads import headline
from neurocollapse.report.provenance import warning_rows
from neurocollapse.report.results import Results, sort_results
from neurocollapse.report.sections import comparison_section, evidence_sections, network_sections, similarity_section
from neurocollapse.report.summary import comparison, fit_rows, glance_rows, sentences
from neurocollapse.report.verification import bound_tables, is_experiment, mark, section
from neurocollapse.support.atomic import write
from neurocollapse.support.checks import file_path
from neurocollapse.support.dataset import last, leading
from neurocollapse.support.text import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_VERDICTS = 6
"""Most networks about which the head of the page has a sentence."""


def report(
    results: Any,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    figures: "Mapping[str, Figure] | None" = None,
    compare: bool = False,
) -> Path:
    """Write analyses and verifications as one self-contained HTML page and return its path.

    The page leads with the verdict and one figure; sections fold, and evidence is folded. It needs neither a network
    nor a script: style, figures (SVG) and formulas (MathML) are inside it, every figure can be saved as SVG and PNG
    and every table as CSV in full precision, and the same results give the same bytes. It is written in one piece; a
    page that was there before stays until the new one is complete.

    Parameters
    ----------
    results
        A Dataset of `nc.analyze`, `nc.measure` or `nc.similarity`, a Verification of `nc.verify`, a mapping of names to
        these, or a list of them. Several analyses are drawn in the same figures. Where a dataset has several steps or
        epochs, words and tables are about the last one, and figures show all; along `model`, `run` or `network` each
        entry is a network.
    path
        File to write; its folder must exist.
    title : str, optional
        Heading of the page. Default: made of the names of the results.
    figures : mapping, optional
        Caption to matplotlib figure, shown after the others; they stay open and unchanged.
    compare : bool, default False
        Set two networks side by side, layer by layer, and begin with which of them is more collapsed. Of one network
        with several steps, the first and the last step are compared.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    TypeError, ValueError
        If ``results`` holds something else, or nothing, or ``figures`` is not a mapping of captions to figures, or
        ``compare`` is given anything but two networks.
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
    compared = _latest(to_compare(found.analyses)) if compare else {}
    latest = _latest(found.analyses)
    pictures = dict(_pictures(found, compared))
    checked = [
        {**shown, "key": f"result{index}", "pictures": _verification_pictures(value, shown["dataset"], index)}
        for index, (shown, value) in enumerate(
            (section(name, value), value) for name, value in found.verifications.items()
        )
    ]
    lead = _take_lead(pictures, checked)
    sections = network_sections(found.analyses, latest, pictures)
    if compared:
        sections.insert(0, comparison_section(comparison_of(compared), pictures))
    page = _template().render(
        title=title or _title(found),
        style=_style(),
        mark=mark,
        compared=compared,
        verdicts=_verdicts(found.analyses, compared),
        lead=lead,
        findings=[(name, sentences(one, _step(found.analyses[name]))) for name, one in latest.items()],
        glance=_glance(latest),
        sections=[*sections, *similarity_section(found.similarities, pictures)],
        extra=_extra(figures),
        verifications=checked,
        evidence=evidence_sections(latest, {name: _step(one) for name, one in found.analyses.items()}),
        definitions=definitions(latest),
        warnings=warning_rows(latest),
    )
    return write(target, page)


def _latest(analyses: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The last step of every network."""
    return {name: last(dataset)[0] for name, dataset in analyses.items()}


def _title(found: Results) -> str:
    """A heading from the names of the results."""
    names = list(dict.fromkeys([*found.analyses, *found.similarities, *found.verifications]))
    return "Neural collapse, layer by layer: " + ", ".join(names[:4]) + (" and more" if len(names) > 4 else "")


def _step(dataset: xr.Dataset) -> str:
    """Which step a network is told at; nothing where it has no steps."""
    dim, step = leading(dataset), last(dataset)[1]
    return f"{step}, the last of {dataset.sizes[dim]}" if dim and dataset.sizes[dim] > 1 else step


def _verdicts(analyses: Mapping[str, xr.Dataset], compared: Mapping[str, xr.Dataset]) -> list[tuple[str, str]]:
    """Who is more collapsed, and a name and a sentence for each network."""
    latest = _latest(analyses)
    words = comparison_of(compared).lead if compared else comparison(latest)
    rows = [(name, headline(one, last(analyses[name])[1])) for name, one in latest.items()]
    more = [("", f"{len(rows) - _MOST_VERDICTS} more networks are told below.")] if len(rows) > _MOST_VERDICTS else []
    return [*([("", words)] if words else []), *rows[:_MOST_VERDICTS], *more]


def _glance(latest: Mapping[str, xr.Dataset]) -> list[Grid]:
    """The fit and the last layers' numbers of several networks."""
    if len(latest) < 2:
        return []
    return [
        grid("Key numbers of each network", ["", *latest], fit_rows(latest)),
        grid("Numbers of the last layers", ["at the last layer", *latest], glance_rows(latest)),
    ]


def _pictures(found: Results, compared: Mapping[str, xr.Dataset]) -> list[tuple[str, list[Picture]]]:
    """The figures of each section."""
    return [
        ("layers", layer_pictures(found.analyses)),
        ("compare", comparison_pictures(compared) if compared else []),
        ("steps", step_pictures(found.analyses)),
        ("collapse", collapse_pictures(found.analyses)),
        ("margin", margin_pictures(found.analyses)),
        ("uncertainty", uncertainty_pictures(found.analyses)),
        ("similarity", similarity_pictures(found.similarities)),
    ]


def _take_lead(pictures: dict[str, list[Picture]], checked: list[dict[str, Any]]) -> list[Picture]:
    """The one figure that the page leads with, taken out of its section: curves over the layers first."""
    for group in (*pictures.values(), *(one["pictures"] for one in checked)):
        if group:
            return [group.pop(0)]
    return []


def _verification_pictures(result: Any, dataset: Any, index: int) -> list[Picture]:
    """An experiment's own figure, or the bounds beside the measurements of a verification."""
    from neurocollapse import plots  # here, not above: importing the library must not cost importing matplotlib

    if is_experiment(result):
        figure = result.figure()
        told = f"{result.experiment.name}. {result.experiment.shows}"
        drawn = picture(figure, title=str(result.experiment.name), caption="", prefix=f"experiment{index}", alt=told)
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

"""The sections of the page on networks: a sentence, figures, and tables that are folded."""

from collections.abc import Mapping
from dataclasses import dataclass

import xarray as xr

from neurocollapse.report.compare import Comparison
from neurocollapse.report.curves import UNCERTAIN, with_steps
from neurocollapse.report.definitions import collapse_grid, margin_grid
from neurocollapse.report.figures import Picture
from neurocollapse.report.grids import Cell, Grid, grid, table_grid, total_rows
from neurocollapse.report.leads import collapse_lead, layers_lead, similarity_lead, steps_lead, uncertainty_lead
from neurocollapse.report.provenance import provenance_rows, skipped_rows
from neurocollapse.report.summary import margin_sentences
from neurocollapse.report.tables import table, texts
from neurocollapse.support.dataset import family, layer_names, tabulated

_MOST_COLUMNS = 12
"""A table with more columns is split into one table per family."""
_WIDTH = 120
"""Characters of a row that fit on the page."""


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes
    ----------
    key
        Where links lead.
    title, lead
        The heading, and the sentence below it.
    pictures
        Figures, shown.
    grids
        Tables, shown.
    evidence
        Tables that are folded.
    note
        What to know of the tables.
    is_open
        Whether the section is unfolded when the page opens.
    """

    key: str
    title: str
    lead: str
    pictures: tuple[Picture, ...] = ()
    grids: tuple[Grid, ...] = ()
    evidence: tuple[Grid, ...] = ()
    note: str = ""
    is_open: bool = True


def network_sections(
    analyses: Mapping[str, xr.Dataset], latest: Mapping[str, xr.Dataset], pictures: Mapping[str, list[Picture]]
) -> list[Section]:
    """What was measured, each section only where there is something to show."""
    drawn = {key: tuple(found) for key, found in pictures.items()}
    collapse, margin = (tuple(filter(None, [one])) for one in (collapse_grid(latest), margin_grid(latest)))
    over = with_steps(analyses)[1]
    sentences = [text for one in latest.values() for text in margin_sentences(one)]
    limits = "A dash means that no limit is known."
    uncertain = tuple(_uncertain(name, one) for name, one in latest.items() if _uncertain_names(one))
    found = [
        Section("layers", "Layer by layer", layers_lead(latest), drawn.get("layers", ())),
        Section("steps", f"Over training, {over} by {over}", steps_lead(analyses), drawn.get("steps", ())),
        Section(
            "collapse", "Neural collapse of the last layer", collapse_lead(latest),
            drawn.get("collapse", ()), (), collapse, limits,
        ),
        Section("margin", "The margin of the head", " ".join(sentences[:4]), drawn.get("margin", ()), (), margin),
        Section(
            "uncertainty", "How sure the numbers are", uncertainty_lead(latest),
            drawn.get("uncertainty", ()), (), uncertain,
        ),
    ]  # fmt: skip
    return [one for one in found if one.pictures or one.evidence]


def similarity_section(analyses: Mapping[str, xr.Dataset], pictures: Mapping[str, list[Picture]]) -> list[Section]:
    """Which layers are alike, where that was measured."""
    evidence = tuple(
        _similar(name, one, kind) for name, one in analyses.items() for kind in ("cka", "class_cka") if kind in one
    )
    if not evidence:
        return []
    drawn = tuple(pictures.get("similarity", ()))
    return [Section("similarity", "Which layers are alike", similarity_lead(analyses), drawn, (), evidence)]


def comparison_section(comparison: Comparison, pictures: Mapping[str, list[Picture]]) -> Section:
    """Two networks side by side."""
    return Section(
        "compare",
        "Side by side",
        comparison.lead,
        tuple(pictures.get("compare", ())),
        tuple(comparison.grids),
        tuple(comparison.evidence),
        comparison.note,
    )


def evidence_sections(latest: Mapping[str, xr.Dataset], steps: Mapping[str, str]) -> list[Section]:
    """All numbers, the layers left out, and where the numbers come from; folded."""
    numbers = tuple(one for name, dataset in latest.items() for one in _numbers(name, dataset, steps[name]))
    skipped = skipped_rows(latest)
    origin = provenance_rows(latest)
    undefined = "A dash means undefined: the first layer has no ratio, and 0/0 is not a number."
    lead = f"{len(numbers)} table{'s' * (len(numbers) != 1)} of every layer."
    left_out = grid("Layers left out", ["layer", "network", "reason"], skipped, words=[1], texts=[2])
    sources = grid("Where the numbers come from", ["", *latest], origin, texts=range(1, len(latest) + 1))
    found = []
    if numbers:
        found.append(Section("numbers", "Numbers", lead, (), numbers, (), undefined, is_open=False))
    if skipped:
        lead = "These layers were matched and not measured."
        found.append(Section("skipped", "Layers left out", lead, (), (left_out,)))
    if origin:
        lead = "Data, model, settings and versions."
        found.append(Section("provenance", "Where the numbers come from", lead, (), (sources,), is_open=False))
    return found


def _numbers(name: str, dataset: xr.Dataset, step: str) -> list[Grid]:
    """The tables of one network at one step, as many as it takes to fit the page."""
    whole = table(dataset)
    parts = whole.families() if len(whole.headings) > _MOST_COLUMNS else [whole]
    tables = [one for part in parts for one in part.fitted(_WIDTH)]
    title = f"{name} ({step})" if step else name
    grids = []
    for one in tables:
        words = one.columns[0].family if len(tables) > 1 else ""
        grids.append(table_grid(f"{title}: {words}" if words else title, one))
    totals = total_rows(dataset)
    return grids + ([grid(f"{title}: the whole network", ["", "network"], totals)] if totals else [])


def _uncertain_names(dataset: xr.Dataset) -> list[str]:
    """Numbers without the bias of few samples, and intervals."""
    return [name for name in tabulated(dataset) if family(dataset, name) in UNCERTAIN]


def _uncertain(name: str, dataset: xr.Dataset) -> Grid:
    """The layers of one network with these numbers, beside D."""
    names = [key for key in ("compression",) if key in dataset.data_vars] + _uncertain_names(dataset)
    return table_grid(f"{name}: without bias, and intervals", table(dataset[names]))


def _similar(name: str, dataset: xr.Dataset, kind: str) -> Grid:
    """A matrix of layers against layers."""
    values = dataset[kind].transpose("layer", "layer_")
    others = [str(other) for other in dataset["layer_"].values] if "layer_" in dataset.coords else []
    others = others or [str(at) for at in range(dataset.sizes["layer_"])]
    shown = iter(texts(values.values.ravel().tolist(), 3))
    cells = [[Cell(next(shown), value) for value in row] for row in values.values.tolist()]
    rows = [[layer, *row] for layer, row in zip(layer_names(dataset), cells, strict=True)]
    words = "of the samples" if kind == "cka" else "of the class means"
    return grid(f"{name}: alignment {words}", ["layer", *others], rows)

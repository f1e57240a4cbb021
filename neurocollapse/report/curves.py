"""The figures of the page: curves over the layers, over the steps, measures of collapse, and the margin of the head."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import xarray as xr

from neurocollapse.report.figures import Picture, picture
from neurocollapse.support.dataset import family, last, last_defined, layer_names, leading, shown
from neurocollapse.support.numbers import number

COLLAPSE = "collapse"
MARGIN = "margin"
UNCERTAIN = ("unbiased", "uncertainty")
"""The families that have a section of their own."""


class _Curves(NamedTuple):
    """A figure of `nc.plot` with what to read in it, and the variables without which it is left out."""

    plot: str
    needs: tuple[str, ...]
    title: str
    caption: str


_CURVES = (
    _Curves(
        "compression",
        ("compression",),
        "Compression D by layer",
        "D is the spread within classes over the spread between them; lower is more collapsed. On this log axis a "
        "straight line means that every layer multiplies D by the same factor. Dashed: the least-squares line.",
    ),
    _Curves(
        "decay",
        ("decay_ratio",),
        "Decay ratio by layer",
        "D of a layer over D of the layer before. Below 1 a layer pulls classes together, above 1 it spreads them "
        "again. Dashed: the one factor of the fit.",
    ),
    _Curves(
        "separation",
        ("separation", "discrimination"),
        "Separation of the class means by layer",
        "S and discrimination differ in where the means are measured from and whether the cosine keeps its sign, so "
        "they are not comparable. Dotted: S at a simplex frame, the most symmetric arrangement of the classes.",
    ),
    _Curves(
        "class_spread",
        ("class_scatter", "between_trace"),
        "Spread of every class by layer",
        "Spread of each class over the between-class trace. The curves average to D, weighted as "
        "the classes are in it, so a class far above the others is the one that holds D up.",
    ),
    _Curves(
        "probes",
        ("probe_accuracy_train", "probe_accuracy_test", "ncm_accuracy_train", "ncm_accuracy_test"),
        "What can be read from each layer",
        "Accuracy of a linear probe, and of the nearest class mean. Where the probe's curve flattens the classes are "
        "separable; where the nearest mean catches up they are compressed as well.",
    ),
    _Curves(
        "ranks",
        ("numerical_rank", "effective_rank"),
        "How many directions the features use",
        "Numerical rank: how many singular values carry 95 % of their sum. Effective rank: exp of their entropy. "
        "Dotted: the number of classes, which neither exceeds at full collapse.",
    ),
)


_RANKS = ("covariance_effective_rank", "participation_ratio", "participation_ratio_corrected", "stable_rank")
"""Ranks that have a figure together."""
_OF_COVARIANCE = (
    "Each counts the eigenvalues of the total covariance by how far below the largest they are. Only the corrected "
    "participation ratio allows for few samples; where it is far above the plain one, all others are too low."
)
_ALIKE = "Centred kernel alignment: 1 where two layers arrange the samples, or the class means, in the same way."
RUN = "run"
_MOST_TOLD = 4
"""Networks that the description of a figure names."""
_BAND = (
    "Lines are medians, bands reach from the lowest run to the highest. Where bands are wide, a single run says little."
)
_COLLAPSED = "Dotted lines and arrows: the value at full collapse, or the direction where no limit is known."
_MAP = "Layers upwards, steps to the right; a row that darkens early is a layer that collapses early."


def layer_pictures(analyses: Mapping[str, xr.Dataset]) -> list[Picture]:
    """The curves over the layers, all networks in the same axes; each panel is a figure of its own, to fit a phone.

    Numbers of a family that none of these figures shows, such as a user's own, are drawn one by one.
    """
    from neurocollapse import plots  # here, not above: importing the library must not cost importing matplotlib

    if not analyses:
        return []
    pictures, families = [], {COLLAPSE, MARGIN, *UNCERTAIN, ""}
    latest = last(next(iter(analyses.values())))[0]
    for curves in _CURVES:
        if all(name in one.data_vars for one in analyses.values() for name in curves.needs):
            families |= {family(latest, name) for name in curves.needs}
            given = (curves.plot, curves.title, curves.caption)
            pictures.append(_drawn(getattr(plots, curves.plot), analyses, *given, told=curves.needs))
    shared = _shared(analyses)
    ranks = [name for name in _RANKS if name in shared]
    if len(ranks) > 1:
        given = ("spectrum", "How many directions the covariance uses", _OF_COVARIANCE)
        pictures.append(_drawn(plots.quantities, analyses, *given, told=ranks, names=ranks))
    further = [name for name in shared if family(latest, name) not in families]
    return pictures + _one_by_one(analyses, [name for name in further if not (len(ranks) > 1 and name in ranks)])


def uncertainty_pictures(analyses: Mapping[str, xr.Dataset]) -> list[Picture]:
    """A figure for each number without the bias of few samples."""
    shared = _shared(analyses)
    latest = last(next(iter(analyses.values())))[0] if shared else xr.Dataset()
    return _one_by_one(analyses, [name for name in shared if family(latest, name) in UNCERTAIN])


def _one_by_one(analyses: Mapping[str, xr.Dataset], names: list[str]) -> list[Picture]:
    """A figure for each of some numbers, under what the number says of itself."""
    from neurocollapse import plots  # see layer_pictures

    pictures = []
    for name in names:
        attrs = last(next(iter(analyses.values())))[0][name].attrs
        title, caption = (
            f"{_capital(str(attrs.get('long_name', name)))} by layer",
            _capital(str(attrs.get("convention", ""))),
        )
        given = (f"layers-{name}", title, caption)
        pictures.append(_drawn(plots.quantities, analyses, *given, told=[name], names=name))
    return pictures


def similarity_pictures(analyses: Mapping[str, xr.Dataset]) -> list[Picture]:
    """Heat maps of layers against layers, of each network and of all its samples and its class means."""
    from neurocollapse import plots  # see layer_pictures

    pictures = []
    for index, (name, dataset) in enumerate(analyses.items()):
        for kind, words in (("cka", "Which layers are alike"), ("class_cka", "Whose class means are alike")):
            if kind in dataset.data_vars:
                title = f"{words}{f', {name}' * (len(analyses) > 1)}"
                given = (f"{kind}{index}", title, _ALIKE)
                pictures.append(_drawn(plots.similarity, {name: dataset}, *given, name=kind))
    return pictures


def step_pictures(analyses: Mapping[str, xr.Dataset]) -> list[Picture]:
    """The compression of all layers over the steps as a heat map, and the last layer's numbers, one figure a family."""
    from neurocollapse import plots  # see layer_pictures

    stepped, dim = with_steps(analyses)
    runs = _runs(stepped)
    bands = [
        _drawn(plots.trajectories, group, f"runs{index}", f"Compression D of every layer, {len(group)} runs", _BAND)
        for index, group in enumerate(runs)
    ]
    maps = [
        _drawn(plots.evolution, {name: one}, f"evolution{index}", _map_title(name, stepped), _MAP)
        for index, (name, one) in enumerate(stepped.items())
        if "compression" in one.data_vars and not any(name in group for group in runs)
    ]
    families: dict[str, list[str]] = {}
    for name in _shared(stepped):
        if all(dim in one[name].dims for one in stepped.values()):
            families.setdefault(family(next(iter(stepped.values())), name), []).append(name)
    curves = [
        _drawn(plots.quantities, stepped, f"steps{index}", _of_last(words), "", names=names, over=dim)
        for index, (words, names) in enumerate(families.items())
        if words not in (COLLAPSE, MARGIN)
    ]
    return bands + maps + curves


def _runs(stepped: Mapping[str, xr.Dataset]) -> list[dict[str, xr.Dataset]]:
    """Groups of networks that are runs of one, with the same layers; their names begin with what was given."""
    groups: dict[str, dict[str, xr.Dataset]] = {}
    for name, one in stepped.items():
        if RUN in one.coords and not one[RUN].ndim and "compression" in one.data_vars:
            groups.setdefault(name.removesuffix(str(one[RUN].item())), {})[name] = one
    return [
        group
        for group in groups.values()
        if len(group) > 1 and len({tuple(layer_names(one)) for one in group.values()}) == 1
    ]


def _map_title(name: str, stepped: Mapping[str, xr.Dataset]) -> str:
    """Title of a heat map, with the network's name where there are several."""
    return f"Compression D of every layer{f' of {name}' * (len(stepped) > 1)}"


def _of_last(words: str) -> str:
    """Title of the curves of a family."""
    return f"{_capital(words) or 'Numbers'} of the last layer"


def collapse_pictures(analyses: Mapping[str, xr.Dataset]) -> list[Picture]:
    """A figure each for NC1 to NC4, of the networks that have measures of collapse."""
    measured = {name: one for name, one in analyses.items() if of_collapse(last(one)[0])}
    if not measured:
        return []
    from neurocollapse.plots.collapse import collapse_panels  # see layer_pictures

    panels = collapse_panels(_one_or_all(measured))
    return [
        _drawn(draw, None, f"collapse{index}", title, _COLLAPSED) for index, (title, draw) in enumerate(panels.items())
    ]


def margin_pictures(analyses: Mapping[str, xr.Dataset]) -> list[Picture]:
    """The margin of each network's head as one bar, and its factors over the steps."""
    from neurocollapse import plots  # see layer_pictures

    latest = {name: last(one)[0] for name, one in analyses.items()}
    latest = {name: one for name, one in latest.items() if _has_efficiency(one)}
    if not latest:
        return []
    caption = "The whole bar is the largest mean margin that the norms of the head and of its features allow."
    bars = _drawn(plots.margin_efficiency, latest, "margin", "What becomes of the largest margin", caption)
    stepped, dim = with_steps({name: analyses[name] for name in latest})
    if not stepped:
        return [bars]
    title, caption = f"What is left of the margin, {dim} by {dim}", "Each factor is 1 at full collapse."
    return [bars, _drawn(plots.margin_efficiency, stepped, "margin-steps", title, caption)]


def with_steps(analyses: Mapping[str, xr.Dataset]) -> tuple[dict[str, xr.Dataset], str]:
    """The networks that have several steps, and the dimension of these, which is that of the first one."""
    fronts = {name: str(dim) for name, one in analyses.items() if (dim := leading(one)) and one.sizes[dim] > 1}
    front = next(iter(fronts.values()), "")
    return {name: analyses[name] for name, dim in fronts.items() if dim == front}, front


def of_collapse(dataset: xr.Dataset) -> list[str]:
    """The measures of neural collapse that a dataset of one step shows."""
    return [name for name in shown(dataset) if family(dataset, name) == COLLAPSE]


def of_margin(dataset: xr.Dataset) -> list[str]:
    """The numbers of the head's margin that a dataset of one step shows."""
    return [name for name in shown(dataset) if family(dataset, name) == MARGIN]


def _has_efficiency(dataset: xr.Dataset) -> bool:
    """Whether a dataset of one step has what the figure of the margin needs, at some layer."""
    needed = {"margin_efficiency", *(f"margin_{factor}" for factor in ("spread", "duality", "samples", "classes"))}
    return needed <= set(dataset.data_vars) and last_defined(dataset, "margin_spread") is not None


def _shared(analyses: Mapping[str, xr.Dataset]) -> list[str]:
    """The numbers along `layer` that all networks show."""
    found = [shown(last(one)[0]) for one in analyses.values()]
    return [name for name in (found[0] if found else []) if all(name in names for names in found)]


def _one_or_all(analyses: Mapping[str, xr.Dataset]) -> Any:
    """A network alone without its name, which needs no legend."""
    return next(iter(analyses.values())) if len(analyses) == 1 else analyses


def _drawn(
    plot: Callable[..., Any],
    analyses: Any,
    prefix: str,
    title: str,
    caption: str,
    *,
    told: Sequence[str] = (),
    **options: Any,
) -> Picture:
    """One figure that is not registered with pyplot; of the variables `told`, both ends are in its description."""
    from neurocollapse import plots  # see layer_pictures

    given = () if analyses is None else (_one_or_all(analyses),)
    ax: Any = plots.offscreen_axes()
    plot(*given, ax=ax, **options)
    alt = " ".join([f"{title}.", *_ends(analyses, told)]) if told else ""
    return picture(ax.figure, title=title, caption=caption, prefix=prefix, alt=alt)


def _ends(analyses: Mapping[str, xr.Dataset], names: Sequence[str]) -> list[str]:
    """Where each curve of a figure begins and ends, for those who do not see it."""
    texts = []
    for name, dataset in list(analyses.items())[:_MOST_TOLD]:
        one = last(dataset)[0]
        for variable in (known for known in names if one[known].dims == ("layer",)):
            defined = one[[variable]].dropna("layer")
            if layers := layer_names(defined):
                words = str(one[variable].attrs.get("long_name", variable.replace("_", " ")))
                first, end = (number(defined[variable].values[at]) for at in (0, -1))
                texts.append(f"{name}: {words} from {first} at {layers[0]} to {end} at {layers[-1]}.")
    return texts


def _capital(words: str) -> str:
    """Words as the beginning of a sentence."""
    return words[:1].upper() + words[1:]

"""How much of each layer's compression its linear map does, and how much its activation, in one pass over a chain."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from neurocollapse.hooks import is_linear, select
from neurocollapse.metrics import between_trace, compression, within_trace
from neurocollapse.passes.loop import Pass
from neurocollapse.passes.moments import MomentSink
from neurocollapse.passes.options import PassOptions
from neurocollapse.passes.sink import Sink
from neurocollapse.statistics import ClassMoments, LayerRecord, MomentCollection
from neurocollapse.support.numbers import short
from neurocollapse.support.provenance import describe_process
from neurocollapse.theory.links import FUNCTIONS, Link, LinkSink
from neurocollapse.theory.verdict import Verdict, Verification

PROVED = "A 1-Lipschitz activation never increases tr Σ_W"
SCALED = "An activation of slope at most c multiplies tr Σ_W by at most c²"
OBSERVED = "Steeper activations: tr Σ_W may rise"
MAP, ACTIVATION, UNKNOWN = "map", "activation", "unknown"
"""What a step of the chain is."""
_MAPS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
)
"""Affine in evaluation mode, beside what hooks know as linear."""
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SELU_SLOPE = 1.0507009873554805 * 1.6732632423543772
_LIPSCHITZ: dict[type[nn.Module], Callable[[Any], float]] = {
    nn.ReLU: lambda one: 1.0,
    nn.ReLU6: lambda one: 1.0,
    nn.LeakyReLU: lambda one: max(1.0, abs(one.negative_slope)),
    nn.PReLU: lambda one: max(1.0, float(one.weight.detach().abs().max())),
    nn.ELU: lambda one: max(1.0, abs(one.alpha)),
    nn.CELU: lambda one: 1.0,
    nn.SELU: lambda one: _SELU_SLOPE,
    nn.Hardtanh: lambda one: 1.0,
    nn.Tanh: lambda one: 1.0,
    nn.Tanhshrink: lambda one: 1.0,
    nn.Softshrink: lambda one: 1.0,
    nn.Softsign: lambda one: 1.0,
    nn.Softplus: lambda one: 1.0,
    nn.LogSigmoid: lambda one: 1.0,
    nn.Sigmoid: lambda one: 0.25,
    nn.Hardsigmoid: lambda one: 1 / 6,
    nn.Hardswish: lambda one: 1.5,  # (2x + 3)/6 at x = 3
    nn.GELU: lambda one: 1.129,  # Φ(√2) + √2 φ(√2) = 1.128904; approximated by tanh 1.128993
    nn.SiLU: lambda one: 1.09984,  # 1.0998393 at x = 2.3994
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), lambda one: math.sqrt(_overlap(one))),
    nn.Mish: lambda one: 1.0885,  # 1.0884982 at x = 1.4906
}
"""Lipschitz constants: the largest slope of an activation that works on each number by itself."""


@dataclass(frozen=True, eq=False)
class _Step:
    """What happens between two places of the chain, and the class moments at both."""

    name: str
    words: str
    kind: str
    slope: float
    begins: bool
    before: ClassMoments
    after: ClassMoments
    unit: float

    @property
    def within(self) -> float:
        """Factor by which tr Σ_W is multiplied; NaN where it is zero before."""
        return _ratio(*(within_trace(one, weighting="papers") for one in (self.after, self.before)))

    @property
    def between(self) -> float:
        """Factor by which tr Σ_B is multiplied."""
        return _ratio(between_trace(self.after), between_trace(self.before))

    @property
    def tolerance(self) -> float:
        """How far rounding of the features may carry the within factor, as a part of it."""
        spread = within_trace(self.after, weighting="papers")
        count = self.after.count[self.after.present].double()
        square = self.after.mean[self.after.present].square().sum(dim=1)
        size = math.sqrt(float(count @ square / count.sum()) + spread)
        return 1e-12 + 4 * self.unit * size / math.sqrt(spread) if spread > 0 else 1e-12


def attribution(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    num_classes: int | None = None,
    label_fn: Callable[[Any], Any] | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Verification:
    r"""Attribute each layer's compression to its linear map and to its activation.

    .. math:: \frac{D_{l}}{D_{l-1}} = \frac{w^{map}_l \, w^{act}_l}{b^{map}_l \, b^{act}_l}

    with the factors w of :math:`\operatorname{tr}\Sigma_W` and b of :math:`\operatorname{tr}\Sigma_B`. A layer is a
    linear or convolutional map with all that follows up to the next one; normalisation in evaluation mode and average
    pooling count as maps. An activation that brings no two points further apart (is 1-Lipschitz) cannot increase
    :math:`\operatorname{tr}\Sigma_W`; that is proved, and checked here. For steeper ones (GELU, SiLU) it is a claim
    that can fail. Features are flattened and never pooled: of pooled maps the claim is not true.

    Parameters
    ----------
    model : torch.nn.Module
        A chain of linear maps and activations; these may be modules, or functions such as torch.relu, which are
        recognised by what they compute.
    loader : iterable of batches
        Gone through once.
    num_classes : int, optional
        Default: what the loader says, else the largest label that occurs plus one.
    label_fn : callable, optional
        Labels of a batch, where they are not its second element.
    device : torch.device or str, optional
        Where the inputs go. Default: where the model is.
    progress : bool, default True
        Show a progress bar on a terminal or in a notebook.

    Returns
    -------
    Verification
        A verdict for each activation; "assumptions unmet" where it is not known what happens between two layers, as
        in branches. Its dataset has, along `layer`, `within_map`, `within_activation`, `between_map` and
        `between_activation` (NaN where the trace before is zero), `compression` behind the layer and `decay_ratio`,
        and the names of the activations as a coordinate.

    Raises
    ------
    ValueError
        As `neurocollapse.collect`; also if the model has no linear or convolutional layer.

    References
    ----------
    The proof is in the documentation, "What an activation can do".

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> found = attribution(model, [(torch.randn(30, 4), torch.arange(30) % 3)], progress=False)
    >>> found.status, found.dataset["activation"].values.tolist()
    ('holds', ['ReLU', ''])
    """
    taps = [replace(tap, selectors=()) for tap in select(model, "leaves")]
    if not any(_is_weighted(tap.module) for tap in taps):
        raise ValueError(f"`model` must have a linear or convolutional layer, {type(model).__name__} has none")
    entries = [replace(tap, name=f"{tap.name}@in", at_input=True) for tap in taps]
    options = PassOptions(
        layers=[*entries, *taps],
        pool="flatten",
        num_classes=num_classes,
        device=device,
        label_fn=label_fn,
        progress=progress,
    )
    sinks: dict[str, Sink] = {"moments": MomentSink(precision="double"), "links": LinkSink()}
    run = Pass(model, loader, sinks, options, name="attribution")
    results = run.run()
    steps = _steps(run, results["moments"], results["links"])
    layers = _layers(steps)
    verdicts = [one for index, part in enumerate(layers.values()) for step in part for one in _verdicts(step, index)]
    return Verification(
        title=f"What maps and activations of {type(run.recorder.model).__name__} do to the classes",
        assumptions={},
        verdicts=tuple(verdicts),
        dataset=_dataset(layers),
    )


def _steps(run: Pass, moments: MomentCollection, links: Mapping[Link, Sequence[str]]) -> list[_Step]:
    """All steps in the order in which they ran, without those that change nothing."""
    records, steps = run.progress.layers, []
    for first, second in pairwise(records):
        before, after = records[first], records[second]
        entry, leaf = run.tap_of(first), run.tap_of(second)
        if entry and leaf and entry.at_input and not leaf.at_input and entry.path == leaf.path:
            words, (kind, slope) = after.module_type, _kind(leaf.module)
            begins = _is_weighted(leaf.module)
        elif "" in (found := links.get((first, second), ())):
            continue
        else:
            words = found[0] if found else f"something between {before.name} and {after.name}"
            kind, slope = (ACTIVATION, FUNCTIONS[words][1]) if found else (UNKNOWN, math.nan)
            begins = False
        values = moments[before.name], moments[after.name]
        steps.append(_Step(after.name, words, kind, slope, begins, *values, _unit(after)))
    return steps


def _kind(module: nn.Module) -> tuple[str, float]:
    """What a leaf is, and the largest slope of an activation."""
    if is_linear(module) or isinstance(module, _MAPS):
        return MAP, math.nan
    known = _LIPSCHITZ.get(type(module))
    return (UNKNOWN, math.nan) if known is None else (ACTIVATION, known(module))


def _overlap(pool: Any) -> int:
    """In how many windows of a pooling layer a number may be the largest."""
    dims = int(type(pool).__name__[-2])
    kernel, stride = (size if isinstance(size, tuple) else (size,) * dims for size in (pool.kernel_size, pool.stride))
    return math.prod(-(-side // step) for side, step in zip(kernel, stride, strict=True))


def _is_weighted(module: nn.Module) -> bool:
    """Whether a layer begins here."""
    return is_linear(module) or isinstance(module, _WEIGHTED)


def _unit(record: LayerRecord) -> float:
    """The rounding unit of a layer's features."""
    return float(torch.finfo(getattr(torch, record.feature_dtype)).eps)


def _verdicts(step: _Step, layer: int) -> list[Verdict]:
    """What is claimed of a step: for an activation always that tr Σ_W does not rise, and what is proved of it."""
    if step.kind == MAP:
        return []
    unmet = [] if step.kind == ACTIVATION else [f"{step.words} is not a known activation"]
    where = f"{step.words}, {step.name}"
    proved = PROVED if step.slope <= 1 or unmet else OBSERVED
    judged = [(f"tr Σ_W does not rise at {where}", proved, 1.0)]
    if proved == OBSERVED:
        bound = step.slope**2
        judged.append((f"tr Σ_W rises at most {short(bound)}-fold at {where}", SCALED, bound))
    return [
        Verdict.judge(claim, reference, step.within, upper=upper, tolerance=step.tolerance, unmet=unmet, layer=layer)
        for claim, reference, upper in judged
    ]


def _layers(steps: Sequence[_Step]) -> dict[str, list[_Step]]:
    """Steps by layer: each begins with a map that has weights; what comes before all of them belongs to the first."""
    starts = [index for index, step in enumerate(steps) if step.begins]
    ends = [0, *starts[1:], len(steps)]
    return {steps[at].name: list(steps[ends[n] : ends[n + 1]]) for n, at in enumerate(starts)}


_WORDS = {
    "within_map": ("factor of tr Σ_W by the map", "w^{map}"),
    "within_activation": ("factor of tr Σ_W by the activation", "w^{act}"),
    "between_map": ("factor of tr Σ_B by the map", "b^{map}"),
    "between_activation": ("factor of tr Σ_B by the activation", "b^{act}"),
    "decay_ratio": ("decay ratio", r"D_\ell / D_{\ell-1}"),
    "compression": ("within- over between-class variability", r"D_\ell"),
}


def _dataset(layers: Mapping[str, Sequence[_Step]]) -> xr.Dataset:
    """The four factors of each layer, and what they make of D."""
    values: dict[str, list[float]] = {name: [] for name in _WORDS}
    for steps in layers.values():
        maps = [step for step in steps if step.kind == MAP]
        others = [step for step in steps if step.kind != MAP]
        values["within_map"].append(math.prod(step.within for step in maps))
        values["within_activation"].append(math.prod(step.within for step in others))
        values["between_map"].append(math.prod(step.between for step in maps))
        values["between_activation"].append(math.prod(step.between for step in others))
        before, after = (compression(one, weighting="papers") for one in (steps[0].before, steps[-1].after))
        values["decay_ratio"].append(_ratio(after, before))
        values["compression"].append(after)
    convention = "1/N over samples within, 1/K over classes between; features flattened"
    variables = {
        name: ("layer", np.array(values[name]), {"long_name": words, "symbol": symbol, "convention": convention})
        for name, (words, symbol) in _WORDS.items()
    }
    names = [", ".join(step.words for step in steps if step.kind != MAP) for steps in layers.values()]
    coordinates = {"layer": list(layers), "activation": ("layer", names)}
    return xr.Dataset(variables, coordinates, {"title": "Maps and activations", **describe_process()})


def _ratio(numerator: float, denominator: float) -> float:
    """Divide; NaN by zero."""
    return numerator / denominator if denominator else math.nan

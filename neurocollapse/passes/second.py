"""The second pass over a loader: planned once for everything that needs one, and left out where nothing does."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neurocollapse.data.batches import Unlabelled
from neurocollapse.data.labels import part_of_labels
from neurocollapse.hooks import CaptureWarning
from neurocollapse.metrics import Layer, Quantity, Weighting
from neurocollapse.metrics.catalogue import Chosen
from neurocollapse.metrics.layer import Gather
from neurocollapse.metrics.measure import Extra
from neurocollapse.metrics.quantity import Need
from neurocollapse.passes.features import FeatureSink, KeptFeatures
from neurocollapse.passes.influence import InfluenceSink, influence_sums
from neurocollapse.passes.loop import Pass
from neurocollapse.passes.moments import MomentSink
from neurocollapse.passes.options import PassOptions
from neurocollapse.passes.outside import ScoreSink, outside_of
from neurocollapse.passes.probing import Probing
from neurocollapse.passes.sink import Sink
from neurocollapse.passes.totals import TotalSink, sums_up
from neurocollapse.statistics import JointRun, MomentCollection, sum_over_processes
from neurocollapse.support.quiet import without_warnings
from neurocollapse.support.text import listed

Totals = Mapping[str, Mapping[Gather, Tensor]]
"""Layer name → gather function → what it has added up."""


@dataclass(frozen=True)
class Gathered:
    """What a second pass has gathered for quantities, and what a dataset should say about it."""

    extra: Extra = field(default_factory=Extra)
    notes: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SecondPass:
    """Everything that a second pass over a loader is needed for.

    Attributes
    ----------
    chosen : Chosen
        The quantities, of which those with a gather function need it.
    probing : Probing or None
        How many samples are kept for probes.
    ood_loader : iterable of batches, or None
        Other data.
    weighting : {"equal", "frequency", "papers"}
    moments : MomentSink
        What the first pass collects, with options that this one shares.
    """

    chosen: Chosen
    probing: Probing | None
    weighting: Weighting
    moments: MomentSink
    ood_loader: Iterable[Any] | None = None

    @property
    def summed(self) -> tuple[Quantity, ...]:
        """The quantities that add something up."""
        given: Need | None = "covariance" if self.moments.covariance else None
        return tuple(one for one in self.chosen.quantities if "second_pass" in one.lacks(lambda need: need == given))

    @property
    def repeats(self) -> bool:
        """Whether the second pass must meet the very samples of the first."""
        return bool(self.summed) or self.chosen.need("influence")

    @property
    def scored(self) -> bool:
        """Whether samples are compared with other data."""
        return self.ood_loader is not None and self.chosen.need("ood")

    def check(self, loader: Any, *, distributed: bool | Literal["shard"]) -> None:
        """Raise for what a second pass cannot work with, before the first one begins."""
        if distributed == "shard" and self.repeats:
            raise ValueError(
                f"quantity {self._users[0].name!r} goes through `loader` a second time, with all features of a sample, "
                'which distributed="shard" divides; leave it out, or pass distributed=True'
            )
        if (self.repeats or self.probing or self.scored) and isinstance(loader, Iterator):
            who = "probes go" if self.probing else f"quantity {self._users[0].name!r} goes"
            raise TypeError(
                f"{who} through `loader` a second time, but a {type(loader).__name__} gives its batches once; pass a "
                "DataLoader or a list of batches"
            )
        if self.probing and distributed:
            raise ValueError("`probes` work in one process; pass distributed=False, or probe on one rank only")
        if self.scored and distributed:
            raise ValueError("`ood_loader` works in one process; pass distributed=False, or measure on one rank only")

    @property
    def _users(self) -> tuple[Quantity, ...]:
        """The quantities that make a second pass repeat the first."""
        late = {"influence", "ood"}
        return self.summed or tuple(one for one in self.chosen.quantities if late & set(one.needs))

    def run(self, model: nn.Module, first: Pass, moments: MomentCollection, joint: JointRun | None) -> Gathered:
        """Go over the loader of the first pass again, and over the test loader, with the options of the first pass."""
        devices = _devices(first, self.moments)
        layers = {
            name: Layer(
                value, self.weighting, moments.readers.get(name), moments.record(name), device=devices.get(name)
            )
            for name, value in moments.items()
        }
        summed = [one for one in self.summed if any(sums_up(one, layer) for layer in layers.values())]
        sinks: dict[str, Sink] = {}
        if self.probing is not None:
            self.probing.check_memory(moments, self.moments.max_memory)
            sinks["features"] = FeatureSink(self.probing.num_samples)
        if summed:
            sinks["totals"] = self._total_sink(summed, first, layers)
        if self.chosen.need("influence"):
            sinks["influence"] = InfluenceSink(_by_site(first, layers), skips_non_finite=self.moments.skips)
        if self.scored:
            sinks["scores"] = ScoreSink(_by_site(first, layers), skips_non_finite=self.moments.skips)
        if not sinks:
            return Gathered()
        settled: dict[str, Any] = {"num_classes": next(iter(moments.values())).num_classes}
        if first.chosen is not None:
            settled = {"classes": first.chosen.labels}
        taps = list(first.recorder.taps)  # a model may have made layers since
        options = replace(first.options, layers=taps, **settled)
        settings = {"weighting": self.weighting} if self.repeats else {}
        second = _named_pass("second", model, first.loader, sinks, options, first if self.repeats else None, settings)
        results = _run_quietly(second)
        totals, notes, influence = None, [], None
        if self.repeats:
            notes = _notes_on_batches(first, second)
        if "influence" in sinks:
            sums = results["influence"]
            influence = influence_sums(sums if joint is None else sum_over_processes(sums, joint), layers)
        if summed:
            totals = results["totals"] if joint is None else _over_processes(results["totals"], summed, joint)
            notes += _notes_on_gaps(summed, layers, totals)
        outside = None
        if self.ood_loader is not None and self.scored:
            # its labels, if there are any, are of other classes, and are not used
            unlabelled = Unlabelled(part_of_labels(options.label_fn) or "")
            free = replace(options, num_classes=None, classes=None, label_fn=unlabelled)
            other: dict[str, Sink] = {"scores": ScoreSink(_by_site(first, layers), skips_non_finite=self.moments.skips)}
            found = _run_quietly(_named_pass("ood_loader", model, self.ood_loader, other, free))
            outside = outside_of(results["scores"], found["scores"])
        if self.probing is None:
            return Gathered(Extra(totals, influence=influence, outside=outside), notes)
        kept = {"loader": results["features"], **self._kept_for_tests(model, options)}
        extra = Extra(totals, self.probing.splits(moments, kept), self.probing.probe, influence, outside)
        return Gathered(extra, notes + self.probing.notes(moments, kept), self.probing.attributes(kept))

    def _total_sink(self, summed: list[Quantity], first: Pass, layers: Mapping[str, Layer]) -> TotalSink:
        """What adds up."""
        return TotalSink(
            _by_site(first, layers),
            summed,
            named=self.chosen.named,
            skips_non_finite=self.moments.skips,
            max_memory=self.moments.max_memory,
        )

    def _kept_for_tests(self, model: nn.Module, options: PassOptions) -> dict[str, KeptFeatures]:
        """The features of the test loader, if there is one."""
        if self.probing is None or self.probing.test_loader is None:
            return {}
        sinks: dict[str, Sink] = {"features": FeatureSink(self.probing.num_samples)}
        tests = _named_pass("test_loader", model, self.probing.test_loader, sinks, options)
        return {"test_loader": _run_quietly(tests)["features"]}


def _devices(first: Pass, moments: MomentSink) -> dict[str, torch.device | None]:
    """Where the features of each layer were, by name; after a pass from a file, where its weights are, or the last."""
    found: dict[str, torch.device | None] = {}
    last = None
    for site, record in first.progress.layers.items():
        tap = first.tap_of(site)
        weight = None if tap is None else next(tap.module.parameters(), None)
        own = None if weight is None or weight.is_meta else weight.device
        last = found[record.name] = moments.devices.get(site) or own or last
    return found


def _by_site(first: Pass, layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """The layers by what stands for their names before names are settled."""
    sites = {record.name: site for site, record in first.progress.layers.items()}
    return {sites[name]: layer for name, layer in layers.items()}


def _named_pass(
    name: str,
    model: nn.Module,
    loader: Iterable[Any],
    sinks: dict[str, Sink],
    options: PassOptions,
    first: Pass | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Pass:
    """A later pass, with a file of its own beside that of the first, whose batches it must repeat if it is given."""
    resume = None if options.resume is None else f"{options.resume}.{name}"
    bound = {} if first is None else {"first pass": [first.progress.digest, first.progress.num_samples]}
    return Pass(
        model,
        loader,
        sinks,
        replace(options, resume=resume),
        name=name,
        digests=first is not None,
        settings=bound | dict(settings),
    )


def _run_quietly(run: Pass) -> dict[str, Any]:
    """The results of a later pass: what it could warn of, the first one has said. Errors name another loader."""
    try:
        with without_warnings(CaptureWarning):
            return run.run()
    except ValueError as error:
        if run.name.endswith("_loader"):
            error.args = (f"`{run.name}`: {error}",)
        raise


def _over_processes(totals: Totals, summed: list[Quantity], joint: JointRun) -> Totals:
    """The sums of all processes together, on each of them."""
    gathers = list(dict.fromkeys(one.gather for one in summed if one.gather is not None))
    flat = {f"{gathers.index(gather)}/{name}": total for name, row in totals.items() for gather, total in row.items()}
    together: dict[str, dict[Gather, Tensor]] = {}
    for key, total in sum_over_processes(flat, joint).items():
        index, _, name = key.partition("/")
        together.setdefault(name, {})[gathers[int(index)]] = total
    return together


def _notes_on_batches(first: Pass, second: Pass) -> list[str]:
    """Raise if the second pass met other samples than the first; a note if it met them in another order or changed."""
    counts = first.progress.num_samples, second.progress.num_samples
    if counts[0] != counts[1]:
        raise ValueError(
            f"`loader` gave {counts[0]} samples in the first pass and {counts[1]} in the second; give it the same ones "
            "each time"
        )
    if first.progress.digest == second.progress.digest:
        return []
    return ["the loader gave other samples, changed ones or another order in the second pass than in the first"]


def _notes_on_gaps(summed: list[Quantity], layers: Mapping[str, Layer], totals: Totals) -> list[str]:
    """Which quantities or layers the second pass could add nothing up for."""
    without = [
        one.name for one in summed if "logits" in one.needs and not any(one.gather in row for row in totals.values())
    ]
    gaps = [
        name
        for name, layer in layers.items()
        if any(
            sums_up(one, layer) and one.gather not in totals.get(name, {}) for one in summed if one.name not in without
        )
    ]
    notes = []
    if without:
        notes.append(f"{listed(without)}: undefined, as the model returns no logits, a matrix (samples, outputs)")
    if gaps:
        notes.append(f"the model gave no features of {listed(gaps)} in the second pass: what it adds up is undefined")
    return notes

"""What quantities add up over all rows of a second pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurocollapse.hooks.eager import outside_autocast
from neurocollapse.metrics import Layer, Quantity, QuantityError, Rows
from neurocollapse.metrics.layer import Finish, Gather, Later
from neurocollapse.metrics.quantity import REMEDIES
from neurocollapse.passes.digest import option_text
from neurocollapse.passes.held import HeldRows, RowLogits
from neurocollapse.passes.late_sums import LateSums, site_of
from neurocollapse.passes.moments import NonFiniteError
from neurocollapse.passes.rehearsal import feature_dtype, rehearse
from neurocollapse.passes.sink import Sink
from neurocollapse.statistics import ClassBatch, ClassMoments, LayerRecord, MemoryPlan, memory_limit
from neurocollapse.support.transfer import sent_back


class TotalSink(Sink):
    """The float64 sum of what each gather function returns, layer by layer.

    A device is not waited for: what has to be known of a batch on the CPU is looked at when the next one comes.

    Parameters
    ----------
    sites : mapping of site to Layer
        The layers, with the moments of a whole first pass.
    quantities : sequence of Quantity
        Each has a gather function; several may share one, which is then called once.
    named : set of str
        Quantities whose lack of logits is an error.
    skips_non_finite : bool
        Leave out rows with NaN or infinite features.
    max_memory : float, optional
        Bytes that the sums may take. Default: 90 % of the free memory.
    """

    def __init__(
        self,
        sites: Mapping[str, Layer],
        quantities: Sequence[Quantity],
        *,
        named: frozenset[str] = frozenset(),
        skips_non_finite: bool = False,
        max_memory: float | None = None,
    ) -> None:
        self.sites = dict(sites)
        self.named = named
        self.skips_non_finite = skips_non_finite
        self.max_memory = max_memory
        self.gathers = list(dict.fromkeys(one.gather for one in quantities if one.gather is not None))
        self.users = [[one for one in quantities if one.gather is gather] for gather in self.gathers]
        self.settings = {
            "quantities": [[one.name for one in users] for users in self.users],
            "gather": [option_text(gather) for gather in self.gathers],
        }
        self.totals: dict[str, Tensor] = {}
        self._all_finite: dict[str, Tensor] = {}
        self._waiting: list[_Waiting] = []
        self._held: dict[str, HeldRows] = {}
        self._late: dict[str, list[tuple[int, Later]]] = {}
        self._snapshot: LateSums | None = None
        self._copies: dict[tuple[str, str], int] = {}  # bytes that a layer keeps from one batch to the next

    def start(self, layers: Mapping[str, LayerRecord], device: torch.device) -> None:
        """Learn where the model runs; raise MemoryPlanError unless what gathers share of the layers fits there."""
        super().start(layers, device)
        self.limit = memory_limit(device, self.max_memory)
        self._never_waits = device.type != "cpu"
        self._check_memory({})
        if self._never_waits:
            self._rehearse()

    def begin(self, batch: ClassBatch) -> None:
        """Start a batch."""
        self._batch = batch
        self._waiting = []

    def add(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        """Add up what every gather function makes of some rows, or keep what waits for the logits."""
        layer = self._layer(site, features.device)
        if layer is None:
            return
        self._take_in(site)
        if self.skips_non_finite and self._never_waits and layer.record.num_skipped:
            self._keep(site, "held back", features.nbytes)
            self._held[site] = HeldRows.of(features, rows, self._batch)
            return
        keep = self._kept(site, features) if self.skips_non_finite else None
        self._waiting += self._gathered(site, layer, features, rows, keep)

    def end(self, logits: Tensor | None) -> None:
        """Give the logits to what waits for them, those of a sample to each of its rows."""
        for site in [site for site, held in self._held.items() if held.batch is not self._batch]:
            self._take_in(site)  # of layers that this batch has not met
        found = None if logits is None else RowLogits(logits, copied=bool(self._held))
        self._held = {site: held._replace(logits=found) for site, held in self._held.items()}
        waiting, self._waiting = self._waiting, []
        self._finish(waiting, found)

    def drop(self, site: str) -> None:
        """Give up one layer's sums, which hold a part of the batches only."""
        self.totals = {key: total for key, total in self.totals.items() if site_of(key) != site}
        self._copies = {key: size for key, size in self._copies.items() if key[0] != site}
        for parts in (self._all_finite, self._held, self._late):
            parts.pop(site, None)
        if self._snapshot is not None:
            self._snapshot.forget(site)
        self._waiting = [one for one in self._waiting if one.site != site]

    def state(self) -> dict[str, Tensor]:
        """The sums."""
        self._settle()
        return dict(self.totals)

    def snapshot(self) -> Callable[[], Mapping[str, Tensor]]:
        """The same, without waiting: layers that wait for an answer add theirs when it is there."""
        all_finite = sent_back(self._all_finite)
        asked = self._snapshot = LateSums(self.totals, self._late, self._held)

        def state() -> Mapping[str, Tensor]:
            while asked.awaited:  # layers that no batch has met since
                self._take_in(next(iter(asked.awaited)), until_noted=True)
            self._snapshot = None
            self._refuse_not_finite({site: flag for site, flag in all_finite().items() if site in self._all_finite})
            return asked.numbers()

        return state

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up the sums of some batches."""
        self.totals = {name: total.to(self.device) for name, total in tensors.items()}

    def result(self) -> dict[str, dict[Gather, Tensor]]:
        """The sums on the CPU, by layer name and gather function."""
        self._settle()
        totals: dict[str, dict[Gather, Tensor]] = {layer.record.name: {} for layer in self.sites.values()}
        for key, total in self.totals.items():
            site, _, index = key.rpartition("/")
            totals[self.sites[site].record.name][self.gathers[int(index)]] = total.cpu()
        return totals

    def _settle(self) -> None:
        """Wait for what is not added up yet, and raise where features were not finite."""
        while self._late or self._held:
            self._take_in(next(iter(self._late or self._held)))
        self._check_finite()

    def _rehearse(self) -> None:
        """Let every layer place now what gather functions share of it."""
        devices = {site: layer.device or self.device for site, layer in self.sites.items()}
        layers = [layer for site, device in devices.items() if (layer := self._layer(site, device)) is not None]
        for gather, users in zip(self.gathers, self.users, strict=True):
            rehearse(gather, [layer for layer in layers if any(sums_up(one, layer) for one in users)], self.device)

    def _take_in(self, site: str, *, until_noted: bool = False) -> None:
        """Add up what a layer has asked for in the batch before, and ask for what was held back then.

        Where it is for the snapshot, what is held back of a later batch, which may not have ended, stays so.
        """
        for index, late in self._late.pop(site, []):
            self._add(site, index, self._called(site, index, late.tensor))
        self._note(site, was_held=False)
        if until_noted and self._snapshot is not None and site not in self._snapshot.awaited:
            return
        held = self._held.pop(site, None)
        layer = None if held is None else self._layer(site, held.features.device)
        if held is not None and layer is not None:
            with outside_autocast(held.features), torch.no_grad():  # behind the last batch the pass is over
                waiting = self._gathered(site, layer, held.features, held.rows, held.kept(), is_copy=True)
                self._finish(waiting, held.logits)
        self._note(site, was_held=True)

    def _note(self, site: str, *, was_held: bool) -> None:
        """Tell the snapshot that a layer has added what it had asked for, or what was held back."""
        if self._snapshot is not None:
            self._snapshot.note(site, self.totals, was_held=was_held, is_late=site in self._late)

    def _gathered(
        self,
        site: str,
        layer: Layer,
        features: Tensor,
        rows: ClassBatch,
        keep: Tensor | None,
        *,
        is_copy: bool = False,
    ) -> "list[_Waiting]":
        """Add up what every gather function makes of the rows that count; returns what waits for the logits."""
        labels, waiting = rows.on(features.device), list[_Waiting]()
        part = Rows(features, labels) if keep is None else Rows(features[keep], labels[keep])
        if not len(part.labels):
            return waiting
        for index, gather in enumerate(self.gathers):
            users = [one for one in self.users[index] if sums_up(one, layer)]
            if not users:
                continue
            needs_logits = any("logits" in one.needs for one in users)
            if needs_logits and not is_copy:  # the model may overwrite its own features before the logits come
                part = replace(part, features=part.features.clone())
            value = self._called(site, index, gather, layer, part)
            if needs_logits and callable(value):
                waiting.append(_Waiting(site, index, value, rows, keep, features.device))
            else:
                self._add(site, index, value, len(part.labels))
        return waiting

    def _finish(self, waiting: "list[_Waiting]", logits: RowLogits | None) -> None:
        """Give the logits of a batch to what waits for them."""
        if logits is None:
            self._refuse_named(waiting)
            return
        for site, index, finish, rows, keep, device in waiting:
            each = logits.of(rows, device)
            each = each if keep is None else each[keep]
            self._add(site, index, self._called(site, index, finish, each), len(each))

    def _layer(self, site: str, device: torch.device) -> Layer | None:
        """A layer of the first pass, with its tensors on the device of the features."""
        layer = self.sites.get(site)
        if layer is None or layer.moments.count.device == device:
            return layer
        reader = None if layer.reader is None else layer.reader.to(device)
        self.sites[site] = replace(layer, moments=layer.moments.to(device), reader=reader)
        return self.sites[site]

    def _kept(self, site: str, features: Tensor) -> Tensor | None:
        """Which rows are finite; None for all, as on a device that left none out before: that is checked in the end."""
        finite = features.isfinite().all(dim=1)
        if not self._never_waits:
            return None if bool(finite.all()) else finite
        all_finite = finite.all().to(self.device)
        self._all_finite[site] = all_finite & self._all_finite.get(site, all_finite)
        return None

    def _check_finite(self) -> None:
        """Raise where rows are not finite in a layer that had none such in the first pass; waits for the answer."""
        if self._all_finite:
            flags = torch.stack(list(self._all_finite.values())).cpu()
            self._refuse_not_finite(dict(zip(self._all_finite, flags, strict=True)))

    def _refuse_not_finite(self, all_finite: Mapping[str, Tensor]) -> None:
        """Raise for the first layer with rows that are not finite."""
        for site, is_finite in all_finite.items():
            if not is_finite:
                raise NonFiniteError(
                    f"layer {self.sites[site].record.name!r}: features are NaN or infinite in the second pass, but "
                    'were not in the first; give both the same samples, and leave the model in mode="eval"'
                )

    def _called(self, site: str, index: int, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a user's function returns; an error in it says which quantity, and where."""
        try:
            return function(*arguments)
        except Exception as error:
            raise self._error(site, index, f"{type(error).__name__}: {error}") from error

    def _add(self, site: str, index: int, value: Any, num_rows: int = 0) -> None:
        """Add a tensor, made of some rows, to its sum; on a device in the next batch where it comes later."""
        if isinstance(value, Later):
            if self._never_waits:
                self._keep(site, "asked for", num_rows * later_bytes(self.sites[site]))
                self._late.setdefault(site, []).append((index, value))
                return
            value = self._called(site, index, value.tensor)
        if not isinstance(value, Tensor):
            problem = "must return a Tensor, or a function of the logits where it says needs=('logits',)"
            raise self._error(site, index, f"`gather` {problem}; got {type(value).__name__}")
        key = f"{site}/{index}"
        total = self.totals.get(key)
        if total is None:
            self._check_memory({key: 8 * value.numel()})
            with torch.inference_mode(False):  # sums made in inference mode could not be updated outside it
                total = self.totals[key] = torch.zeros(value.shape, dtype=torch.float64, device=value.device)
        if value.shape != total.shape:
            raise self._error(
                site, index, f"`gather` must return one shape, got {tuple(value.shape)} after {tuple(total.shape)}"
            )
        total += value.detach().to(total.device)

    def _keep(self, site: str, what: str, num_bytes: int) -> None:
        """Count a copy that a layer keeps from one batch to the next; raise MemoryPlanError unless it fits."""
        if num_bytes > self._copies.get((site, what), 0):
            self._copies[site, what] = num_bytes
            self._check_memory({})

    def _check_memory(self, more: Mapping[str, int]) -> None:
        """Raise unless the sums, and more in bytes, fit beside what each layer keeps for its gather functions."""
        sizes = {site: shared_bytes(layer.moments) for site, layer in self.sites.items()}
        for key, size in ({name: total.nbytes for name, total in self.totals.items()} | dict(more)).items():
            sizes[site_of(key)] += size
        for (site, _), size in self._copies.items():
            sizes[site] += size
        entries = tuple((self.sites[site].record.name, size) for site, size in sizes.items())
        MemoryPlan(entries, max(layer.moments.num_classes for layer in self.sites.values()), self.limit).check()

    def _refuse_named(self, waiting: "list[_Waiting]") -> None:
        """Raise if a quantity that was asked for itself waits in vain for logits."""
        for one in (one for item in waiting for one in self.users[item.gather]):
            if one.name in self.named:
                raise QuantityError(f"quantity {one.name!r} {REMEDIES['logits']}")

    def _error(self, site: str, index: int, problem: str) -> QuantityError:
        """An error that says which quantity, and where."""
        return QuantityError(
            f"quantity {self.users[index][0].name!r} at layer {self.sites[site].record.name!r}: {problem}"
        )


class _Waiting(NamedTuple):
    """A function that waits for the logits of the batch, and the rows of one layer that it stands for."""

    site: str
    gather: int
    finish: Finish | Callable[[Tensor], Later]
    rows: ClassBatch
    keep: Tensor | None
    device: torch.device


def shared_bytes(moments: ClassMoments) -> int:
    """Bytes that gathers share of a layer at most: its class means in float64, and twice in the dtype of the rows."""
    return moments.num_classes * moments.num_features * (8 + 2 * moments.reference.element_size())


def later_bytes(layer: Layer) -> int:
    """Bytes for a row that waits for the next batch: its features, and a byte for each class whose mean may be near."""
    return layer.moments.num_features * feature_dtype(layer).itemsize + layer.moments.num_classes


def sums_up(quantity: Quantity, layer: Layer) -> bool:
    """Whether the quantity needs the second pass at this layer, and has there what else it needs."""
    met = {
        "reader": layer.reader is not None,
        "classifier": layer.has_classifier,
        "covariance": layer.moments.within_scatter is not None,
    }
    lacks = set(quantity.lacks(lambda need: met.get(need, False)))
    return "second_pass" in lacks and not lacks & met.keys()

"""What quantities add up over all rows of a second pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurocollapse.metrics import Layer, Quantity, QuantityError, Rows
from neurocollapse.metrics.layer import Finish, Gather, Later
from neurocollapse.metrics.quantity import REMEDIES
from neurocollapse.passes.digest import option_text
from neurocollapse.passes.moments import NonFiniteError
from neurocollapse.passes.sink import Sink
from neurocollapse.statistics import ClassBatch, ClassMoments, LayerRecord, MemoryPlan, memory_limit


class TotalSink(Sink):
    """The float64 sum of what each gather function returns, layer by layer.

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
        self._late: dict[str, list[tuple[int, Later]]] = {}

    def start(self, layers: Mapping[str, LayerRecord], device: torch.device) -> None:
        """Learn where the model runs; raise MemoryPlanError unless what gathers share of the layers fits there."""
        super().start(layers, device)
        self.limit = memory_limit(device, self.max_memory)
        self._never_waits = device.type != "cpu"
        self._check_memory({})

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
        keep = self._kept(site, layer, features) if self.skips_non_finite else None
        labels = rows.on(features.device)
        part = Rows(features, labels) if keep is None else Rows(features[keep], labels[keep])
        if not len(part.labels):
            return
        for index, gather in enumerate(self.gathers):
            users = [one for one in self.users[index] if sums_up(one, layer)]
            if not users:
                continue
            needs_logits = any("logits" in one.needs for one in users)
            if needs_logits:  # the model may overwrite its own features before the logits come
                part = replace(part, features=part.features.clone())
            value = self._called(site, index, gather, layer, part)
            if needs_logits and callable(value):
                self._waiting.append(_Waiting(site, index, value, rows, keep, features.device))
            else:
                self._add(site, index, value)

    def end(self, logits: Tensor | None) -> None:
        """Give the logits to what waits for them, those of a sample to each of its rows."""
        waiting, self._waiting = self._waiting, []
        if logits is None:
            self._refuse_named(waiting)
            return
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        spread: dict[tuple[torch.device, int], Tensor] = {}
        for site, index, finish, rows, keep, device in waiting:
            key = device, id(rows)
            if key not in spread:
                own = wide.to(device)
                spread[key] = own if rows.source is None else own.index_select(0, rows.samples.to(device))
            each = spread[key]
            self._add(site, index, self._called(site, index, finish, each if keep is None else each[keep]))

    def drop(self, site: str) -> None:
        """Give up one layer's sums, which hold a part of the batches only."""
        self.totals = {key: total for key, total in self.totals.items() if key.rpartition("/")[0] != site}
        self._all_finite.pop(site, None)
        self._late.pop(site, None)
        self._waiting = [one for one in self._waiting if one.site != site]

    def state(self) -> dict[str, Tensor]:
        """The sums."""
        self._settle()
        return dict(self.totals)

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
        for site in list(self._late):
            self._take_in(site)
        self._check_finite()

    def _take_in(self, site: str) -> None:
        """Add up what a layer has asked for in the batch before."""
        for index, late in self._late.pop(site, []):
            self._add(site, index, self._called(site, index, late.tensor))

    def _layer(self, site: str, device: torch.device) -> Layer | None:
        """A layer of the first pass, with its tensors on the device of the features."""
        layer = self.sites.get(site)
        if layer is None or layer.moments.count.device == device:
            return layer
        reader = None if layer.reader is None else layer.reader.to(device)
        self.sites[site] = replace(layer, moments=layer.moments.to(device), reader=reader)
        return self.sites[site]

    def _kept(self, site: str, layer: Layer, features: Tensor) -> Tensor | None:
        """Which rows are finite; None for all, as where the first pass left none out: that is checked in the end."""
        finite = features.isfinite().all(dim=1)
        if layer.record.num_skipped or not self._never_waits:
            return None if bool(finite.all()) else finite
        all_finite = finite.all().to(self.device)
        self._all_finite[site] = all_finite & self._all_finite.get(site, all_finite)
        return None

    def _check_finite(self) -> None:
        """Raise where rows are not finite in a layer that had none such in the first pass."""
        flags = torch.stack(list(self._all_finite.values())).tolist() if self._all_finite else []
        for site, is_finite in zip(self._all_finite, flags, strict=True):
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

    def _add(self, site: str, index: int, value: Any) -> None:
        """Add a tensor to its sum, on a device in the next batch where it comes later."""
        if isinstance(value, Later):
            if self._never_waits:
                self._late.setdefault(site, []).append((index, value))
                return
            value = self._called(site, index, value.tensor)
        if not isinstance(value, Tensor):
            problem = "must return a Tensor, or a function of the logits where it says needs=('logits',)"
            raise self._error(site, index, f"`gather` {problem}; got {type(value).__name__}")
        key = f"{site}/{index}"
        total = self.totals.get(key)
        if total is None:
            self._check_memory({name: 8 * one.numel() for name, one in self.totals.items()} | {key: 8 * value.numel()})
            with torch.inference_mode(False):  # sums made in inference mode could not be updated outside it
                total = self.totals[key] = torch.zeros(value.shape, dtype=torch.float64, device=value.device)
        if value.shape != total.shape:
            raise self._error(
                site, index, f"`gather` must return one shape, got {tuple(value.shape)} after {tuple(total.shape)}"
            )
        total += value.detach().to(total.device)

    def _check_memory(self, sums: Mapping[str, int]) -> None:
        """Raise unless the sums, in bytes, fit beside what each layer keeps for its gather functions."""
        sizes = {site: shared_bytes(layer.moments) for site, layer in self.sites.items()}
        for key, size in sums.items():
            sizes[key.rpartition("/")[0]] += size
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


def sums_up(quantity: Quantity, layer: Layer) -> bool:
    """Whether the quantity needs the second pass at this layer, and has there what else it needs."""
    met = {
        "reader": layer.reader is not None,
        "classifier": layer.has_classifier,
        "covariance": layer.moments.within_scatter is not None,
    }
    lacks = set(quantity.lacks(lambda need: met.get(need, False)))
    return "second_pass" in lacks and not lacks & met.keys()

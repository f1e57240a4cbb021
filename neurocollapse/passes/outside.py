"""How each sample lies relative to the span of the class means, for the loader and for other data."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from neurocollapse.metrics import Layer, Rows
from neurocollapse.metrics.outside import neco_scores
from neurocollapse.metrics.scores import Outside
from neurocollapse.passes.moments import NonFiniteError
from neurocollapse.passes.rehearsal import rehearse
from neurocollapse.passes.sink import Sink
from neurocollapse.statistics import ClassBatch, LayerRecord
from neurocollapse.support.transfer import Arrivals, sent_back

_SCORES, _SUM = "scores", "sum"
_LEFT_OUT = -1.0
"""In the place of a score, which is none: of a row that does not count."""


class ScoreSink(Sink):
    """NECO of every row, and the sum of the features, layer by layer.

    Parameters
    ----------
    sites : mapping of site to Layer
        The layers, with the moments of a whole first pass.
    skips_non_finite : bool
        Leave out rows with NaN or infinite features.
    """

    def __init__(self, sites: Mapping[str, Layer], *, skips_non_finite: bool = False) -> None:
        self.sites, self.skips_non_finite = dict(sites), skips_non_finite
        self._scores: dict[str, list[Tensor]] = {}
        self._arrivals = Arrivals()
        self._sums: dict[str, Tensor] = {}

    def start(self, layers: Mapping[str, LayerRecord], device: torch.device) -> None:
        """Learn where the model runs, and place there what is needed of each layer."""
        super().start(layers, device)
        rehearse(neco_scores, self.sites.values(), device)

    def add(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        """Score one layer's features."""
        layer = self.sites.get(site)
        if layer is None:
            return
        scores = neco_scores(layer, Rows(features, rows.labels[:0]))
        with torch.inference_mode(False):  # what is kept must not be a tensor of inference mode
            if self.skips_non_finite:  # which rows these are is looked at when they have arrived, not now
                finite = features.isfinite().all(dim=1)
                features = torch.where(finite.unsqueeze(1), features, 0.0)
                scores = torch.where(finite, scores, _LEFT_OUT)
            self._arrivals.append(self._scores.setdefault(site, []), scores)
            total = features.sum(dim=0, dtype=torch.float64).to(self.device)
            self._sums[site] = total + self._sums.get(site, 0.0)

    def end(self, logits: Tensor | None) -> None:
        """Take in the scores of the batch before."""
        self._arrivals.end_batch()

    def idle(self, *, finished: bool) -> bool:
        """Take in the scores of the batch before."""
        self._arrivals.end_batch()
        return False

    def drop(self, site: str) -> None:
        """Give up one layer."""
        self._scores.pop(site, None)
        self._sums.pop(site, None)

    def state(self) -> dict[str, Tensor]:
        """The scores so far, and the sums."""
        return dict(self.snapshot()())

    def snapshot(self) -> Callable[[], Mapping[str, Tensor]]:
        """The same, without waiting: the scores that have arrived, and those that will."""
        arriving = self._arrivals.later(self._scores)
        sums = sent_back({f"{_SUM}/{site}": total for site, total in self._sums.items()})
        return lambda: sums() | {f"{_SCORES}/{site}": _counting(scores) for site, scores in arriving().items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up the scores of some batches."""
        for name, tensor in tensors.items():
            kind, _, site = name.partition("/")
            if kind == _SCORES:
                self._scores[site] = [tensor.clone()]
            else:
                self._sums[site] = tensor.to(self.device, copy=True)

    def result(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Scores, and the mean of the features, by layer name; NonFiniteError where that is none."""
        found = {}
        for site in self._scores:
            scores, total, name = self._all_scores(site), self._sums[site].cpu(), self.sites[site].record.name
            if not total.isfinite().all():
                raise NonFiniteError(
                    f'layer {name!r}: features are NaN or infinite; pass non_finite="skip" to leave such samples out'
                )
            found[name] = scores, total / len(scores)
        return found

    def _all_scores(self, site: str) -> Tensor:
        """The scores of one layer so far, of the rows that count."""
        self._arrivals.settle()
        return _counting(self._scores[site])


def _counting(batches: list[Tensor]) -> Tensor:
    """The scores of some batches, of the rows that count."""
    scores = torch.cat(batches)
    return scores[scores != _LEFT_OUT]


def outside_of(
    inside: Mapping[str, tuple[Tensor, Tensor]], outside: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Outside]:
    """What both passes found, of the layers that fired in both."""
    return {name: Outside(inside[name][0], *outside[name]) for name in inside if name in outside}

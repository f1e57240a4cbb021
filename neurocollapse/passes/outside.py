"""How each sample lies to the span of the class means, for the loader and for other data."""

from collections.abc import Mapping

import torch
from torch import Tensor

from neurocollapse.metrics import Layer, Rows
from neurocollapse.metrics.outside import neco_scores
from neurocollapse.metrics.scores import Outside
from neurocollapse.passes.sink import Sink
from neurocollapse.statistics import ClassBatch

_SCORES, _SUM = "scores", "sum"


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
        self._sums: dict[str, Tensor] = {}

    def add(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        """Score one layer's features."""
        layer = self.sites.get(site)
        if layer is None:
            return
        if self.skips_non_finite:
            features = features[features.isfinite().all(dim=1)]
        with torch.inference_mode(False):  # what is kept must not be a tensor of inference mode
            scores = neco_scores(layer, Rows(features, rows.labels[:0])).cpu().clone()
            total = features.sum(dim=0, dtype=torch.float64).cpu().clone()
        self._scores.setdefault(site, []).append(scores)
        self._sums[site] = total + self._sums.get(site, 0.0)

    def drop(self, site: str) -> None:
        """Give up one layer."""
        self._scores.pop(site, None)
        self._sums.pop(site, None)

    def state(self) -> dict[str, Tensor]:
        """The scores so far, and the sums."""
        scores = {f"{_SCORES}/{site}": torch.cat(parts) for site, parts in self._scores.items()}
        return scores | {f"{_SUM}/{site}": total for site, total in self._sums.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up the scores of some batches."""
        for name, tensor in tensors.items():
            kind, _, site = name.partition("/")
            if kind == _SCORES:
                self._scores[site] = [tensor.clone()]
            else:
                self._sums[site] = tensor.clone()

    def result(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Scores, and the mean of the features, by layer name."""
        found = {}
        for site, parts in self._scores.items():
            scores = torch.cat(parts)
            found[self.sites[site].record.name] = scores, self._sums[site] / len(scores)
        return found


def outside_of(
    inside: Mapping[str, tuple[Tensor, Tensor]], outside: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Outside]:
    """What both passes found, of the layers that fired in both."""
    return {name: Outside(inside[name][0], *outside[name]) for name in inside if name in outside}

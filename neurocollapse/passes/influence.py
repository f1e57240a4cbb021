"""How every sample of a second pass moves log D, at all layers together."""

from collections.abc import Mapping

import torch
from torch import Tensor

from neurocollapse.metrics import Layer, Rows
from neurocollapse.metrics.uncertainty import influences
from neurocollapse.passes.rehearsal import rehearse
from neurocollapse.passes.sink import Sink
from neurocollapse.statistics import ClassBatch, LayerRecord

_SUM, _COUNT = "products", "samples"


class InfluenceSink(Sink):
    """Sum over the samples of ψψᵀ, with ψ the influence of a sample on log D at each layer.

    The layers see the same samples, so their errors go together; a ratio of two D is surer than either.

    Parameters
    ----------
    sites : mapping of site to Layer
        The layers, with the moments of a whole first pass.
    skips_non_finite : bool
        Leave out rows with NaN or infinite features.
    """

    def __init__(self, sites: Mapping[str, Layer], *, skips_non_finite: bool = False) -> None:
        self.sites, self.skips_non_finite = dict(sites), skips_non_finite
        self.settings = {"layers": [layer.record.name for layer in self.sites.values()]}
        self._sums: dict[str, Tensor] = {}

    def start(self, layers: Mapping[str, LayerRecord], device: torch.device) -> None:
        """Learn where the model runs, and place there what is needed of each layer."""
        super().start(layers, device)
        rehearse(influences, (layer for layer in self.sites.values() if layer.record.positions == 1), device)
        size = len(self.sites)
        with torch.inference_mode(False):  # sums made in inference mode could not be updated outside it
            sums = torch.zeros(size, size + 1, dtype=torch.float64, device=device)
        self._sums = {_SUM: sums[:, :size].clone(), _COUNT: sums[:, size].clone()}

    def begin(self, batch: ClassBatch) -> None:
        """Start a batch."""
        self._columns: dict[str, Tensor] = {}
        self._counted: dict[str, Tensor] = {}

    def add(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        """Keep the influence of each sample of the batch on one layer."""
        layer = self.sites.get(site)
        if layer is None or layer.record.positions > 1:
            return
        labels = rows.on(features.device)
        influence = influences(layer, Rows(features, labels))
        finite = features.isfinite().all(dim=1) if self.skips_non_finite else torch.ones_like(labels, dtype=torch.bool)
        self._columns[site] = torch.where(finite, influence, 0.0).to(self.device)
        self._counted[site] = finite.sum().to(self.device)

    def end(self, logits: Tensor | None) -> None:
        """Add up the products of the batch."""
        if not self._columns:
            return
        nothing = torch.zeros_like(next(iter(self._columns.values())))
        table = torch.stack([self._columns.get(site, nothing) for site in self.sites])
        self._sums[_SUM].addmm_(table, table.T)
        none = self._sums[_COUNT].new_zeros(())
        self._sums[_COUNT] += torch.stack([self._counted.get(site, none) for site in self.sites])

    def state(self) -> dict[str, Tensor]:
        """The sums, and how many samples each layer has seen."""
        return dict(self._sums)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up the sums of some batches."""
        for name, tensor in tensors.items():
            self._sums[name].copy_(tensor)

    def result(self) -> dict[str, Tensor]:
        """The state on the CPU: what several processes add up."""
        return {name: tensor.cpu() for name, tensor in self._sums.items()}


def log_covariance(sums: Mapping[str, Tensor], layers: Mapping[str, Layer]) -> Tensor:
    """Covariance of log D, shape (layers, layers); NaN for layers that did not see every sample of the first pass."""
    expected = torch.tensor([layer.moments.num_samples for layer in layers.values()], dtype=torch.float64)
    whole = sums[_COUNT] == expected
    return torch.where(whole & whole.unsqueeze(1), sums[_SUM], torch.nan)

"""How every sample of a second pass moves log D, at all layers together."""

from collections.abc import Mapping

import torch
from torch import Tensor

from neurocollapse.metrics import Layer, Rows
from neurocollapse.metrics.influence import Influences, influences
from neurocollapse.metrics.layer import InfluenceSums
from neurocollapse.passes.rehearsal import rehearse
from neurocollapse.passes.sink import Sink
from neurocollapse.statistics import ClassBatch, LayerRecord

_PRODUCTS, _SUMS, _COUNT = "products", "sums", "samples"


class InfluenceSink(Sink):
    """Sum over the samples of ψψᵀ, with ψ the influence of a sample on log D at each layer, and `Influences.sums`.

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
        shapes = {_PRODUCTS: (size, size), _SUMS: (size, 3), _COUNT: (size,)}
        with torch.inference_mode(False):  # sums made in inference mode could not be updated outside it
            zeros = {name: torch.zeros(*shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}
        self._sums = zeros

    def begin(self, batch: ClassBatch) -> None:
        """Start a batch."""
        self._columns: dict[str, Tensor] = {}
        self._added: dict[str, Tensor] = {}
        self._counted: dict[str, Tensor] = {}

    def add(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        """Keep the influence of each sample of the batch on one layer."""
        layer = self.sites.get(site)
        if layer is None or layer.record.positions > 1:
            return
        labels = rows.on(features.device)
        found = influences(layer, Rows(features, labels))
        finite = features.isfinite().all(dim=1) if self.skips_non_finite else torch.ones_like(labels, dtype=torch.bool)
        influence = Influences(*(torch.where(finite, one, 0.0) for one in found))
        self._columns[site] = influence.compression.to(self.device)
        self._added[site] = influence.sums().to(self.device)
        self._counted[site] = finite.sum().to(self.device)

    def end(self, logits: Tensor | None) -> None:
        """Add up the products of the batch."""
        if not self._columns:
            return
        nothing = torch.zeros_like(next(iter(self._columns.values())))
        table = torch.stack([self._columns.get(site, nothing) for site in self.sites])
        self._sums[_PRODUCTS].addmm_(table, table.T)
        none = self._sums[_COUNT].new_zeros(3)
        self._sums[_SUMS] += torch.stack([self._added.get(site, none) for site in self.sites])
        self._sums[_COUNT] += torch.stack([self._counted.get(site, none[0]) for site in self.sites])

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


def influence_sums(sums: Mapping[str, Tensor], layers: Mapping[str, Layer]) -> InfluenceSums:
    """What the influences of all samples add up to; NaN for layers that did not see every sample of the first pass."""
    expected = torch.tensor([layer.moments.num_samples for layer in layers.values()], dtype=torch.float64, device="cpu")
    whole = (sums[_COUNT] == expected).unsqueeze(1)
    products = torch.where(whole & whole.T, sums[_PRODUCTS], torch.nan)
    return InfluenceSums.of(products, torch.where(whole, sums[_SUMS], torch.nan))

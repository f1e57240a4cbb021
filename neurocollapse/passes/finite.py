"""Whether features were finite, asked of a device in every batch and answered one batch later, or at the end."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from neurocollapse.statistics import ClassMoments
from neurocollapse.support.transfer import Readback


class NotFinite(NamedTuple):
    """Where features were not finite first: a layer's site, and the batch, counted from 0."""

    site: str
    batch: int


class FiniteWatch:
    """Asks a device whether the running sums of all layers are finite, and looks at the answer when it is there.

    Sums of squares that are not finite once stay so: of the batch that is named, every layer before was finite.
    """

    def __init__(self) -> None:
        self._asked: list[tuple[list[str], int, Readback]] = []
        self._left_out: set[str] = set()

    def next(self, squares: Mapping[str, Tensor], batch: int) -> NotFinite | None:
        """Ask about one batch, and look at the answer about the batch before.

        Parameters
        ----------
        squares : mapping of site to Tensor of shape (classes,)
            Sums that are not finite where features were not.
        batch : int
            Number of the batch.
        """
        devices = dict.fromkeys(square.device for square in squares.values())
        asked = []
        for device in devices:
            sites = [site for site, square in squares.items() if square.device == device]
            together = torch.stack([squares[site] for site in sites]).sum(dim=1)
            asked.append((sites, batch, Readback(together)))
        found = self.last()
        self._asked = asked
        return found

    def last(self) -> NotFinite | None:
        """Look at the answer about the last batch, waiting for it if need be."""
        asked, self._asked = self._asked, []
        for sites, batch, readback in asked:
            for site, is_finite in zip(sites, readback.numbers().isfinite().tolist(), strict=True):
                if not is_finite and site not in self._left_out:
                    self._asked = asked  # whoever asks again hears it again
                    return NotFinite(site, batch)
        return None

    def drop(self, site: str) -> None:
        """Hear nothing more about a layer: it is left out."""
        self._left_out.add(site)


def are_finite(moments: ClassMoments, *, late: bool) -> bool:
    """Whether sums in float32 are finite, of which squares in float64 do not tell: products, and totals if `late`."""
    totals = moments.offset_sum if late and moments.offset_sum.dtype == torch.float32 else None
    sums = [one for one in (totals, moments.within_scatter) if one is not None and one.numel()]
    return all(bool(end.isfinite()) for one in sums for end in one.aminmax())

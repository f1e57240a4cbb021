"""The products of shifted samples: all that a pooled within-class scatter matrix needs beside the class sums."""

import torch
from torch import Tensor

from neurocollapse.statistics.kernels import add_upper_products, mirrored, move_upper_products

COVARIANCE_FLUSH_ROWS = 2048
"""Rows whose products float32 may gather before they go to the float64 matrix."""


class ProductSums:
    """Σ δδᵀ over all samples, of which only the upper triangle is kept up to date.

    Parameters
    ----------
    num_features : int
    working : torch.dtype
        Dtype of the shifted samples; products of float32 ones go to the float64 total some rows at a time.
    device : torch.device

    Attributes
    ----------
    partial, total : Tensor of shape (features, features)
        The same tensor in float64.
    pending_rows : int
        Rows in `partial`.
    """

    def __init__(self, num_features: int, working: torch.dtype, device: torch.device | str) -> None:
        self.partial = torch.zeros(num_features, num_features, dtype=working, device=device)
        self.total = self.partial if working == torch.float64 else self.partial.double()
        self.pending_rows = 0

    def state(self) -> dict[str, Tensor]:
        """The matrices by name."""
        total = {} if self.total is self.partial else {"product_total": self.total}
        return {"products": self.partial} | total

    def add(self, shifted: Tensor) -> None:
        """Add the products of the features of some rows."""
        if self.pending_rows + shifted.shape[0] > COVARIANCE_FLUSH_ROWS:
            self._flush()
        self.pending_rows += shifted.shape[0]
        add_upper_products(self.partial, shifted)

    def shift(self, sums: Tensor, shift: Tensor, count: Tensor) -> None:
        """Σ(δ−h)(δ−h)ᵀ from Σδδᵀ for per-class shifts h, class sums S and counts n."""
        self._flush()
        cross = sums.T @ shift
        self.total += shift.T @ (count.unsqueeze(1) * shift) - cross - cross.T

    def scatter(self, sums: Tensor, count: Tensor) -> Tensor:
        """The pooled within-class scatter matrix, on the CPU like the float64 class sums and the class counts."""
        products = self.total if self.total is self.partial else self.total + self.partial
        return mirrored(products.cpu() - sums.T @ (sums / count.clamp(min=1).unsqueeze(1)))

    def _flush(self) -> None:
        """Add the float32 products to the float64 matrix and clear them."""
        if self.total is not self.partial:
            move_upper_products(self.partial, self.total)
            self.pending_rows = 0

"""What the samples of a layer add up to, each shifted by the reference point of its class."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sums:
    """The running sums of a layer; added to in place.

    Attributes
    ----------
    reference, partial, total : Tensor of shape (classes, features)
        `partial` gathers the shifted samples of at most FLUSH_COUNT rows of a class; it may be `total` itself, in any
        precision from that of `reference` up.
    square : Tensor of shape (classes,), float64
        Gathers their squared norms.
    kept : Tensor of shape (classes,), float64, or None
        Counts the samples that are finite, where others are left out; None where all count.
    matrices : tuple of Tensor, each with a row for each class
        What `total`, `square` and `kept` are the columns of, side by side in this order.
    """

    reference: Tensor
    partial: Tensor
    total: Tensor
    square: Tensor
    kept: Tensor | None = None
    matrices: tuple[Tensor, ...] = ()

    @classmethod
    def over(cls, reference: Tensor, matrices: tuple[Tensor, ...], partial: Tensor | None = None) -> "Sums":
        """Sums in some matrices, with samples left out where these have a column to count the others.

        Parameters
        ----------
        reference : Tensor of shape (classes, features)
            The reference points.
        matrices : tuple of Tensor
            See the attribute.
        partial : Tensor of shape (classes, features), optional
            Partial sums. Default: the totals.
        """
        width = reference.shape[1]
        total = matrices[0] if matrices[0].shape[1] == width else matrices[0][:, :width]
        behind = (matrices[0][:, width:], *matrices[1:])
        square, *kept = [column for part in behind for column in part.unbind(dim=1)]
        return cls(reference, total if partial is None else partial, total, square, kept[0] if kept else None, matrices)

    @property
    def are_apart(self) -> bool:
        """Whether partial sums are kept beside the totals."""
        return self.partial is not self.total

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Where the sums lie in memory: asked for once, as that takes longer than adding a small batch.

        The number of classes; the addresses of `reference`, `partial`, `total`, `square` and `kept`, 0 for none; and
        which of the first three are float64.
        """
        matrices = self.reference, self.partial, self.total
        addresses = (one.data_ptr() for one in (*matrices, self.square))
        kept = 0 if self.kept is None else self.kept.data_ptr()
        return (len(self.reference), *addresses, kept, *(one.dtype == torch.float64 for one in matrices))

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is made of the matrices: pickled with them, their columns would come back as tensors of their own."""
        return Sums.over, (self.reference, self.matrices, self.partial if self.are_apart else None)

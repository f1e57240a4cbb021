"""What the samples of a layer add up to, each shifted by the reference point of its class."""

from typing import NamedTuple

from torch import Tensor


class Sums(NamedTuple):
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

"""The geometry that class means tend to when classes have different numbers of samples."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

MAX_COUNTS = 2048
"""Most different class counts for which the geometry is computed: its cost grows with their cube."""


class Geometry(NamedTuple):
    """A Gram matrix of class means with Frobenius norm 1, whose entries depend on the counts of both classes alone.

    Attributes
    ----------
    group : Tensor of shape (classes,), int64
        Classes with equal counts form a group.
    products : Tensor of shape (groups, groups)
        Inner product of two classes, by their groups.
    extra : Tensor of shape (groups,)
        What a class's squared length is more than the inner product of two different classes of its group.
    """

    group: Tensor
    products: Tensor
    extra: Tensor

    @property
    def square(self) -> Tensor:
        """Squared length of each class mean."""
        return (self.products.diagonal() + self.extra)[self.group]


def seli_geometry(count: Tensor) -> Geometry | None:
    r"""Simplex-encoded-labels interpolation: the Gram matrix of class means for these class counts.

    The simplex-encoded labels are the K × N matrix of one-hot columns minus 1/K. With its singular value decomposition
    :math:`V \Lambda U^\top`, samples have the Gram matrix :math:`U \Lambda U^\top`, equal for all of one class, so that

    .. math:: G = C^{-1/2} \bigl( C^{1/2} (I - \tfrac1K 1 1^\top) C^{1/2} \bigr)^{1/2} C^{-1/2}, \qquad
        C = \mathrm{diag}(n_1, \dots, n_K)

    On vectors that sum to zero within groups of equal counts the root is :math:`\sqrt{n}`; what is left has one row a
    group. For equal counts it is the simplex.

    Parameters
    ----------
    count : Tensor of shape (classes,)
        All positive, at least two.

    Returns
    -------
    Geometry or None
        None with more than 2,048 different counts.

    References
    ----------
    Thrampoulidis, Kini, Vakilian, Behnia, Imbalance trouble: revisiting neural-collapse geometry, NeurIPS 2022,
    arXiv:2208.05512, Definition 2.
    """
    values, group, sizes = count.unique(return_inverse=True, return_counts=True)
    if len(values) > MAX_COUNTS:
        return None
    return Geometry(group, *_between_groups(tuple(values.tolist()), tuple(sizes.tolist())))


@functools.lru_cache(maxsize=4)  # the same for all layers
def _between_groups(counts: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Inner products between groups, and what a class adds to its own."""
    n, size = torch.tensor((counts, sizes), dtype=torch.float64, device="cpu")
    share = (size / size.sum()).sqrt()
    factor = torch.diag(n.sqrt()) - torch.outer(share, share * n.sqrt())  # the root of its square is wanted
    _, values, right = torch.linalg.svd(factor)
    root = right.T @ (values.unsqueeze(1) * right)
    weight = (n * size).rsqrt()
    products = root * torch.outer(weight, weight) - torch.diag(1 / (n.sqrt() * size))
    extra = n.rsqrt()
    square = products.square() * torch.outer(size, size)
    diagonal = size * ((products.diagonal() + extra).square() - products.diagonal().square())
    norm = (square.sum() + diagonal.sum()).sqrt()
    return products / norm, extra / norm

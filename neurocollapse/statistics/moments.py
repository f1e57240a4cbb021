"""Class moments of one layer: a value that merges exactly."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neurocollapse.statistics.kernels import mirrored
from neurocollapse.support.checks import shown
from neurocollapse.support.numbers import together
from neurocollapse.support.table import html_table

BLOCK_ELEMENTS = 2**22
"""Elements of a float64 block of class means (32 MiB): results are formed in column blocks of this size."""
MOST_SHOWN = 20
"""Classes that a notebook shows one by one."""


@dataclass(frozen=True, eq=False, repr=False)
class ClassMoments:
    r"""Counts, means and within-class scatter of one layer's features, class by class.

    Kept about a reference point of each class (one of its own samples), so that nothing cancels:

    .. math:: \mu_k = C_k + S_k / n_k, \qquad M_k = q_k - \|S_k\|^2 / n_k,

    with :math:`\delta_i = z_i - C_{y_i}`, :math:`S_k = \sum \delta_i` and :math:`q_k = \sum \|\delta_i\|^2`.

    Attributes
    ----------
    count : Tensor of shape (classes,), int64
    reference : Tensor of shape (classes, features)
        :math:`C`, in the dtype of the running state; zero for absent classes.
    offset_sum : Tensor of shape (classes, features), float64
        :math:`S`; float32 from a state of 8 bytes, whose references are the class means as nearly as float32 can say.
    offset_square : Tensor of shape (classes,), float64
        :math:`q`.
    within_scatter : Tensor of shape (features, features), float64, optional
        :math:`\sum_i (z_i - \mu_{y_i})(z_i - \mu_{y_i})^\top`, pooled over the classes.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[0.0, 1.0], [0.0, 3.0], [5.0, 5.0]], [0, 0, 1])
    >>> moments.mean.tolist(), moments.scatter.tolist()
    ([[0.0, 2.0], [5.0, 5.0]], [2.0, 0.0])
    """

    count: Tensor
    reference: Tensor
    offset_sum: Tensor
    offset_square: Tensor
    within_scatter: Tensor | None = None
    from_features: ClassVar[Callable[..., "ClassMoments"]]
    """Moments of features in memory; `statistics.in_memory`, which knows the accumulator too, puts it here."""

    @classmethod
    def empty(
        cls, num_classes: int, num_features: int, *, dtype: torch.dtype = torch.float64, covariance: bool = False
    ) -> "ClassMoments":
        """The moments of no samples: the neutral element of `merge`.

        Parameters
        ----------
        num_classes, num_features : int
            K and d.
        dtype : torch.dtype, default float64
            Dtype of means and scatter.
        covariance : bool, default False
            Whether a pooled scatter matrix, all zero, goes with them.
        """
        zeros = functools.partial(torch.zeros, dtype=torch.float64, device="cpu")
        return cls(
            count=zeros(num_classes, dtype=torch.int64),
            reference=zeros(num_classes, num_features, dtype=dtype),
            offset_sum=zeros(num_classes, num_features),
            offset_square=zeros(num_classes),
            within_scatter=zeros(num_features, num_features) if covariance else None,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes K, absent ones included."""
        return self.count.shape[0]

    @property
    def num_features(self) -> int:
        """Number of features d."""
        return self.reference.shape[1]

    @functools.cached_property
    def num_samples(self) -> int:
        """Number of samples N, all classes together; of rows, in a layer that keeps a row for each position."""
        return int(self.count.sum())

    @functools.cached_property
    def present(self) -> Tensor:
        """Indices of the classes with at least one sample."""
        return self.count.nonzero().flatten()

    @property
    def mean(self) -> Tensor:
        """Class means, shape (classes, features), float64; NaN rows for absent classes."""
        means = self.reference.double() + self.offset_sum.double() / self.count.clamp(min=1).unsqueeze(1)
        means[self.count == 0] = torch.nan
        return means

    @functools.cached_property
    def scatter(self) -> Tensor:
        """Σ‖z − μ_k‖² of each class, shape (classes,), float64; exactly 0 when a class has collapsed to a point."""
        correction = torch.zeros_like(self.offset_square)
        for columns in self._column_blocks():
            correction += self.offset_sum[:, columns].double().square().sum(dim=1)
        correction /= self.count.clamp(min=1)
        return (self.offset_square - correction).clamp(min=0.0)

    def mean_blocks(self) -> Iterator[Tensor]:
        """The means of the present classes, float64, in column blocks of shape (present classes, ≤ block features)."""
        rows = self.present
        count = self.count[rows].unsqueeze(1)
        for columns in self._column_blocks():
            yield self.reference[rows, columns].double() + self.offset_sum[rows, columns].double() / count

    def merge(self, other: "ClassMoments") -> "ClassMoments":
        """The moments of both sets of samples together; the order and the split do not matter.

        Parameters
        ----------
        other : ClassMoments
            Moments of other samples; as many classes and features.

        Raises
        ------
        ValueError
            If the numbers of classes or features differ, or only one side keeps the within-class scatter matrix.
        """
        self._check_mergeable(other)
        prefer_other = (self.count == 0) & (other.count > 0)
        dtype = torch.promote_types(self.reference.dtype, other.reference.dtype)
        reference = torch.where(prefer_other.unsqueeze(1), other.reference.to(dtype), self.reference.to(dtype))
        left, right = self.shifted_to(reference), other.shifted_to(reference)
        return ClassMoments(
            count=self.count + other.count,
            reference=reference,
            offset_sum=left.offset_sum + right.offset_sum,
            offset_square=left.offset_square + right.offset_square,
            within_scatter=_merged_scatter(left, right),
        )

    def shifted_to(self, reference: Tensor) -> "ClassMoments":
        """The same moments about another reference point per class, shape (classes, features).

        Parameters
        ----------
        reference : Tensor of shape (classes, features)
            One point per class.
        """
        shift = self.reference.double() - reference.double()
        count = self.count.double()
        cross = 2 * (self.offset_sum * shift).sum(dim=1) + count * shift.square().sum(dim=1)
        empty = self.count == 0
        return ClassMoments(
            count=self.count,
            reference=reference,
            offset_sum=torch.where(empty.unsqueeze(1), 0.0, self.offset_sum + count.unsqueeze(1) * shift),
            offset_square=torch.where(empty, 0.0, self.offset_square + cross),
            within_scatter=self.within_scatter,
        )

    def padded(self, num_classes: int) -> "ClassMoments":
        """The same moments with room for more classes, which are absent.

        Parameters
        ----------
        num_classes : int
            At least as many as there are.
        """
        extra = num_classes - self.num_classes
        if extra < 0:
            raise ValueError(f"cannot pad {self.num_classes} classes to {num_classes}")
        if extra == 0:
            return self
        more = ClassMoments.empty(extra, self.num_features, dtype=self.reference.dtype)
        return ClassMoments(
            count=torch.cat([self.count, more.count]),
            reference=torch.cat([self.reference, more.reference]),
            offset_sum=torch.cat([self.offset_sum, more.offset_sum]),
            offset_square=torch.cat([self.offset_square, more.offset_square]),
            within_scatter=self.within_scatter,
        )

    def to(self, device: torch.device) -> "ClassMoments":
        """The same moments on a device.

        Parameters
        ----------
        device : torch.device
            Where the tensors shall be.
        """
        return ClassMoments(
            count=self.count.to(device),
            reference=self.reference.to(device),
            offset_sum=self.offset_sum.to(device),
            offset_square=self.offset_square.to(device),
            within_scatter=None if self.within_scatter is None else self.within_scatter.to(device),
        )

    def __repr__(self) -> str:
        covariance = ", with within-class scatter matrix" if self.within_scatter is not None else ""
        return (
            f"ClassMoments({self.num_samples} samples, {self.present.numel()} of {self.num_classes} classes present, "
            f"{self.num_features} features{covariance})"
        )

    def _repr_html_(self) -> str:
        parts = (self.count, self.reference, self.offset_sum, self.offset_square)
        first = ClassMoments(*(part[:MOST_SHOWN] for part in parts))
        norms = together(first.mean.norm(dim=1).tolist(), 4)
        spreads = together((first.scatter / first.count).sqrt().tolist(), 4)
        counts = first.count.tolist()
        rows = [
            [str(label), f"{count:,}", norm, spread]
            for label, (count, norm, spread) in enumerate(zip(counts, norms, spreads, strict=True))
        ]
        more = f"<p>and {self.num_classes - MOST_SHOWN:,} more classes</p>" if self.num_classes > MOST_SHOWN else ""
        headings = ["class", "samples", "norm of the mean", "spread around it"]
        return f"<p>{self!r}</p>{html_table(headings, rows, numbers={1, 2, 3})}{more}"

    def _column_blocks(self) -> Iterator[slice]:
        """Column slices whose float64 blocks over all classes stay within BLOCK_ELEMENTS."""
        width = max(1, BLOCK_ELEMENTS // max(1, self.num_classes))
        for start in range(0, self.num_features, width):
            yield slice(start, min(start + width, self.num_features))

    def _check_mergeable(self, other: "ClassMoments") -> None:
        """Raise unless both sides describe the same classes, features and second moments."""
        if not isinstance(other, ClassMoments):
            raise TypeError(f"cannot merge moments with {shown(other)}; pass ClassMoments")
        mine, theirs = (self.num_classes, self.num_features), (other.num_classes, other.num_features)
        if mine != theirs:
            raise ValueError(f"cannot merge moments of (classes, features) = {mine} with {theirs}; they must agree")
        if (self.within_scatter is None) != (other.within_scatter is None):
            raise ValueError(
                "cannot merge: only one side has `within_scatter`; pass covariance=True to both or neither"
            )


def _merged_scatter(left: ClassMoments, right: ClassMoments) -> Tensor | None:
    """Pooled scatter of two parts about one reference: the sum plus Σ_k (n m / (n + m)) Δ_k Δ_kᵀ."""
    if left.within_scatter is None or right.within_scatter is None:
        return None
    both = (left.count > 0) & (right.count > 0)
    n, m = left.count[both].double().unsqueeze(1), right.count[both].double().unsqueeze(1)
    difference = left.offset_sum[both] / n - right.offset_sum[both] / m
    between = difference.T @ (difference * (n * m / (n + m)))
    return mirrored(left.within_scatter + right.within_scatter + between)

"""Observed entries of a matrix as an index: memory follows their number, not the matrix."""

from dataclasses import dataclass

import torch
from torch import Tensor

from neurocollapse.lowrank.factors import Factors
from neurocollapse.lowrank.sampled import SampledProduct

_ENUMERATED = 2**24
"""Most positions that are shuffled as a whole; of more, positions are drawn until enough differ."""


@dataclass(frozen=True, eq=False)
class Observations:
    """Some entries of a matrix, sorted by row and column; make one with `Observations.of`.

    Attributes
    ----------
    rows, columns : Tensors of shape (entries,), int64
        Each position once.
    values : Tensor of shape (entries,), float64
    shape
        Shape of the matrix.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def fraction(self) -> float:
        """p, the observed part of all entries."""
        return len(self) / (self.shape[0] * self.shape[1])

    @classmethod
    def of(
        cls, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], *, allow_empty: bool = False
    ) -> "Observations":
        """Check and sort observed entries.

        Parameters
        ----------
        rows, columns : integer Tensors of shape (entries,)
        values : Tensor of shape (entries,)
        shape
            Number of rows and columns of the matrix.
        allow_empty : bool, default False
            Accept rows and columns without an entry; nothing can be known about them.

        Raises
        ------
        ValueError
            If lengths differ, a position lies outside or occurs twice, a value is not finite, or a row or column is
            empty.
        TypeError
            If rows or columns are not integers.

        Examples
        --------
        >>> entries = Observations.of(torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([5.0, 4.0]), (2, 2))
        >>> entries.values, entries.fraction
        (tensor([4., 5.], dtype=torch.float64), 0.5)
        """
        if rows.ndim != 1 or rows.shape != columns.shape or rows.shape != values.shape or not len(rows):
            raise ValueError(
                "`rows`, `columns` and `values` must be vectors of one length ≥ 1, got shapes "
                f"{tuple(rows.shape)}, {tuple(columns.shape)} and {tuple(values.shape)}"
            )
        for name, index in (("rows", rows), ("columns", columns)):
            if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
                raise TypeError(f"`{name}` must hold integers, got {index.dtype}; for a mask use Observations.where")
        rows, columns, values = rows.detach().long(), columns.detach().long(), values.detach().double()
        for name, index, size in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
            outside = ((index < 0) | (index >= size)).nonzero()
            if len(outside):
                place = int(outside[0])
                raise ValueError(f"`{name}` must lie in [0, {size}), got {int(index[place])} at position {place}")
        if not bool(values.isfinite().all()):
            place = int((~values.isfinite()).nonzero()[0])
            raise ValueError(
                f"`values` must be finite numbers, got {float(values[place])} at row {int(rows[place])}, "
                f"column {int(columns[place])}; leave unknown entries out"
            )
        return cls._sorted(rows, columns, values, shape, allow_empty)

    @classmethod
    def _sorted(
        cls, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], allow_empty: bool
    ) -> "Observations":
        """Sort; refuse repeated positions and empty lines."""
        positions, order = torch.sort(rows * shape[1] + columns)
        repeated = (positions[1:] == positions[:-1]).nonzero()
        if len(repeated):
            place = int(positions[int(repeated[0])])
            raise ValueError(
                f"every position must be observed once, row {place // shape[1]}, column {place % shape[1]} comes twice"
            )
        found = cls(positions // shape[1], positions % shape[1], values[order], shape)
        for name, index, size in (("row", found.rows, shape[0]), ("column", found.columns, shape[1])):
            empty = (torch.bincount(index, minlength=size) == 0).nonzero().flatten()
            if len(empty) and not allow_empty:
                raise ValueError(
                    f"every {name} needs an observed entry, {name} {int(empty[0])} has none ({len(empty)} of {size} "
                    f"are empty); drop them, observe more, or pass allow_empty=True"
                )
        return found

    @classmethod
    def where(cls, matrix: Tensor, mask: Tensor, *, allow_empty: bool = False) -> "Observations":
        """The entries of a dense matrix where a mask is true.

        Parameters
        ----------
        matrix : Tensor of shape (rows, columns)
            All entries, of which those under the mask are taken.
        mask : bool Tensor of the same shape
            Which entries are observed; dense or sparse.
        allow_empty : bool, default False
            Accept rows and columns without an entry.

        Raises
        ------
        ValueError
            If the mask has another shape or holds NaN, or as `Observations.of`.

        Examples
        --------
        >>> len(Observations.where(torch.ones(3, 3), torch.eye(3) > 0))
        3
        """
        if matrix.ndim != 2 or mask.shape != matrix.shape:
            raise ValueError(
                f"`mask` must have the shape of the matrix, got {tuple(mask.shape)} for {tuple(matrix.shape)}"
            )
        mask = mask.to_dense()
        if bool(mask.isnan().any()):
            raise ValueError("`mask` must be true or false everywhere, got NaN; to leave out NaN pass ~matrix.isnan()")
        rows, columns = mask.bool().nonzero(as_tuple=True)
        return cls.of(rows, columns, matrix[rows, columns], _pair(matrix), allow_empty=allow_empty)


def observe(
    target: Tensor | Factors,
    fraction: float,
    *,
    seed: int = 0,
    max_hidden: int = 1_000_000,
    allow_empty: bool = False,
) -> tuple[Observations, Observations]:
    """Observe a random part of a matrix, and keep other entries hidden to test against.

    Parameters
    ----------
    target : Tensor of shape (rows, columns), or Factors
        A matrix, or the two factors of `left @ right.T`, which is then never formed.
    fraction
        p of all entries are observed, 0 < p ≤ 1, exactly round(p · rows · columns) of them.
    seed : int, default 0
        Seed of the choice.
    max_hidden : int, default 1000000
        At most this many of the others are returned, again at random.
    allow_empty : bool, default False
        Accept rows and columns without an observed entry.

    Returns
    -------
    observed, hidden : Observations
        Without a common position; hidden is empty for p = 1.

    Raises
    ------
    ValueError
        If the fraction is out of range, or so small that a row or column stays empty.

    Examples
    --------
    >>> observed, hidden = observe(torch.randn(20, 20), 0.5)
    >>> len(observed), len(hidden)
    (200, 200)
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"`fraction` must lie in (0, 1], got {fraction!r}")
    if isinstance(target, Factors):
        shape = (len(target.left), len(target.right))
    elif target.ndim == 2:
        shape = _pair(target)
    else:
        raise ValueError(f"`target` must be a matrix or its two factors, got shape {tuple(target.shape)}")
    total = shape[0] * shape[1]
    count = max(1, round(fraction * total))
    chosen = _distinct(total, count + min(max_hidden, total - count), torch.Generator().manual_seed(seed))
    observed = _entries(target, chosen[:count], shape)
    hidden = _entries(target, chosen[count:], shape)
    return Observations.of(*observed, shape, allow_empty=allow_empty), Observations(*hidden, shape)


def _distinct(total: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` different positions below `total`, in random order."""
    if total <= _ENUMERATED:
        return torch.randperm(total, generator=generator, device="cpu")[:count]
    found = torch.empty(0, dtype=torch.int64, device="cpu")
    while len(found) < count:
        more = torch.randint(total, (count - len(found) + count // 10 + 10,), generator=generator, device="cpu")
        found = torch.unique(torch.cat([found, more]))
    return found[torch.randperm(len(found), generator=generator, device="cpu")[:count]]


def _entries(target: Tensor | Factors, positions: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values at positions counted along the rows, sorted."""
    positions = torch.sort(positions).values
    rows, columns = positions // shape[1], positions % shape[1]
    if isinstance(target, Factors):
        left, right = (factor.detach().double() for factor in target)
        return rows, columns, SampledProduct(rows, columns, shape)(left, right)
    return rows, columns, target.detach().double()[rows, columns]


def _pair(matrix: Tensor) -> tuple[int, int]:
    """The shape of a matrix as plain numbers."""
    return int(matrix.shape[0]), int(matrix.shape[1])

"""Some entries of a product of two thin matrices, without the product."""

import torch
from torch import Tensor

DENSE_FROM = 1 / 16
"""Density from which whole blocks of rows are multiplied: on one core a gathered entry
costs about as much as sixteen entries of a matrix product."""

_BLOCK = 2**17
"""Numbers in a block: 1 MiB, so that it stays in the cache."""


class SampledProduct:
    """The entries (i, j) of A Bᵀ at fixed positions, for changing thin matrices A and B of k columns.

    Costs O(entries · k) time and O(entries) memory: rows are gathered and multiplied in pieces or, where at least one
    entry in sixteen is wanted, blocks of rows of at most a quarter of the matrix are formed one after the other.

    Parameters
    ----------
    rows, columns : int64 Tensors of shape (entries,)
        Sorted by row.
    shape
        Number of rows of A and of B.

    Examples
    --------
    >>> entries = SampledProduct(torch.tensor([0, 1]), torch.tensor([1, 1]), (2, 2))
    >>> entries(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]]))
    tensor([4., 8.])
    """

    def __init__(self, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.num_entries = len(rows)
        self._blocks: list[tuple[int, int, int, int, Tensor]] = []
        self._rows = self._columns = torch.empty(0, dtype=torch.int32, device="cpu")
        if len(rows) >= DENSE_FROM * shape[0] * shape[1]:
            self._blocks = _row_blocks(rows, columns, shape)
        else:
            self._rows, self._columns = rows.int(), columns.int()
        self._buffers: tuple[Tensor, ...] = ()

    def __call__(self, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        """The entries, written into `out` if given."""
        out = torch.empty(self.num_entries, dtype=left.dtype, device=left.device) if out is None else out
        return self._from_blocks(left, right, out) if self._blocks else self._gathered(left, right, out)

    def _from_blocks(self, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
        """Multiply blocks of rows and take the wanted entries."""
        height = max(stop - start for start, stop, *_ in self._blocks)
        (buffer,) = self._buffer(left, (height, self.shape[1]))
        transposed = right.T
        for start, stop, first, last, places in self._blocks:
            block = buffer[: stop - start]
            torch.mm(left[start:stop], transposed, out=block)
            torch.index_select(block.view(-1), 0, places, out=out[first:last])
        return out

    def _gathered(self, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
        """Gather the rows of both matrices in pieces, multiply and sum."""
        size = max(1, 2 * _BLOCK // left.shape[1])
        first, second = self._buffer(left, (min(size, self.num_entries), left.shape[1]), 2)
        for start in range(0, self.num_entries, size):
            stop = min(start + size, self.num_entries)
            one, other = first[: stop - start], second[: stop - start]
            torch.index_select(left, 0, self._rows[start:stop], out=one)
            torch.index_select(right, 0, self._columns[start:stop], out=other)
            torch.sum(one.mul_(other), 1, out=out[start:stop])
        return out

    def _buffer(self, like: Tensor, shape: tuple[int, int], number: int = 1) -> tuple[Tensor, ...]:
        """Working memory, kept between calls of one shape."""
        if not self._buffers or self._buffers[0].shape != shape or self._buffers[0].dtype != like.dtype:
            self._buffers = tuple(like.new_empty(shape) for _ in range(number))
        return self._buffers


def _row_blocks(rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> list[tuple[int, int, int, int, Tensor]]:
    """(first row, last row, first entry, last entry, places in the block) of every block, without empty ones."""
    height = max(1, min(_BLOCK // shape[1], -(-shape[0] // 4)))
    starts = torch.zeros(shape[0] + 1, dtype=torch.int64, device="cpu")
    starts[1:] = torch.bincount(rows, minlength=shape[0]).cumsum(0)
    blocks = []
    for start in range(0, shape[0], height):
        stop = min(start + height, shape[0])
        first, last = int(starts[start]), int(starts[stop])
        places = (rows[first:last] - start) * shape[1] + columns[first:last]
        if last > first:
            blocks.append((start, stop, first, last, places.int()))
    return blocks

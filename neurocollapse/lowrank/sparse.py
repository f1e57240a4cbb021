"""Sparse matrices in CSR layout, whose values can change while their pattern stays."""

import warnings

import torch
from torch import Tensor


def csr_matrix(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A CSR tensor that shares memory with `values`: writing into them changes the matrix.

    Parameters
    ----------
    rows, columns : integer Tensors of shape (entries,)
        Sorted by row, then column, each position once.
    values : Tensor of shape (entries,)
    shape
        Number of rows and columns.

    Examples
    --------
    >>> values = torch.tensor([1.0, 2.0])
    >>> matrix = csr_matrix(torch.tensor([0, 1]), torch.tensor([1, 0]), values, (2, 2))
    >>> values.mul_(10)
    tensor([10., 20.])
    >>> (matrix @ torch.eye(2)).tolist()
    [[0.0, 10.0], [20.0, 0.0]]
    """
    starts = torch.zeros(shape[0] + 1, dtype=torch.int32, device=rows.device)
    starts[1:] = torch.bincount(rows, minlength=shape[0]).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")  # once in a process
        return torch.sparse_csr_tensor(starts, columns.int(), values, shape, check_invariants=True)

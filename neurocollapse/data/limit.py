"""A part of a data set that has the same share of each class, and no more than memory holds."""

import operator
from typing import Any

import torch
from torch import Tensor

from neurocollapse.data.labelled import DataError
from neurocollapse.statistics.memory import GIB, memory_limit

MAX_BYTES = 8 * GIB
"""Most bytes that the inputs of a data set may take in memory, if that much is free."""


def stratified(labels: Tensor, limit: int | None) -> Tensor:
    """Indices of `limit` samples, in their order: of each class its first ones, the same share of all classes.

    The numbers of samples differ from that share by less than one, but that every class has one at least if `limit`
    allows it.

    Parameters
    ----------
    labels : Tensor of shape (samples,)
    limit : int or None
        None, or more than there are, takes all.

    Returns
    -------
    Tensor of shape (at most limit,), int64, ascending.

    Examples
    --------
    >>> stratified(torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]), 4)
    tensor([0, 1, 4, 6])
    """
    if limit is None or limit >= len(labels):
        return torch.arange(len(labels), device="cpu")
    counts = labels.bincount()
    bounds = (counts.cumsum(0) * limit * 2 + len(labels)) // (2 * len(labels))  # rounded, so that the parts add up
    quotas = bounds.diff(prepend=bounds.new_zeros(1))
    absent = (counts > 0) & (quotas == 0)
    while limit >= int((counts > 0).sum()) and bool(absent.any()):
        quotas[quotas.argmax()] -= 1
        quotas[absent.nonzero()[0]] += 1
        absent = (counts > 0) & (quotas == 0)
    by_class = labels.argsort(stable=True)
    rank = torch.empty_like(by_class)
    rank[by_class] = torch.arange(len(labels), device="cpu") - (counts.cumsum(0) - counts)[labels[by_class]]
    return (rank < quotas[labels]).nonzero().flatten()


def checked_limit(limit: Any) -> int | None:
    """`limit` as a plain integer; raise unless it is a positive one or None."""
    if limit is None:
        return None
    try:
        value = -1 if isinstance(limit, bool) else operator.index(limit)
    except TypeError:
        value = -1
    if value < 1:
        raise DataError(f"`limit` must be a positive number of samples, got {limit!r}")
    return value


def check_size(num_bytes: int, what: str, advice: str = "read fewer samples with limit=, or split the file") -> None:
    """Raise DataError, before any of it is allocated, if that many bytes are more than may be taken."""
    allowed = min(MAX_BYTES, memory_limit(torch.device("cpu")))
    if num_bytes > allowed:
        raise DataError(
            f"{what} would take {num_bytes / GIB:.1f} GiB in memory, at most {allowed / GIB:.1f} GiB may be used; "
            f"{advice}"
        )

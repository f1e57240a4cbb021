"""How a loader divides its data among processes, whatever it wraps: who reads what, and which samples are repeats."""

import copy
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import BatchSampler, DistributedSampler, IterableDataset

from neurocollapse.support.quiet import kept_random_state

_SAMPLERS = ("batch_sampler", "sampler", "_batch_sampler", "_sampler", "base_sampler")
_LOADERS = ("base_dataloader", "dataloader", "data_loader", "loader", "_dataloader", "_loader")


@dataclass(frozen=True)
class Share:
    """The part of a data set that a loader reads in this process.

    Attributes
    ----------
    rank, num_ranks : int
        Those of the sampler that divides the data; 0 of 1 where nothing does.
    num_unrepeated : int or None
        After so many samples, this process reads others again that some process has read, to even out the ranks. None
        if that is not known. Where nothing is repeated, it may be more than what the loader gives.
    num_total : int or None
        Samples of the whole data set, as far as the sampler knows it.
    """

    rank: int
    num_ranks: int
    num_unrepeated: int | None
    num_total: int | None

    @property
    def is_divided(self) -> bool:
        """Whether anything in the loader divides the data among processes."""
        return self.num_ranks > 1


def share_of(loader: Any) -> Share:
    """Find what divides the data of a loader among processes, and what it repeats.

    Looks through loaders, batch samplers and samplers that wrap others, and knows torch's DistributedSampler and those
    like it, and the loaders and samplers of accelerate. A sampler of another kind is asked for the indices of all
    ranks, without moving the random state, and believed only if no sample then counts twice.

    Examples
    --------
    >>> from torch.utils.data import DataLoader
    >>> data = list(range(5))
    >>> share_of(DataLoader(data, sampler=DistributedSampler(data, 2, rank=1)))
    Share(rank=1, num_ranks=2, num_unrepeated=2, num_total=5)
    """
    chain = _chain(loader, "", frozenset())
    if not chain:
        return Share(0, 1, None, _length(getattr(loader, "dataset", None)))
    share = _share(chain[-1].value)
    in_order = all(_keeps_order(link, chain[-1].value) for link in chain[:-1])
    return share if in_order else replace(share, num_unrepeated=None)


class _Link(NamedTuple):
    """An object inside a loader, and the name under which the one around it holds it."""

    name: str
    value: Any


def _chain(value: Any, name: str, seen: frozenset[int]) -> list[_Link]:
    """The objects from a loader to the one inside that divides the data; none where there is no such object."""
    if value is None or id(value) in seen or (name == "dataset" and not isinstance(value, IterableDataset)):
        return []
    if _divides(value):
        return [_Link(name, value)]
    for inner_name in (*_LOADERS, *_SAMPLERS, "dataset"):
        if found := _chain(getattr(value, inner_name, None), inner_name, seen | {id(value)}):
            return [_Link(name, value), *found]
    return []


def _divides(value: Any) -> bool:
    """Whether an object divides data among processes: a distributed sampler, or what accelerate makes of a loader."""
    names = set(_names(value))
    return {"num_replicas", "rank"} <= names or {"num_processes", "process_index"} <= names or _is_dispatcher(value)


def _names(value: Any) -> Iterable[str]:
    """The attributes of an object's own, not those that it passes on."""
    return getattr(value, "__dict__", {})


def _is_dispatcher(value: Any) -> bool:
    """Whether an object is a loader of accelerate's that reads in one process and hands the parts to the others."""
    return {"split_batches", "state", "base_dataloader"} <= set(_names(value))


def _share(divider: Any) -> Share:
    """The share of this process, from the object that divides the data."""
    if _is_dispatcher(divider):
        state, base = divider.state, divider.base_dataloader
        total = _length(getattr(base, "sampler", None) or base.dataset)
        size = base.batch_size or getattr(base.batch_sampler, "batch_size", None)
        rank, ranks = state.process_index, state.num_processes
        if total is None or size is None:
            return Share(rank, ranks, None, total)
        return Share(rank, ranks, _of_dispatched(total, size, divider.split_batches, rank, ranks), total)
    if "num_processes" in _names(divider):
        rank, ranks, size = divider.process_index, divider.num_processes, getattr(divider, "batch_size", None)
        inner = getattr(divider, "batch_sampler", None)
        total = _length(getattr(inner, "sampler", None) if inner is not None else getattr(divider, "dataset", None))
        if total is None or size is None:
            return Share(rank, ranks, None, total)
        block = size // ranks if getattr(divider, "split_batches", False) else size
        return Share(rank, ranks, _in_blocks(total, block, rank, ranks), total)
    total = _length(getattr(divider, "dataset", None))
    total = _length(getattr(divider, "lengths", None)) if total is None else total
    counts = None if total is None else _counts(divider, total)
    return Share(divider.rank, divider.num_replicas, counts[divider.rank] if counts else None, total)


def _of_dispatched(total: int, size: int, splits: bool, rank: int, ranks: int) -> int:
    """Unrepeated samples of a rank that gets its part of every large batch, the last of which is filled up."""
    whole = size if splits else size * ranks
    last = -(-(total % whole) // ranks)
    return total // whole * (whole // ranks) + min(last, max(0, total % whole - rank * last))


def _in_blocks(total: int, block: int, rank: int, ranks: int) -> int:
    """How many of the first `total` numbers lie in blocks that go to the ranks in turn."""
    cycles, rest = divmod(total, block * ranks)
    return cycles * block + min(block, max(0, rest - rank * block))


def _counts(sampler: Any, total: int) -> list[int] | None:
    """Unrepeated samples of every rank of a sampler like torch's; None if none of the usual orders explains it."""
    ranks, each = sampler.num_replicas, len(sampler)
    start = getattr(sampler, "start_index", 0)  # of torchelastic's sampler, which can continue in the middle
    in_turn = [min(each, len(range(start + rank, total, ranks))) for rank in range(ranks)]
    if type(sampler).__iter__ is DistributedSampler.__iter__:
        return in_turn
    one_by_one = [min(each, max(0, total - rank * each)) for rank in range(ranks)]
    indices = _indices_of_ranks(sampler)
    return next((counts for counts in (in_turn, one_by_one) if _counts_each_once(indices, counts, total)), None)


def _counts_each_once(indices: list[list[int]], counts: list[int], total: int) -> bool:
    """Whether the first samples of each rank are all different, and the others are repeats of them."""
    first = [index for rank, count in zip(indices, counts, strict=True) for index in rank[:count]]
    repeated = {index for rank, count in zip(indices, counts, strict=True) for index in rank[count:]}
    return len(first) == len(set(first)) <= total and repeated <= set(first)


def _indices_of_ranks(sampler: Any) -> list[list[int]]:
    """The indices that each rank reads, as a copy of the sampler gives them; none where it cannot."""
    ranks = []
    for rank in range(sampler.num_replicas):
        other = copy.copy(sampler)
        other.rank = rank
        ranks.append(_first(other, len(sampler)))
    return ranks


def _keeps_order(outer: _Link, divider: Any) -> bool:
    """Whether a loader or sampler gives the indices of the sampler inside that divides in their order."""
    if outer.name not in _SAMPLERS:  # a loader
        return bool(getattr(outer.value, "in_order", True)) or not getattr(outer.value, "num_workers", 0)
    if getattr(type(outer.value), "__iter__", None) is BatchSampler.__iter__:
        return True
    expected = _first(divider, None)
    given = _first(outer.value, len(expected) + 1)
    return bool(given) and given == expected[: len(given)]  # the last incomplete batch may be dropped


def _first(sampler: Any, most: int | None) -> list[int]:
    """The first indices that a sampler, or a batch sampler, gives, or all; none where it fails."""
    try:
        with random_states_kept():
            flat = (index for part in sampler for index in (part if isinstance(part, list | tuple) else [part]))
            return [int(index) for index in islice(flat, most)]
    except Exception:  # a sampler of the user's may raise anything
        return []


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put back the states of the random numbers that a sampler or data set may draw."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  # which samplers may draw from
    try:
        with kept_random_state():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002  # as above


def _length(value: Any) -> int | None:
    """How many samples something has, if it says so."""
    try:
        return len(value)
    except Exception:  # a length may be computed by the user's code
        return None

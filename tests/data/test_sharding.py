"""What divides a loader's data among processes is found through wrappers, and so is where its repeats begin."""

import importlib
import math
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
)

from neurocollapse.data.sharding import Share, share_of

SIZES = [(41, 2), (40, 2), (7, 3), (8, 3), (9, 3), (1, 2), (2, 3), (64, 4), (65, 4)]


def distributed(total: int, ranks: int, rank: int, **options: Any) -> "DistributedSampler[Any]":
    return DistributedSampler(list(range(total)), ranks, rank, **{"shuffle": False, **options})


class Passing:
    """Gives what another sampler gives."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


class Halves(Sampler[Any]):
    """A batch sampler of the user's own."""

    def __init__(self, base_sampler: Any) -> None:
        self.base_sampler = base_sampler

    def __iter__(self) -> Iterator[list[int]]:
        indices = list(self.base_sampler)
        half = math.ceil(len(indices) / 2)
        yield from (part for part in (indices[:half], indices[half:]) if part)


class Wrapped:
    """A loader around a loader."""

    def __init__(self, loader: Any, name: str) -> None:
        setattr(self, name, loader)
        self.inner = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.inner)


class Contiguous(Sampler[Any]):
    """Gives each rank a part in one piece, the last one filled up from the beginning."""

    def __init__(self, total: int, ranks: int, rank: int) -> None:
        self.dataset, self.num_replicas, self.rank = range(total), ranks, rank
        self.num_samples = math.ceil(total / ranks)

    def __iter__(self) -> Iterator[int]:
        indices = [index % len(self.dataset) for index in range(self.num_samples * self.num_replicas)]
        yield from indices[self.rank * self.num_samples : (self.rank + 1) * self.num_samples]

    def __len__(self) -> int:
        return self.num_samples


def loader(total: int, sampler: Any) -> "DataLoader[Any]":
    return DataLoader(list(range(total)), batch_size=4, sampler=sampler)  # type: ignore[arg-type]


def batched(total: int, batch_sampler: Any) -> "DataLoader[Any]":
    return DataLoader(list(range(total)), batch_sampler=batch_sampler)  # type: ignore[arg-type]


def accelerated(total: int, ranks: int, rank: int, **options: Any) -> Any:
    """What accelerate makes of a loader in one of several processes."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is an optional dependency")
    given = DataLoader(list(range(total)), batch_size=4, **options.pop("loader", {}))  # type: ignore[arg-type]
    accelerate.state.PartialState(cpu=True)
    prepared = accelerate.data_loader.prepare_data_loader(
        given, num_processes=ranks, process_index=rank, put_on_device=False, **options
    )
    prepared.rng_types = None  # which would be evened out among processes that are not there
    return prepared


def sharded(total: int, ranks: int, rank: int, **options: Any) -> Any:
    """A loader over one of accelerate's samplers."""
    data_loader = importlib.import_module("accelerate.data_loader")
    inner = BatchSampler(SequentialSampler(range(total)), 4, options.pop("drop_last", False))
    return batched(total, data_loader.BatchSamplerShard(inner, ranks, rank, **options))


class Stream(IterableDataset[int]):
    """Samples one after the other, with a length."""

    def __init__(self, total: int) -> None:
        self.total = total

    def __iter__(self) -> Iterator[int]:
        yield from range(self.total)

    def __len__(self) -> int:
        return self.total


def streamed(module: str, total: int, ranks: int, rank: int, **options: Any) -> "DataLoader[Any]":
    """A loader over a part of a stream."""
    shard = importlib.import_module(module).IterableDatasetShard
    given = shard(Stream(total), batch_size=4, num_processes=ranks, process_index=rank, **options)
    return DataLoader(given, batch_size=4)


def shard_sampler(total: int, ranks: int, rank: int) -> "DataLoader[Any]":
    sampler = importlib.import_module("transformers.trainer_pt_utils").ShardSampler
    return loader(total, sampler(range(total), 4, num_processes=ranks, process_index=rank))


def grouped(total: int, ranks: int, rank: int) -> "DataLoader[Any]":
    sampler = importlib.import_module("transformers.trainer_pt_utils").DistributedLengthGroupedSampler
    return loader(total, sampler(4, num_replicas=ranks, rank=rank, lengths=list(range(total))))


def with_loop(total: int, ranks: int, rank: int) -> "DataLoader[Any]":
    sampler = importlib.import_module("transformers.trainer_pt_utils").DistributedSamplerWithLoop
    return loader(total, sampler(range(total), 4, num_replicas=ranks, rank=rank, shuffle=False))


def of_timm(total: int, ranks: int, rank: int) -> "DataLoader[Any]":
    sampler = importlib.import_module("timm.data.distributed_sampler").OrderedDistributedSampler
    return loader(total, sampler(range(total), ranks, rank))


FOUND: dict[str, Callable[[int, int, int], Any]] = {
    "sampler": lambda n, p, r: loader(n, distributed(n, p, r)),
    "sampler that shuffles": lambda n, p, r: loader(n, distributed(n, p, r, shuffle=True)),
    "sampler in a batch sampler": lambda n, p, r: batched(n, BatchSampler(distributed(n, p, r), 4, False)),
    "sampler in samplers": lambda n, p, r: loader(n, Passing(Passing(distributed(n, p, r)))),
    "sampler in a batch sampler of another": lambda n, p, r: batched(
        n, BatchSampler(Passing(distributed(n, p, r)), 4, False)
    ),
    "batch sampler of the user's": lambda n, p, r: batched(n, Halves(distributed(n, p, r))),
    "batch sampler in a wrapper": lambda n, p, r: batched(n, Passing(BatchSampler(distributed(n, p, r), 4, False))),
    "batch sampler as sampler": lambda n, p, r: DataLoader(
        np.arange(n), sampler=BatchSampler(distributed(n, p, r), 4, False), batch_size=None
    ),
    **{
        f"wrapped as {name}": lambda n, p, r, name=name: Wrapped(Wrapped(loader(n, distributed(n, p, r)), name), name)
        for name in ("loader", "dataloader", "base_dataloader", "data_loader", "_loader", "_dataloader")
    },
    "sampler in one piece": lambda n, p, r: loader(n, Contiguous(n, p, r)),
    "sampler of timm": of_timm,
    "sampler of transformers": shard_sampler,
    "sampler of transformers that groups by length": grouped,
    "sampler of transformers with a loop": with_loop,
    "accelerate's sampler": sharded,
    "accelerate's sampler that splits": lambda n, p, r: sharded(n, p, r, split_batches=True) if 4 % p == 0 else None,
    "accelerate's loader": accelerated,
    "accelerate's loader, wrapped": lambda n, p, r: Wrapped(accelerated(n, p, r), "dataloader"),
    "accelerate's loader that splits": lambda n, p, r: (
        accelerated(n, p, r, split_batches=True, dispatch_batches=False) if 4 % p == 0 else None
    ),
    "accelerate's loader that shuffles": lambda n, p, r: accelerated(
        n, p, r, loader={"shuffle": True}, use_seedable_sampler=True, data_seed=3
    ),
    "accelerate's stream": lambda n, p, r: streamed("accelerate.data_loader", n, p, r),
    "accelerate's stream that splits": lambda n, p, r: (
        streamed("accelerate.data_loader", n, p, r, split_batches=True) if 4 % p == 0 else None
    ),
    "transformers' stream": lambda n, p, r: streamed("transformers.trainer_pt_utils", n, p, r),
}


def indices(given: Any) -> list[int]:
    return [int(index) for batch in given for index in torch.as_tensor(batch).reshape(-1)]


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize(("total", "ranks"), SIZES)
def test_the_first_samples_of_all_ranks_are_each_sample_once(name: str, total: int, ranks: int) -> None:
    counted = []
    for rank in range(ranks):
        given = FOUND[name](total, ranks, rank)
        if given is None:
            pytest.skip("accelerate splits only batches that all ranks get a part of")
        share = share_of(given)
        assert (share.rank, share.num_ranks, share.num_total, share.is_divided) == (rank, ranks, total, True)
        assert share.num_unrepeated is not None
        counted += indices(given)[: share.num_unrepeated]
    assert sorted(counted) == list(range(total))


@pytest.mark.parametrize("make", [
    lambda n, p, r: loader(n, distributed(n, p, r, drop_last=True)),
    lambda n, p, r: batched(n, BatchSampler(distributed(n, p, r), 4, True)),
    lambda n, p, r: batched(n, Passing(BatchSampler(distributed(n, p, r), 4, True))),
    lambda n, p, r: sharded(n, p, r, drop_last=True),
    lambda n, p, r: sharded(n, p, r, even_batches=False),
    lambda n, p, r: accelerated(n, p, r, even_batches=False),
], ids=["sampler", "batch sampler", "wrapped", "accelerate", "uneven", "uneven loader"])  # fmt: skip
@pytest.mark.parametrize(("total", "ranks"), SIZES)
def test_where_samples_are_left_out_none_counts_twice(make: Callable[..., Any], total: int, ranks: int) -> None:
    counted = []
    for rank in range(ranks):
        given = make(total, ranks, rank)
        found = share_of(given).num_unrepeated
        seen = indices(given)
        assert found is not None or not seen  # which cannot be told from a failing sampler
        counted += seen[:found]
    assert len(counted) == len(set(counted)) <= total


@pytest.mark.parametrize("total", range(1, 40))
@pytest.mark.parametrize(("ranks", "splits"), [(2, False), (2, True), (3, False), (4, True)])
def test_batches_that_one_process_hands_out_are_counted_once(total: int, ranks: int, splits: bool) -> None:
    base = DataLoader(list(range(total)), batch_size=4)  # type: ignore[arg-type]
    whole, counted = 4 if splits else 4 * ranks, []
    for rank in range(ranks):
        state = SimpleNamespace(process_index=rank, num_processes=ranks)
        given = SimpleNamespace(base_dataloader=base, state=state, split_batches=splits)
        share = share_of(given)
        assert (share.rank, share.num_ranks, share.num_total) == (rank, ranks, total)
        mine = []
        for start in range(0, total, whole):  # as accelerate cuts: what is missing comes from the first batch
            large = [index % total for index in range(start, min(start + whole, total))]
            part = math.ceil(len(large) / ranks)
            large += [index % total for index in range(part * ranks - len(large))]
            mine += large[rank * part : (rank + 1) * part]
        counted += mine[: share.num_unrepeated]
    assert sorted(counted) == list(range(total))


class Sorting(Passing):
    """Changes the order of what it wraps."""

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(self.sampler, reverse=True))


class Drawing(Sampler[Any]):
    """Gives other samples every time, from every generator there is."""

    def __init__(self, ranks: int, rank: int) -> None:
        self.dataset, self.num_replicas, self.rank = range(9), ranks, rank

    def __iter__(self) -> Iterator[int]:
        for _ in range(5):
            yield int(torch.randint(9, ())) + random.randrange(9) + np.random.randint(9)  # noqa: NPY002

    def __len__(self) -> int:
        return 5


def global_states() -> Any:
    return random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


UNKNOWN = {
    "another order": lambda: loader(41, Sorting(distributed(41, 2, 1))),
    "random samples": lambda: loader(9, Drawing(2, 1)),
    "no order among workers": lambda: DataLoader(
        range(41), sampler=distributed(41, 2, 1), num_workers=2, in_order=False  # type: ignore[arg-type]
    ),
    "a sampler that fails": lambda: loader(41, SimpleNamespace(sampler=distributed(41, 2, 1))),
    "a stream without length": lambda: SimpleNamespace(dataset=endless()),
}  # fmt: skip


def endless() -> Any:
    """A part of a stream that does not know its length."""
    stream = Stream(3)
    stream.num_processes, stream.process_index, stream.batch_size = 2, 1, 4  # type: ignore[attr-defined]
    stream.dataset = iter(())  # type: ignore[attr-defined]
    return stream


@pytest.mark.parametrize("make", UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_repeated_is_unknown_where_the_order_is(make: Callable[[], Any]) -> None:
    torch_state, states = torch.get_rng_state(), global_states()
    share = share_of(make())
    assert (share.rank, share.num_ranks, share.num_unrepeated, share.is_divided) == (1, 2, None, True)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert global_states() == states


def test_a_loader_that_nothing_divides_says_so() -> None:
    data = list(range(5))
    for given in (DataLoader(data), DataLoader(data, shuffle=True), DataLoader(data, sampler=RandomSampler(data))):  # type: ignore[arg-type]
        assert share_of(given) == Share(0, 1, None, 5)
    assert share_of(DataLoader(Subset(data, [1, 2]))) == Share(0, 1, None, 2)  # type: ignore[arg-type]
    for given in ([(1, 2)], iter([]), None, DataLoader(Stream(4).__class__(4))):
        assert not share_of(given).is_divided


def test_a_loader_that_wraps_itself_is_looked_through_once() -> None:
    given = SimpleNamespace()
    given.loader = given.dataloader = given
    assert share_of(given) == Share(0, 1, None, None)


def test_a_sampler_that_goes_on_in_the_middle_is_counted_from_there() -> None:
    elastic = importlib.import_module("torch.distributed.elastic.utils.data").ElasticDistributedSampler
    counted = []
    for rank in range(3):
        sampler = elastic(list(range(20)), num_replicas=3, rank=rank, start_index=6)
        counted += list(sampler)[: share_of(loader(20, sampler)).num_unrepeated]
    assert sorted(counted) == list(range(6, 20))

"""One of several processes of which one fails, is interrupted, or brings something else: python … RANK WORLD FOLDER.

Writes what came of each call to FOLDER/RANK.json.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

import neurocollapse as nc

RANK, WORLD = int(sys.argv[1]), int(sys.argv[2])
DATA = TensorDataset(torch.randn(41, 6, generator=torch.Generator().manual_seed(0)), torch.arange(41) % 4)


def network(seed: int = 0) -> nn.Linear:
    """A model whose weights follow from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(6, 5)


class OddOrder(DistributedSampler):
    """A sampler whose padding nobody can recognise: it repeats samples at its beginning."""

    def __iter__(self) -> Iterator[int]:
        return iter([0, 1, 2, 3, *super().__iter__()])

    def __len__(self) -> int:
        return 4 + super().__len__()


class Batches:
    """The batches of one rank, with something that happens in one of them."""

    def __init__(self, rank: int, happen: Callable[[], None] = lambda: None) -> None:
        self.rank, self.happen = rank, happen

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        for index, batch in enumerate(parts(self.rank)):
            if index == 2:
                self.happen()
            yield batch


def parts(rank: int) -> DataLoader:
    """What a rank should read."""
    return DataLoader(DATA, 4, sampler=DistributedSampler(DATA, WORLD, rank, shuffle=False))


def measured(model: nn.Module, loader: Any, *, function: Any = nc.analyze, **options: Any) -> dict[str, Any]:
    """What a call gives, raises, and warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", nc.SampleWarning)
        try:
            found = function(model, loader, progress=False, **options)
            found = found if function is nc.analyze else nc.measure(found)
            said: dict[str, Any] = {"value": float(found.compression[0]), "count": found.attrs["num_samples"]}
        except (Exception, KeyboardInterrupt) as error:
            said = {"error": type(error).__name__, "message": str(error)}
    return said | {"warnings": [str(one.message) for one in caught]}


def fail() -> None:
    """What a rank does that cannot read its data."""
    raise OSError("broken disk")


def interrupt() -> None:
    """What Ctrl-C does."""
    raise KeyboardInterrupt


def calls(rank: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every call, in the order of all ranks; each that goes wrong is followed by one that must not."""
    together = {"distributed": True}
    good = lambda: measured(network(), parts(rank), **together)  # noqa: E731
    yield "good", good()
    batches = Batches(rank, fail) if rank == 1 else parts(rank)
    yield "fails", measured(network(), batches, **together)
    yield "after fails", good()
    yield "fails in collect", measured(network(), batches, function=nc.collect, **together)
    yield "wrong option", measured(network(), parts(rank), **({"layers": "nope"} if rank == 1 else {}), **together)
    yield "after wrong option", good()
    if rank == 1:
        yield "interrupted", measured(network(), Batches(rank, interrupt), **together)
    yield "peer of interrupted", good()
    yield "after interrupted", good()
    yield "other weights", measured(network(int(rank == 1)), parts(rank), **together)
    normalised = nn.Sequential(network(), nn.BatchNorm1d(5))
    normalised[1].running_mean += float(rank == 1)
    yield "other buffers", measured(normalised, parts(rank), **together)
    yield "the same batches", measured(network(), [DATA.tensors], **together)
    yield "undivided", measured(network(), DataLoader(DATA, 4), **together)
    yield "undivided and mixed", measured(network(), DataLoader(DATA, 4, shuffle=True), **together)
    odd = BatchSampler(OddOrder(DATA, WORLD, rank, shuffle=False), 4, drop_last=False)
    yield "repeats at the beginning", measured(network(), DataLoader(DATA, batch_sampler=odd), **together)
    own = [tuple(part[rank::WORLD] for part in DATA.tensors)]
    yield "parts of one's own", measured(network(), own, **together)
    yield "not asked for", measured(network(), parts(rank))
    yield "second pass", measured(network(), parts(rank), quantities=["compression", "nc1"], **together)


def main(rank: int, folder: Path) -> None:
    """Make every call, and write what came of it."""
    meet = f"file://{folder / 'meet'}"
    dist.init_process_group("gloo", meet, rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    (folder / f"{rank}.json").write_text(json.dumps(dict(calls(rank))))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(RANK, Path(sys.argv[3]))

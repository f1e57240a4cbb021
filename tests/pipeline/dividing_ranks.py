"""One of several processes that divide 41 samples in many ways: python … RANK WORLD FOLDER.

Writes what was counted of each way to FOLDER/RANK.json.
"""

import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

import neurocollapse as nc

TOTAL = 41
INPUTS = torch.randn(TOTAL, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
INPUTS[0] += 50  # what padding repeats first weighs most
DATA = TensorDataset(INPUTS, torch.arange(TOTAL) % 4)


def network() -> nn.Module:
    """The same model everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(6, 5).double()


def sampler(world: int, rank: int, **options: Any) -> "DistributedSampler[Any]":
    """The part of one rank, in order unless asked otherwise."""
    return DistributedSampler(DATA, world, rank, **{"shuffle": False, **options})


def accelerated(world: int, rank: int, *, batch_size: int = 4, **options: Any) -> Any:
    """What accelerate makes of a loader in a live group."""
    accelerate = importlib.import_module("accelerate")
    accelerate.state.PartialState(cpu=True)
    given = DataLoader(DATA, batch_size=batch_size, shuffle=options.pop("shuffle", False))
    return accelerate.data_loader.prepare_data_loader(
        given, torch.device("cpu"), num_processes=world, process_index=rank, put_on_device=True, **options
    )


def batched(world: int, rank: int, **options: Any) -> Any:
    """A sampler inside of a batch sampler."""
    return DataLoader(DATA, batch_sampler=BatchSampler(sampler(world, rank, **options), 4, drop_last=False))


WAYS: dict[str, Callable[[int, int], Any]] = {
    "a sampler": lambda world, rank: DataLoader(DATA, 4, sampler=sampler(world, rank)),
    "a sampler that shuffles": lambda world, rank: DataLoader(DATA, 4, sampler=sampler(world, rank, shuffle=True)),
    "a batch sampler": batched,
    "a batch sampler that shuffles": lambda world, rank: batched(world, rank, shuffle=True, seed=3),
    "batches of one": lambda world, rank: DataLoader(DATA, 1, sampler=sampler(world, rank)),
    "accelerate": accelerated,
    "accelerate, shuffled": lambda world, rank: accelerated(
        world, rank, shuffle=True, use_seedable_sampler=True, data_seed=3
    ),
    "accelerate, in large batches": lambda world, rank: accelerated(world, rank, batch_size=16),
    "accelerate, split batches": lambda world, rank: accelerated(
        world, rank, batch_size=4 * world, split_batches=True, dispatch_batches=False
    ),
    "accelerate, handed out": lambda world, rank: accelerated(world, rank, dispatch_batches=True),
    "accelerate, handed out and split": lambda world, rank: accelerated(
        world, rank, batch_size=4 * world, dispatch_batches=True, split_batches=True
    ),
    "accelerate, uneven": lambda world, rank: accelerated(world, rank, even_batches=False),
}


def measured(loader: Any) -> dict[str, Any]:
    """What a pass over a loader counts, or says."""
    try:
        found = nc.analyze(network(), loader, distributed=True, progress=False, precision="double")
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"count": found.attrs["num_samples"], "value": float(found.compression[0])}


def main(rank: int, world: int, folder: Path) -> None:
    """Divide the samples in every way, and write what was counted."""
    warnings.simplefilter("ignore")
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # read by accelerate, which uses the group there is
    meet = f"file://{folder / 'meet'}"
    dist.init_process_group("gloo", meet, rank=rank, world_size=world, timeout=timedelta(seconds=200))
    found = {name: measured(make(world, rank)) for name, make in WAYS.items()}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

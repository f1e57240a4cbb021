"""One of two processes that train one network under DistributedDataParallel: started by the tests, each on its own.

Arguments: rank, number of ranks, folder to meet and to write in.
"""

import os
import random
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

EPOCHS = 3
CASES: dict[str, dict[str, Any]] = {"single": {}, "double": {"precision": "double"}, "batch norm": {}}
"""With batch normalisation the ranks have running statistics of their own, and thus no common numbers."""
OPTIONS: dict[str, Any] = {"layers": ["leaves", "penultimate"], "quantities": "compression, geometry, nc1, margin"}
NUM_PROBES = 22
PROBES_IN_BATCH = 5


def build(case: str) -> nn.Module:
    """Dropout and perhaps batch normalisation, which tracking could disturb."""
    norm = nn.BatchNorm1d if case == "batch norm" else nn.LayerNorm
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), norm(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3))
    return model.double() if case == "double" else model


def samples(case: str, count: int) -> TensorDataset:
    """Three classes with different centres."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    centres = torch.randn(3, 6, generator=generator)
    inputs = centres[labels] + 0.5 * torch.randn(count, 6, generator=generator)
    return TensorDataset(inputs.double() if case == "double" else inputs, labels)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Weights, buffers, gradients, moments of the optimizer, and random states."""
    moments = [torch.as_tensor(part) for one in optimizer.state.values() for part in one.values()]
    gradients = [parameter.grad for parameter in model.parameters()]
    numpy = torch.from_numpy(np.random.get_state()[1].astype(np.int64))  # noqa: NPY002  # what augmentations draw from
    return [*model.state_dict().values(), *gradients, *moments, torch.get_rng_state(), numpy, torch.rand(3)]


def trained(case: str, rank: int, *, run: Path | None = None, weights: Path | None = None) -> list[Tensor]:
    """Train under DDP, and record after each epoch if there is a file for it."""
    import neurocollapse as nc

    torch.manual_seed(rank)
    random.seed(rank)
    np.random.seed(rank)  # noqa: NPY002  # the state that augmentations draw from
    model = nn.parallel.DistributedDataParallel(build(case))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    data = samples(case, 60)
    sampler: Any = DistributedSampler(data, seed=1)
    loader = DataLoader(data, 8, sampler=sampler)
    probes = samples(case, NUM_PROBES)
    probe_sampler: Any = DistributedSampler(probes, shuffle=False)
    tracker = None
    if run is not None:
        tracker = nc.track(
            model, DataLoader(probes, PROBES_IN_BATCH, sampler=probe_sampler), path=run, distributed=True,
            alarms=["compression@last < -1"], **CASES[case], **OPTIONS,
        )  # fmt: skip
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for inputs, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        if tracker is not None:
            tracker.record(epoch, accuracy=0.5)
            assert model.training
            if rank == 0 and weights is not None:
                torch.save(model.module.state_dict(), weights.with_name(f"{weights.name}.{epoch}"))
    return everything(model, optimizer)


def main(rank: int, world_size: int, folder: Path) -> None:
    """Train every case without and with a tracker; each rank writes what it ends with."""
    import neurocollapse as nc

    warnings.simplefilter("ignore", nc.SampleWarning)  # some of the probe samples are few, and meant to be
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=60),
    )
    for case in CASES:
        if case == "batch norm":
            warnings.filterwarnings("ignore", "the models of the processes have different buffers")
        without = trained(case, rank)
        tracked = trained(case, rank, run=folder / f"{case}.nc", weights=folder / f"{case}.weights")
        torch.save({"without": without, "tracked": tracked}, folder / f"{case}.rank{rank}")
    distributed.destroy_process_group()
    os._exit(0)  # wrapped models keep the group, whose threads abort a process that ends while they free a tensor


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

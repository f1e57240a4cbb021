"""One of several processes that analyse one data set together: started by the tests, each in a process of its own.

Arguments: rank, number of ranks, folder to meet and to write in.
"""

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

CASES: dict[str, dict[str, Any]] = {
    "padded": {"num_samples": 11},
    "shuffled": {"num_samples": 11, "shuffle": True},
    "double": {"num_samples": 11, "precision": "double", "covariance": True},
    "one sample": {"num_samples": 1},
    "even": {"num_samples": 12},
    "in a batch sampler": {"num_samples": 11, "inside": True},
    "small batches": {"num_samples": 11, "batch_size": 1, "precision": "double"},
}


def hits(layer: Any, rows: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """How often the logits are right, class by class."""
    return lambda logits: torch.bincount(rows.labels[logits.argmax(1) == rows.labels], minlength=4)


def distances(layer: Any, rows: Any) -> torch.Tensor:
    """Σ‖z − μ_k‖ with the means of all ranks."""
    return (rows.features - layer.moments.mean[rows.labels]).norm(dim=1).sum()


def fully_sharded(model: nn.Module) -> nn.Module:
    """The model with its weights divided among the ranks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this wrapper is on its way out, but many runs still use it
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "FullyShardedDataParallel": fully_sharded,
}


def quantities() -> list[Any]:
    """What a second pass adds up."""
    from neurocollapse.metrics import Quantity

    return [
        Quantity(name="distances", of=lambda layer: layer.total(distances), gather=distances),
        Quantity(name="hits", of=lambda layer: layer.total(hits), gather=hits, needs="logits", dims=("layer", "class")),
        "compression_corrected",
        "compression_interval",
        "decay_slope_interval",
    ]


def build() -> nn.Module:
    """The same weights everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 160), nn.Tanh(), nn.Linear(160, 3))


def samples(num_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The last classes are rare, so that a rank may not see them."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.tensor([0, 1, 1, 2, 0, 0, 1, 2, 2, 3, 3, 3])[:num_samples]
    return torch.randn(12, 6, generator=generator)[:num_samples] + labels.unsqueeze(1), labels


def main(rank: int, world_size: int, folder: Path) -> None:
    """Run every case; rank 0 writes the results."""
    import neurocollapse as nc

    warnings.simplefilter("ignore", nc.SampleWarning)  # a dozen samples are few, and meant to be
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=60),
    )
    for name, case in CASES.items():
        options = {key: case[key] for key in ("precision", "covariance") if key in case}
        data = TensorDataset(*samples(case["num_samples"]))
        sampler: Any = DistributedSampler(data, shuffle=case.get("shuffle", False))
        loader = DataLoader(data, batch_size=case.get("batch_size", 4), sampler=sampler)
        if "inside" in case:
            loader = DataLoader(data, batch_sampler=BatchSampler(sampler, 4, drop_last=False))
        for _ in range(2):  # the second time from the file of this rank
            state = folder / f"{name}.state"
            moments = nc.collect(build(), loader, distributed=True, resume=state, progress=False, **options)
            dataset = nc.analyze(
                build(),
                loader,
                distributed=True,
                resume=state.with_suffix(".sums"),
                progress=False,
                quantities=quantities(),
                num_classes=4,
                **options,
            )
        if rank == 0:
            moments.save(folder / name)
            nc.save(dataset, folder / f"{name}.nc")
    for name, wrap in WRAPPERS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", nc.hooks.CaptureWarning)  # of the other process, which has the same samples
            moments = nc.collect(wrap(build()), [samples(12)], progress=False)
        if rank == 0:
            moments.save(folder / name)
    dist.destroy_process_group()
    os._exit(0)  # wrapped models keep the group, whose threads abort a process that ends while they free a tensor


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

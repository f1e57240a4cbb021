"""One of two processes that share a model: started by the tests, each in a process of its own.

Arguments: rank, folder to meet and to write in.
"""

import json
import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import neurocollapse as nc
from neurocollapse.hooks import weight_and_bias


def build() -> nn.Sequential:
    """A small perceptron, the same in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same data in every process."""
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(20, 6, generator=generator), torch.arange(20) % 4) for _ in range(3)]


class Gathers(nn.Module):
    """Computes with a DTensor that holds a part of every sample, or a part of the samples."""

    def __init__(self, axis: int, mesh: Any) -> None:
        super().__init__()
        self.axis, self.mesh = axis, mesh
        self.inner = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(distribute_tensor(x, self.mesh, [Shard(self.axis)])).full_tensor()


def compression(model: nn.Module, **options: Any) -> list[float] | str:
    """D of every layer, or the error."""
    try:
        return nc.analyze(model, batches(), progress=False, **options).compression.values.tolist()
    except nc.CaptureError as error:
        return str(error)


def stopping() -> Any:
    """A loader that is interrupted."""
    yield batches()[0]
    raise KeyboardInterrupt


def resumed(model: nn.Module, path: Path) -> list[float] | str:
    """D of a run that was interrupted in between."""
    try:
        nc.analyze(model, stopping(), progress=False, resume=path)
    except KeyboardInterrupt:
        return compression(model, resume=path)
    return "not interrupted"


def main(rank: int, folder: Path) -> None:
    """Write what this rank has found."""
    warnings.simplefilter("ignore")
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    mesh = init_device_mesh("cpu", (2,))
    columns = parallelize_module(build(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    head = parallelize_module(build(), mesh, {"2": ColwiseParallel(output_layouts=Replicate())})
    sharded = fully_shard(build(), mesh=mesh)
    found = {
        "columns": compression(columns),
        "columns, distributed": compression(columns, distributed=True),
        "one layer": compression(head, layers=["0"]),
        "whole": compression(build()),
        "fully_shard": compression(sharded, layers=["leaves"]),
        "fully_shard, resumed": resumed(sharded, folder / f"state{rank}"),
        "features in parts": compression(nn.Sequential(*build(), Gathers(1, mesh))),
        "samples in parts": compression(nn.Sequential(*build(), Gathers(0, mesh))),
    }
    sharded.reshard()
    found["is split"] = isinstance(sharded[0].weight, DTensor)
    found["weight"] = weight_and_bias(sharded[0])[0].tolist()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
    os._exit(0)  # torch's caches keep the group, whose threads abort a process that ends while they free a tensor


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

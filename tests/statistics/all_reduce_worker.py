"""One of three processes of the all-reduce tests: python all_reduce_worker.py RANK FOLDER.

Does everything that the tests look at in one start, because starting takes longer than the rest, and writes what came
of it to FOLDER/RANK.json and FOLDER/NAME.RANK.
"""

import datetime
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from neurocollapse.statistics import (
    ClassBatch,
    ClassMoments,
    LayerRecord,
    MomentAccumulator,
    MomentCollection,
    Reader,
    all_reduce,
)

WORLD = 3
NUM_CLASSES = 6
WIDTHS = {"narrow": 20, "wide": 150}
AWAY = 2.0
"""Seconds after which a rank that stays away is given up."""


def data() -> tuple[Tensor, Tensor]:
    """Features of deviation 1e-4 about distant class means; class 4 is collapsed and class 3 absent."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (301,), generator=generator)
    labels[::10], labels[5::10] = 4, 5
    noise = torch.randn(301, 150, generator=generator) * (labels != 4).unsqueeze(1)
    means = torch.randn(NUM_CLASSES, 150, generator=generator) + 10
    return means[labels] + 1e-4 * noise, labels


def collection(rows: Tensor, num_classes: int = NUM_CLASSES, **options: Any) -> MomentCollection:
    """The moments of some of the samples, in two layers."""
    features, labels = data()
    moments = {}
    for name, width in WIDTHS.items():
        accumulator = MomentAccumulator(num_classes, width, **options)
        if len(rows):
            accumulator.update(features[rows, :width], ClassBatch(labels[rows], num_classes))
        moments[name] = accumulator.moments()
    layers = {name: LayerRecord(name, depth, num_skipped=len(rows)) for depth, name in enumerate(moments)}
    return MomentCollection(moments, layers, {"source": "test"})


def with_reader(moments: MomentCollection, seed: int, *, bias: bool = True) -> MomentCollection:
    """The same moments, of which one layer is read by a linear layer."""
    generator = torch.Generator().manual_seed(seed)
    weight, offset = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((4, 150), (4,)))
    return replace(moments, readers={"wide": Reader(weight, offset if bias else None)})


def split(rank: int, scheme: str) -> Tensor:
    """The rows that a rank sees; every row is seen by one rank."""
    labels = data()[1]
    rows = torch.arange(len(labels))
    if scheme == "interleaved":
        return rows[rank::WORLD]
    if scheme == "one class on one rank":
        return rows[labels == 5] if rank == 1 else rows[labels != 5][rank // 2 :: 2]
    if scheme == "one rank has nothing":
        return rows[:0] if rank == 0 else rows[rank - 1 :: 2]
    raise ValueError(scheme)


SCHEMES = ("interleaved", "one class on one rank", "one rank has nothing")
OPTIONS: dict[str, dict[str, Any]] = {
    "single": {},
    "double": {"precision": "double"},
    "covariance": {"precision": "double", "covariance": True},
}


def outcome(action: Any) -> dict[str, Any]:
    """The error that an action ends with, and the seconds it took."""
    start = time.monotonic()
    try:
        action()
    except (RuntimeError, ValueError) as error:
        return {"error": type(error).__name__, "message": str(error), "seconds": time.monotonic() - start}
    return {"error": None, "seconds": time.monotonic() - start}


def reduce_everything(rank: int, folder: Path) -> None:
    """Reduce every split with every option; save what this rank gets."""
    for name, options in OPTIONS.items():
        for scheme in SCHEMES:
            all_reduce(collection(split(rank, scheme), **options)).save(folder / f"{name} {scheme}.{rank}")
    own = collection(split(rank, "interleaved"), NUM_CLASSES + rank)
    all_reduce(own).save(folder / f"classes.{rank}")
    nothing = MomentCollection({}) if rank == 0 else collection(split(rank, "one rank has nothing"), covariance=True)
    all_reduce(nothing).save(folder / f"layers.{rank}")
    for bias in (True, False):
        own = MomentCollection({}) if rank == 0 else with_reader(collection(split(rank, "interleaved")), 0, bias=bias)
        all_reduce(own).save(folder / f"reader {bias}.{rank}")


def refuse_everything(rank: int) -> dict[str, Any]:
    """What happens when ranks do not agree."""
    rows = split(rank, "interleaved")
    other = MomentCollection({f"layer{rank}": ClassMoments.empty(2, 3)})
    return {
        "other layers": outcome(lambda: all_reduce(other)),
        "other widths": outcome(lambda: all_reduce(MomentCollection({"fc": ClassMoments.empty(2, 3 + rank)}))),
        "covariance on one rank": outcome(lambda: all_reduce(collection(rows, covariance=rank == 2))),
        "other readers": outcome(lambda: all_reduce(with_reader(collection(rows), rank))),
        "no samples at all": outcome(lambda: all_reduce(MomentCollection({}))),
    }


def main(rank: int, folder: Path) -> None:
    """Everything, and at last a rank that stays away, and one that dies."""
    results: dict[str, Any] = {"without a group": outcome(lambda: all_reduce(collection(torch.arange(5))))}
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", store, rank=rank, world_size=WORLD, timeout=datetime.timedelta(seconds=60))
    pair = dist.new_group([0, 1], timeout=datetime.timedelta(seconds=AWAY))
    reduce_everything(rank, folder)
    results |= refuse_everything(rank)
    rows = torch.arange(301)[rank::2]
    if rank < 2:
        all_reduce(collection(rows), group=pair).save(folder / f"pair.{rank}")
    if rank == 0:
        results["a rank stayed away"] = outcome(lambda: all_reduce(collection(rows), group=pair))
    if rank == 1:
        time.sleep(2 * AWAY)
    dist.barrier()
    if rank == 2:
        os._exit(7)
    results["a rank died"] = outcome(lambda: all_reduce(collection(rows)))
    (folder / f"{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # the group cannot be taken down in order any more

"""Language models of GPT-2's shape: state, time per token over the forward pass, time of `measure`, and shards.

Tokens and their frequencies are drawn from Zipf's law, and each token's class is the one that comes next. Times are CPU
times of one thread.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from overhead import without_copying_weights
from ratios import Ratio, exponent
from shapes import language_model
from torch import Tensor

import neurocollapse as nc
from neurocollapse.statistics import ClassBatch, ClassMoments, MomentAccumulator, Reader

WARM_UP_TRIALS = 1
"""Batches that are not counted: they allocate the state."""


class Shape(NamedTuple):
    """A language model, and the batches that it runs on."""

    num_classes: int = 50_257
    width: int = 768
    depth: int = 12
    heads: int = 12
    sequences: int = 4
    length: int = 128
    trials: int = 5


CLASSES = (1000, 5000, 20_000, 50_000)


def streaming(shape: Shape, *, state_bytes: Any = 12, seed: int = 0, **options: Any) -> dict[str, Any]:
    """Forward with statistics of every block over the bare forward, the time that they add a token, and the state."""
    loader = _Batches(shape, seed)
    moments = nc.collect(
        loader.model,
        loader,
        layers="blocks",
        label_fn=nc.labels.next_token(),
        num_classes=shape.num_classes,
        progress=False,
        state_bytes=state_bytes,
        **options,
    )
    counted = slice(WARM_UP_TRIALS, None)
    streamed, bare = loader.streamed[counted], loader.bare[counted]
    added = sum(streamed) - sum(bare)
    tokens = len(bare) * shape.sequences * (shape.length - 1)
    return {
        **shape._asdict(),
        "state_bytes": state_bytes,
        "ratio": Ratio.of(streamed, bare).as_dict(),
        "bare_ms_per_token": 1e3 * sum(bare) / tokens,
        "added_us_per_token_and_layer": 1e6 * added / tokens / shape.depth,
        "moments_gib": sum(_bytes_of(one) for one in moments.values()) / 2**30,
    }


def sharded(shape: Shape, *, world_size: int = 2) -> list[dict[str, Any]]:
    """The same in several processes, each of which runs its own batches and keeps a part of the features."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, json.dumps(shape), folder, str(world_size)]
        ranks = [
            subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(world_size)
        ]
        outputs = [rank.communicate()[0] for rank in ranks]
    return [json.loads(output) for output in outputs]


def measuring(num_classes: int = 50_257, num_features: int = 768, *, equal: bool = False) -> dict[str, Any]:
    """Time of `measure` of one layer, with a classifier that reads it."""
    generator = torch.Generator().manual_seed(0)
    ranks = torch.arange(1, num_classes + 1)
    count = torch.full_like(ranks, 80) if equal else (350_000 // ranks).clamp(min=1)
    means = torch.randn(num_classes, num_features, generator=generator)
    moments = ClassMoments(count, means, torch.zeros_like(means).double(), num_features * count.double())
    reader = Reader(torch.randn(num_classes, num_features, generator=generator).double())
    start = time.process_time()
    nc.measure(nc.MomentCollection({"layer": moments}, readers={"layer": reader}))
    seconds = time.process_time() - start
    return {"num_classes": num_classes, "num_features": num_features, "equal": equal, "seconds": seconds}


def against_classes(
    classes: tuple[int, ...] = CLASSES, *, num_features: int = 256, rows: int = 2048, num_batches: int = 40
) -> dict[str, Any]:
    """Time of updates and of `measure` for more and more classes, with their exponents."""
    points = []
    for num_classes in classes:
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(rows, num_features, generator=generator)
        accumulator = MomentAccumulator(num_classes, num_features, state_bytes=12)
        start = 0.0
        for index in range(2 * num_batches):
            if index == num_batches:  # the first half has met most of the classes
                start = time.process_time()
            accumulator.update(features, ClassBatch(zipf(num_classes, (rows,), generator), num_classes))
        seconds = time.process_time() - start
        measure = measuring(num_classes, num_features)["seconds"]
        points.append(
            {"num_classes": num_classes, "us_per_sample": 1e6 * seconds / num_batches / rows, "measure": measure}
        )
    along = [float(point["num_classes"]) for point in points]
    return {
        "num_features": num_features,
        "points": points,
        "update_exponent": exponent(along, [point["us_per_sample"] for point in points]),
        "measure_exponent": exponent(along, [point["measure"] for point in points]),
    }


def zipf(num_classes: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Classes of which the k-th is drawn with a probability in proportion to 1/k."""
    total = (1 / torch.arange(1, num_classes + 1, dtype=torch.float64)).cumsum(0)
    return torch.searchsorted(total, total[-1] * torch.rand(shape, generator=generator, dtype=torch.float64))


class _Batches:
    """A loader that runs the bare model on the same batch after each that it has yielded."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape = shape
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same weights in all processes
            self.model = language_model(shape.num_classes, shape.width, shape.depth, shape.heads, shape.length)
        self.twin = without_copying_weights(self.model)
        self.streamed: list[float] = []
        self.bare: list[float] = []

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(WARM_UP_TRIALS + self.shape.trials):
            ids = zipf(self.shape.num_classes, (self.shape.sequences, self.shape.length), self.generator)
            start = time.process_time()
            yield {"input_ids": ids}
            middle = time.process_time()
            with torch.no_grad():
                self.twin(ids)
            self.streamed.append(middle - start)
            self.bare.append(time.process_time() - middle)


def _bytes_of(moments: ClassMoments) -> int:
    """Bytes of the large matrices of one layer."""
    return moments.reference.nbytes + moments.offset_sum.nbytes


def _main(shape: str, folder: str, world_size: str, rank: str) -> None:
    """One of several processes that share the features."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=int(rank), world_size=int(world_size)
    )
    print(json.dumps(streaming(Shape(*json.loads(shape)), seed=int(rank), distributed="shard")))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:])

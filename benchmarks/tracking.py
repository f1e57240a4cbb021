"""Cost of following a training: a record over the bare forward passes of its probe set, and a share of wall time.

A record is what `tracker.record` does: all passes that the quantities need, the dataset, and the file. Records and
bare passes alternate in one process and are compared pair by pair, in CPU time of one thread. The share of wall time is
that of a training that asks for `every="5%"`, on the clock, as the tracker itself measures it.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ratios import Ratio
from shapes import perceptron, resnet18
from torch import Tensor, nn

import neurocollapse as nc

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Case:
    """A model and a probe set of a tenth of a training set."""

    name: str
    build: Callable[[], nn.Module]
    batch: tuple[int, ...]
    num_batches: int
    target: float = 1.10
    options: dict[str, Any] = field(default_factory=dict)
    pairs: int = 5


@dataclass(frozen=True)
class Share:
    """A training of some seconds that is to spend a share of them on records."""

    seconds: float = 60.0
    every: str = "5%"
    least: float = 0.04
    most: float = 0.06


def cases() -> list[Case]:
    """Probe sets of a tenth of ten thousand images, and of MNIST."""
    blocks = {"layers": ["stem", "blocks.*"], "pool": "mean", "quantities": "compression"}
    return [
        Case("ResNet-18 64 px, 1,024 images, D of 9 layers", resnet18, (32, 3, 64, 64), 32, options=blocks),
        Case("the same, default quantities", resnet18, (32, 3, 64, 64), 32, options=blocks | {"quantities": None}),
        Case(
            "MLP 784–1024×9–10, 6,144 images, D of 10 layers",
            perceptron,
            (256, 784),
            24,
            options={"layers": "linear", "quantities": "compression"},
        ),
    ]


def measure(case: Case) -> dict[str, Any]:
    """Paired CPU times of records and of bare forward passes."""
    model, probe = case.build(), _batches(case)
    with tempfile.TemporaryDirectory() as folder:
        tracker = nc.track(model, probe, path=Path(folder) / "run.nc", progress=False, **case.options)
        records, bare = [], []
        for step in range(1 + case.pairs):
            records.append(_seconds(lambda step=step: tracker.record(step)))
            bare.append(_seconds(lambda: _forward(model, probe)))
    ratio = Ratio.of(records[1:], bare[1:])  # the first one makes the file, and warms up
    return {"case": case.name, "ratio": ratio.as_dict(), "target": case.target, "bare_seconds": min(bare)}


def measure_share(share: Share) -> dict[str, Any]:
    """Which share of its wall time a training spends on records."""
    model = perceptron(256, 4)
    inputs, labels = torch.randn(128, 784), torch.randint(10, (128,))
    probe = [(torch.randn(256, 784), torch.arange(256) % 10) for _ in range(8)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tracker = nc.track(model, probe, every=share.every, progress=False, layers="linear", quantities="compression")
    start, step = time.monotonic(), 0
    while (elapsed := time.monotonic() - start) < share.seconds:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        tracker.record(step)
        step += 1
    found = tracker.seconds / elapsed
    return {"seconds": elapsed, "steps": step, "records": tracker.num_records, "share": found}


def _batches(case: Case) -> Batches:
    """Random inputs and labels."""
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(case.batch, generator=generator), torch.randint(10, case.batch[:1], generator=generator))
        for _ in range(case.num_batches)
    ]


def _forward(model: nn.Module, probe: Batches) -> None:
    """The bare forward passes."""
    with torch.no_grad():
        for inputs, _ in probe:
            model(inputs)


def _seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start

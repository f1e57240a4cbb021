"""Processor time and memory of what is called once: nearest means, pairs of classes, verifications, a tiny analysis.

    python benchmarks/others.py NAME    # one case, in this process, as JSON

Run so with PYTHONPATH at another checkout, a case measures that one: it uses public names alone.
"""

import json
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import neurocollapse as nc
from neurocollapse import metrics, probes
from neurocollapse import statistics as moments_of


class Case(NamedTuple):
    """Something that is made once, what is called with it, how often, and the target in seconds."""

    name: str
    make: Callable[[], Any]
    call: Callable[[Any], Any]
    repeats: int
    target: float


def nearest() -> tuple[Any, ...]:
    """5,000 samples of 1,000 classes, 2,048 features: five of a class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5000) % 1000
    features = torch.randn(1000, 2048, generator=generator)[labels] + torch.randn(5000, 2048, generator=generator)
    return features, labels, features[:1], labels[:1]


def classes(num_classes: int, num_features: int) -> nc.ClassMoments:
    """Moments of two samples of each class."""
    generator = torch.Generator().manual_seed(0)
    running = moments_of.MomentAccumulator(num_classes, num_features)
    for _ in range(2):
        for rows in torch.arange(num_classes).split(500):
            batch = moments_of.ClassBatch(rows, num_classes)
            running.update(torch.randn(len(rows), num_features, generator=generator), batch)
    return running.moments()


def tiny() -> tuple[nn.Module, list[Any]]:
    """Three layers and one batch."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), [(torch.randn(12, 8), torch.arange(12) % 3)]


def linear_network(width: int) -> tuple[Any, ...]:
    """Four random weights, and 200 samples of ten classes."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(width, width)] * 3 + [(10, width)]
    weights = [torch.randn(shape, generator=generator).double() / width**0.5 for shape in shapes]
    return weights, torch.randn(200, width, generator=generator).double(), torch.arange(200) % 10


CASES = (
    Case(
        "nearest class mean, K = 1000, d = 2048, N = 5000",
        nearest,
        lambda x: probes.nearest_class_mean_accuracy(*x),
        1,
        0.9,
    ),
    Case("separation, K = 8000, d = 512", lambda: classes(8000, 512), metrics.separation, 1, 0.9),
    Case("measure, K = 1000, d = 65,536", lambda: classes(1000, 65536), lambda x: nc.measure({"layer": x}), 1, 5.0),
    Case("analyze, 3 layers of 8 units, one batch", tiny, lambda x: nc.analyze(*x, progress=False), 100, 0.004),
    Case("verify, L = 4, d = 500", lambda: linear_network(500), lambda x: nc.verify(*x), 3, 0.37),
    Case("verify, L = 4, d = 1000", lambda: linear_network(1000), lambda x: nc.verify(*x), 3, 2.3),
    Case("verify, L = 4, d = 2000", lambda: linear_network(2000), lambda x: nc.verify(*x), 1, 10.0),
)


def measure(case: Case) -> dict[str, Any]:
    """A case in a process of its own."""
    command = [sys.executable, __file__, case.name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"case": case.name, "target": case.target} | json.loads(output)


def measured_here(case: Case) -> dict[str, float]:
    """Median processor time of a call after one that does not count, and what it adds to the peak of memory."""
    torch.set_num_threads(1)
    given, taken = case.make(), []
    before = _peak()
    for _ in range(case.repeats + (case.repeats > 1)):
        start = time.process_time()
        case.call(given)
        taken.append(time.process_time() - start)
    return {"seconds": statistics.median(taken[-case.repeats :]), "peak_gib": _peak() - before}


def _peak() -> float:
    """The peak of this process's memory in GiB; NaN where the system does not say (Linux does)."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) / 2**20 if found else 0.0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(measured_here(next(case for case in CASES if case.name == sys.argv[1]))))

"""Time and memory of the running statistics against samples, features, classes and layers.

Time is that of `MomentAccumulator.update` alone, in nanoseconds an element (one feature of one sample), the median over
batches; memory is the bytes of the state. An exponent of 1 means proportional.
"""

import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

import torch
from ratios import exponent

from neurocollapse.statistics import ClassBatch, MomentAccumulator

ELEMENTS_PER_BATCH = 2**18
MIN_ROWS = 64
WARM_UP_BATCHES = 4


class Size(NamedTuple):
    """A run to be timed: batches of at least MIN_ROWS samples and ELEMENTS_PER_BATCH elements."""

    num_batches: int = 48
    num_features: int = 1024
    num_classes: int = 10
    num_layers: int = 1


AXES: dict[str, list[Size]] = {
    "num_batches": [Size(num_batches=count) for count in (32, 128, 512)],
    "num_features": [Size(num_features=width) for width in (256, 1024, 4096, 16384, 65536)],
    "num_classes": [Size(num_classes=count) for count in (10, 100, 1000, 10000)],
    "num_layers": [Size(num_layers=count) for count in (1, 4, 16)],
}

PEAK_MEMORY = """
import re, torch
from neurocollapse.statistics import ClassBatch, MomentAccumulator

def peak():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1])

start = peak()
accumulator = MomentAccumulator({classes}, {features})
for batch in range(4):
    accumulator.update(torch.randn(64, {features}), ClassBatch(torch.arange(64) % {classes}, {classes}))
accumulator.moments().scatter
print((peak() - start) * 1024)
"""
"""Linux counts the peak of a process's own memory here; what getrusage says includes its parent's."""


def measure(axis: str, sizes: list[Size]) -> dict[str, Any]:
    """Time and memory along one axis, with the exponents of the time for a fixed number of samples and of the state."""
    points = [_measured(size) for size in sizes]
    along = [float(getattr(size, axis)) for size in sizes]
    return {
        "axis": axis,
        "points": points,
        "time_exponent": exponent(along, [point["seconds"] / point["batch_size"] for point in points]),
        "state_exponent": exponent(along, [point["state_bytes"] for point in points]),
    }


def peak_memory(num_classes: int = 1000, num_features: int = 65536) -> dict[str, Any]:
    """Memory that four batches and the results add to a fresh process (Linux only)."""
    code = PEAK_MEMORY.format(classes=num_classes, features=num_features)
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return {"num_classes": num_classes, "num_features": num_features, "peak_bytes": int(output)}


def _measured(size: Size) -> dict[str, Any]:
    """CPU time of all updates, the median time an element, and the state's bytes."""
    generator = torch.Generator().manual_seed(0)
    rows = max(MIN_ROWS, ELEMENTS_PER_BATCH // size.num_features)
    features = torch.randn(rows, size.num_features, generator=generator)
    layers = [MomentAccumulator(size.num_classes, size.num_features) for _ in range(size.num_layers)]
    times = []
    for _ in range(WARM_UP_BATCHES + size.num_batches):
        batch = ClassBatch(torch.randint(size.num_classes, (rows,), generator=generator), size.num_classes)
        start = time.process_time()
        for accumulator in layers:
            accumulator.update(features, batch)
        times.append(time.process_time() - start)
    counted = times[WARM_UP_BATCHES:]
    state = [tensor for accumulator in layers for tensor in accumulator.state().values()]
    return {
        **size._asdict(),
        "batch_size": rows,
        "seconds": sum(counted),
        "nanoseconds_per_element": 1e9 * statistics.median(counted) / (features.numel() * size.num_layers),
        "state_bytes": sum(tensor.numel() * tensor.element_size() for tensor in state),
    }

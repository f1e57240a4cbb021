"""Time of a step of matrix completion: compressed over full side by side, and against the number of observed entries.

Both networks are given the same few steps: they need about as many in all (the experiment matrix-completion compares
these), so the quotient of the step times is that of the runs. One thread: OMP_NUM_THREADS=1.
"""

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from neurocollapse.data.synthetic import low_rank_target
from neurocollapse.lowrank import (
    Completion,
    Compressed,
    Factors,
    compress,
    compress_spectral,
    first_gradient,
    observe,
    recover,
)
from neurocollapse.models.linear import linear_weights

TARGET = 1 / 6
"""The compressed run takes at most this part of the full one's time."""

ENTRIES = (500_000, 1_000_000, 2_000_000)
NUM_FACTORS = 5
DEPTH, SCALE, OUTER_RATE = 3, 1e-3, 0.01

Row = dict[str, Any]


def compressed_over_full(size: int = 1000, rank: int = 5, *, fraction: float = 0.2, pairs: int = 3) -> Row:
    """Quotient of step times, median of interleaved pairs; compressing itself is counted as `setup_seconds`."""
    seen, _ = observe(low_rank_target(size, size, rank), fraction, seed=1)
    problem = Completion(seen, reduction="half_mean")
    full = linear_weights([size] * (DEPTH + 1), "orth", SCALE, seed=2)
    small = compress(full, rank, gradient=first_gradient(problem, full))
    seconds_per_step(problem, small, 2)
    rows = [(seconds_per_step(problem, small, 40), seconds_per_step(problem, full, 2)) for _ in range(pairs)]
    quotients = [small_time / full_time for small_time, full_time in rows]
    return {
        "size": size,
        "rank": rank,
        "num_entries": len(seen),
        "compressed_ms": 1e3 * statistics.median(row[0] for row in rows),
        "full_ms": 1e3 * statistics.median(row[1] for row in rows),
        "ratio": statistics.median(quotients),
        "target": TARGET,
    }


def against_entries(size: int = 10_000, entries: Sequence[int] = ENTRIES) -> Row:
    """Time of a compressed step for growing numbers of observed entries, and the power with which it grows."""
    points = []
    for count in entries:
        problem, small = large_problem(size, count / size**2)
        seconds_per_step(problem, small, 1)
        times = [seconds_per_step(problem, small, 3) for _ in range(3)]
        points.append({"num_entries": len(problem.observations), "ms": 1e3 * statistics.median(times)})
    first, last = points[0], points[-1]
    power = math.log(last["ms"] / first["ms"]) / math.log(last["num_entries"] / first["num_entries"])
    return {"size": size, "points": points, "exponent": power}


def large_problem(size: int, fraction: float) -> tuple[Completion, Compressed]:
    """A target of low rank that is never formed, and a network of its leading directions."""
    generator = torch.Generator().manual_seed(0)
    target = Factors(*torch.randn(2, size, NUM_FACTORS, dtype=torch.float64, generator=generator))
    problem = Completion(observe(target, fraction, max_hidden=1000)[0], reduction="half_mean")
    return problem, compress_spectral(problem.surrogate(), 2 * NUM_FACTORS, depth=DEPTH, scale=SCALE)


def seconds_per_step(problem: Completion, network: Any, num_steps: int) -> float:
    """CPU time of a step."""
    start = time.process_time()
    settings = {"learning_rate": 1e-3, "outer_rate": OUTER_RATE, "every": num_steps}
    recover(problem, network, num_steps=num_steps, **settings)
    return (time.process_time() - start) / num_steps


def peak_memory(size: int = 10_000, fraction: float = 0.05, num_steps: int = 5) -> Row:
    """Peak memory of a whole completion in a process of its own, in bytes."""
    command = [sys.executable, __file__, str(size), str(fraction), str(num_steps)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"size": size, "fraction": fraction, "peak_bytes": int(shown)}


def main(size: int, fraction: float, num_steps: int) -> None:
    """Complete, and print the peak resident memory of this process, as Linux tells it.

    That of `resource.getrusage` is no less than the memory of the process that began this one.
    """
    torch.set_num_threads(1)
    problem, small = large_problem(size, fraction)
    seconds_per_step(problem, small, num_steps)
    status = Path("/proc/self/status").read_text()
    print(1024 * int(status.partition("VmHWM:")[2].split()[0]))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))

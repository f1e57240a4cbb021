"""Time of a gradient-descent step of a deep linear network over the time of its matrix products alone.

Prints JSON: the ratio for each size, the median of interleaved pairs. One thread: OMP_NUM_THREADS=1.
"""

import json
import statistics
import time
from collections.abc import Callable

import torch

from neurocollapse.data.synthetic import balanced_labels, near_orthonormal, one_hot
from neurocollapse.models.linear import linear_weights
from neurocollapse.train.squared_error import LinearEngine, Objective

SIZES = ((50, 30, 5), (128, 120, 4), (256, 250, 4), (512, 500, 3))
NUM_CLASSES = 10
PAIRS = 15


def main() -> None:
    """Measure every size and print the ratios."""
    results = [{"width": width, "samples": n, "depth": L, "ratio": ratio(width, n, L)} for width, n, L in SIZES]
    print(json.dumps({"benchmark": "descent_step_over_products", "threads": torch.get_num_threads(), "sizes": results}))


def ratio(width: int, num_samples: int, depth: int) -> float:
    """Median over interleaved pairs of (step time) / (products' time)."""
    engine = build(width, num_samples, depth)
    repeats = max(3, int(2e9 / (width * width * num_samples * depth)) // 10)

    def products() -> None:
        weights, forward, pulled = engine.parameters, engine.forward, engine.pulled
        for layer, weight in enumerate(weights):
            torch.mm(weight, forward[layer], out=forward[layer + 1])
        error = engine.error
        for layer in reversed(range(len(weights))):
            if layer:
                torch.mm(weights[layer].T, error, out=pulled[layer])
            torch.mm(error, forward[layer].T, out=gradients[layer])
            error = pulled[layer]

    def step() -> None:
        engine.loss()
        engine.update(1e-9, 1e-3)

    gradients = [torch.empty_like(weight) for weight in engine.parameters]
    seconds(products, 2), seconds(step, 2)
    return round(statistics.median(seconds(step, repeats) / seconds(products, repeats) for _ in range(PAIRS)), 3)


def build(width: int, num_samples: int, depth: int) -> LinearEngine:
    """A network of square hidden layers on orthonormal data."""
    inputs = near_orthonormal(num_samples, width)
    targets = one_hot(balanced_labels(NUM_CLASSES, num_samples // NUM_CLASSES))
    weights = linear_weights([width] * depth + [NUM_CLASSES], "orth", 0.3)
    return LinearEngine(weights, inputs, targets, Objective.of("half_sum", 1.0, targets))


def seconds(work: Callable[[], None], repeats: int) -> float:
    """CPU seconds of `repeats` calls."""
    start = time.process_time()
    for _ in range(repeats):
        work()
    return time.process_time() - start


if __name__ == "__main__":
    with torch.no_grad():
        main()

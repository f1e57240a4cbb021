"""Time of training with a weight tracker over training without one.

Four numbers a case: `while training` (the loop alone, copies and the analyses that fall into it), `in all` (with the
analysis of what is left, at `to_dataset`), the bare step, and one matrix product a weight. The copying is what training
waits for when the tracker has memory to put the analysis off; the total is what the user pays. The product is a floor:
no spectrum is had for less than one product of the weight with known singular vectors, so where the product alone is
dearer than what the target leaves, no analysis can reach the target.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import xarray as xr
from ratios import Ratio
from torch import nn

from neurocollapse.data.synthetic import low_rank_target
from neurocollapse.dynamics import WeightTracker
from neurocollapse.models.linear import DeepLinear, linear_weights
from neurocollapse.train.descent import descend

BATCH_VALUES = 2**21
"""Entries multiplied at once, 16 MiB, as the tracker analyses them; and copies, so that they stay in the cache."""
MOST_COPIES = 100
Training = Callable[[WeightTracker | None, int], None]


@dataclass(frozen=True)
class Case:
    """One kind of training and how often its weights are recorded."""

    name: str
    train: Training
    every: int
    num_steps: int
    target: float
    pairs: int = 7


def cases() -> list[Case]:
    """What the targets are about, and the same with fewer records."""
    return [
        Case("descend, L=3, d=30, closed form", closed_form, 1, 500, 1.25),
        Case("the same, every 50th step", closed_form, 50, 2000, 1.25),
        Case("torch.optim, L=3, d=30, autograd", autograd, 1, 500, 1.25),
        Case("the same, every 10th step", autograd, 10, 500, 1.25),
        Case("MLP of 5 layers of 1024, batch 256", perceptron(1024, 256), 50, 50, 1.10, pairs=5),
    ]


def measure(case: Case) -> dict[str, Any]:
    """Paired CPU times of training with and without a tracker."""
    case.train(None, min(case.num_steps, 5))  # warm up
    bare, during, total = [], [], []
    for _ in range(case.pairs):
        bare.append(seconds(lambda: case.train(None, case.num_steps)))
        tracker = WeightTracker(every=case.every, edge=3)
        during.append(seconds(lambda tracker=tracker: case.train(tracker, case.num_steps)))
        total.append(during[-1] + seconds(tracker.to_dataset))
    return {
        "case": case.name,
        "every": case.every,
        "step_us": min(bare) / case.num_steps * 1e6,
        "product_us": product_seconds(tracker.to_dataset()) * 1e6,
        "while_training": Ratio.of(during, bare).as_dict(),
        "in_all": Ratio.of(total, bare).as_dict(),
        "target": case.target,
    }


def closed_form(tracker: WeightTracker | None, num_steps: int) -> None:
    """Gradient descent of the deep linear network of the experiment svd-evolution."""
    inputs, target, weights = problem()
    events = {} if tracker is None else {"on_step": tracker}
    descend(weights, inputs, target, learning_rate=1.0, num_steps=num_steps, reduction="half_mean", events=events)


def autograd(tracker: WeightTracker | None, num_steps: int) -> None:
    """The same network as a module, in a plain loop."""
    inputs, target, weights = problem()
    network = DeepLinear.from_weights(weights)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    for step in range(1, num_steps + 1):
        optimizer.zero_grad()
        (0.5 * (network(inputs) - target).square().mean()).backward()
        optimizer.step()
        if tracker is not None:
            tracker.record(step, network)


def perceptron(width: int, batch_size: int) -> Training:
    """SGD of a perceptron with five hidden layers."""

    def train(tracker: WeightTracker | None, num_steps: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            hidden = [part for _ in range(5) for part in (nn.Linear(width, width), nn.ReLU())]
            network = nn.Sequential(*hidden, nn.Linear(width, 10))
            inputs, labels = torch.randn(batch_size, width), torch.randint(10, (batch_size,))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for step in range(1, num_steps + 1):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs), labels).backward()
            optimizer.step()
            if tracker is not None:
                tracker.record(step, network)

    return train


def problem() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Data and start of the experiment svd-evolution."""
    target = low_rank_target(30, 30, 3, seed=1).T
    return torch.eye(30, dtype=torch.float64), target, linear_weights([30] * 4, "orth", 1.0)


def product_seconds(tracked: xr.Dataset) -> float:
    """CPU seconds a record to multiply every tracked matrix by as many vectors as singular values of it are kept.

    The copies of a matrix are multiplied in one batch, in float64, as the analysis would.
    """
    kept = tracked["singular_values"].isel(step=0).notnull().sum("component")
    total = 0.0
    for rows, columns, vectors in zip(
        *(one.values for one in (tracked["rows"], tracked["columns"], kept)), strict=True
    ):
        batch = max(1, min(MOST_COPIES, BATCH_VALUES // (rows * columns)))
        left = torch.ones(batch, rows, columns, dtype=torch.float64)
        right = torch.ones(batch, columns, vectors, dtype=torch.float64)
        total += min(seconds(partial(torch.bmm, left, right)) for _ in range(5)) / batch
    return total


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start

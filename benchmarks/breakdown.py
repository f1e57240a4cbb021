"""Where the time of streaming goes: a forward pass with one more part of the work at each stage.

The stages alternate in one process, on models that share their weights, so that a busy machine disturbs all alike and
every part runs as it does in use: behind matrix products that have pushed its code and data out of the cache.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from overhead import DISTINCT_INPUTS, WARM_UP_TRIALS, without_copying_weights
from shapes import perceptron
from torch import Tensor, nn

from neurocollapse.hooks import Recorder
from neurocollapse.passes.moments import MomentSink
from neurocollapse.statistics import ClassBatch, extension
from neurocollapse.statistics.kernels import ALL_FINITE

BATCH, BATCHES_PER_TRIAL = 256, 2
Pass = Callable[[Tensor, Tensor], object]


def measure(num_classes: int, *, trials: int = 60) -> dict[str, Any]:
    """What each part adds to the bare forward pass of the perceptron, as a share of it and in µs a layer."""
    model = perceptron()
    with ExitStack() as stack, torch.no_grad():
        passes: dict[str, Pass] = {
            "bare": _without_labels(without_copying_weights(model)),
            "hooks that do nothing": _without_labels(_with_empty_hooks(model)),
            "reading the features": _Streaming(model, num_classes, stack, counts=False, adds=False),
            "labels and the look for NaN": _Streaming(model, num_classes, stack, adds=False),
            "an update but for its sums": _Streaming(model, num_classes, stack, sums=False),
            "the sums": _Streaming(model, num_classes, stack),
        }
        seconds = _alternating(passes, num_classes, trials)
    bare = seconds.pop("bare")
    num_layers = sum(isinstance(module, nn.Linear) for module in model.modules())
    layer = 1e6 * statistics.median(bare) / (BATCHES_PER_TRIAL * num_layers)
    parts, before = [], 0.0
    for name, own in seconds.items():
        share = statistics.median(a / b - 1 for a, b in zip(own, bare, strict=True))
        parts.append({"part": name, "share": share - before, "us_per_layer": layer * (share - before)})
        before = share
    return {"num_classes": num_classes, "bare_us_per_layer": layer, "parts": parts}


class _Streaming:
    """A forward pass with hooks until `stack` closes, and with as much of the statistics as is asked for."""

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        stack: ExitStack,
        *,
        counts: bool = True,
        adds: bool = True,
        sums: bool = True,
    ) -> None:
        self.model = without_copying_weights(model)
        self.num_classes, self.counts, self.adds, self.sums = num_classes, counts, adds, sums
        self.sink = MomentSink()
        self.sink.start({}, torch.device("cpu"))
        self.recorder = stack.enter_context(Recorder(self.model, "linear", sink=self._take))

    def __call__(self, inputs: Tensor, labels: Tensor) -> None:
        self.batch = ClassBatch(labels, self.num_classes)
        kernel = extension.add_rows
        try:
            extension.add_rows = kernel if self.sums else _no_sums
            if self.counts:
                self.sink.begin(self.batch)
            self.recorder.run(self.model, (inputs,), {}, len(labels))
            if self.counts:
                self.sink.end(None)
        finally:
            extension.add_rows = kernel

    def _take(self, key: Any, features: Tensor, positions: Any) -> None:
        if self.adds:
            self.sink.add(str(key.tap), features, self.batch)


def _alternating(passes: dict[str, Pass], num_classes: int, trials: int) -> dict[str, list[float]]:
    """Processor time of each trial of each pass."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(BATCH, 784, generator=generator) for _ in range(DISTINCT_INPUTS)]
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for trial in range(WARM_UP_TRIALS + trials):
        for name, run in passes.items():
            labels = torch.randint(num_classes, (BATCHES_PER_TRIAL, BATCH), generator=generator)
            start = time.process_time()
            for own in labels:
                run(inputs[trial % DISTINCT_INPUTS], own)
            seconds[name].append(time.process_time() - start)
    return {name: own[WARM_UP_TRIALS:] for name, own in seconds.items()}


def _without_labels(model: nn.Module) -> Pass:
    """The forward pass alone."""
    return lambda inputs, labels: model(inputs)


def _with_empty_hooks(model: nn.Module) -> nn.Module:
    """A twin whose linear layers call a function that does nothing."""
    twin = without_copying_weights(model)
    for module in twin.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, args, output: None)
    return twin


def _no_sums(*arguments: object) -> int:
    """A kernel that adds nothing, and finds all rows finite."""
    return ALL_FINITE

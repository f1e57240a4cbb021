"""Cost of streaming class statistics: a forward pass with `nc.collect` over the bare forward pass.

Blocks of batches alternate between the two in one process, and each block is compared with its neighbour, so that a
busy machine disturbs both alike. Times are CPU times of one thread; inputs are in memory.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from ratios import Ratio
from shapes import deep_perceptron, perceptron, resnet18, resnet50, vision_transformer
from torch import Tensor, nn

import neurocollapse as nc

DISTINCT_INPUTS = 4
WARM_UP_TRIALS = 3
"""Blocks that are not counted: they allocate the state."""


@dataclass(frozen=True)
class Case:
    """One row of the table: a model, its batches and what is measured of it."""

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    target: float
    options: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 10
    batches_per_block: int = 1
    trials: int = 20
    slow: bool = False


def cases() -> list[Case]:
    """The models and features whose cost has a target."""
    return [*_perceptrons(), *_halted(), *_resnets(), *_deep_resnets(), *_transformers()]


def measure(case: Case) -> dict[str, Any]:
    """Ratios of one case, and the CPU time that a whole run costs once."""
    blocks = Blocks(case)
    start = time.process_time()
    nc.collect(blocks.model, blocks, num_classes=case.num_classes, progress=False, **case.options)
    elapsed = time.process_time() - start
    counted = slice(WARM_UP_TRIALS, None)
    ratio = Ratio.of(blocks.streamed[counted], blocks.bare[counted])
    steady = ratio.value * sum(blocks.bare[counted]) / case.trials * len(blocks.bare)
    return {
        "case": case.name,
        "ratio": ratio.as_dict(),
        "target": case.target,
        "bare_ms_per_batch": 1e3 * sum(blocks.bare[counted]) / (case.trials * case.batches_per_block),
        "once_ms": 1e3 * (elapsed - sum(blocks.bare) - steady),
    }


class Blocks:
    """A loader that runs the bare model on the same batches after every block that it has yielded."""

    def __init__(self, case: Case) -> None:
        generator = torch.Generator().manual_seed(0)
        self.case = case
        self.model = case.build()
        self.twin = without_copying_weights(self.model)
        self.generator = generator
        self.inputs = [torch.randn(case.inputs, generator=generator) for _ in range(DISTINCT_INPUTS)]
        self.streamed: list[float] = []
        self.bare: list[float] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for trial in range(WARM_UP_TRIALS + self.case.trials):
            block = [self._batch(trial + index) for index in range(self.case.batches_per_block)]
            start = time.process_time()
            yield from block
            middle = time.process_time()
            with torch.no_grad():
                for inputs, _ in block:
                    self.twin(inputs)
            self.streamed.append(middle - start)
            self.bare.append(time.process_time() - middle)

    def _batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs that are made in advance, with new and uniformly random labels."""
        labels = torch.randint(self.case.num_classes, self.case.inputs[:1], generator=self.generator)
        return self.inputs[index % DISTINCT_INPUTS], labels


def without_copying_weights(model: nn.Module) -> nn.Module:
    """A second model without hooks on the same weights: two sets of them would compete for the cache."""
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def _perceptrons() -> list[Case]:
    """Ten linear layers, all of them streamed."""
    common: dict[str, Any] = {"build": perceptron, "inputs": (256, 784), "batches_per_block": 2}
    layers = {"layers": "linear"}
    return [
        Case("MLP 784–1024×9–10, K=10", target=1.035, options=layers, trials=60, **common),
        Case("MLP, K=1000", target=1.07, options=layers, num_classes=1000, trials=60, **common),
        Case("MLP, K=10, full Σ_W", target=1.65, options=layers | {"covariance": True}, trials=25, **common),
    ]


def _halted() -> list[Case]:
    """Early layers of twelve hidden ones, with the forward pass ended behind them; ReLUs count as layers."""
    common: dict[str, Any] = {"build": deep_perceptron, "inputs": (256, 784), "trials": 40}
    return [
        Case("MLP 12 × 1024, layer 5 of 25, halted", target=0.30, options={"layers": "4", "halt": True}, **common),
        Case(
            "MLP 12 × 1024, layers 1–5 of 25, halted",
            target=0.30,
            options={"layers": list("01234"), "halt": True},
            **common,
        ),
    ]


def _resnets() -> list[Case]:
    """ResNet-18 on images of 64 pixels: the stem's output and eight blocks, or every module."""
    return [
        Case(
            f"ResNet-18 64 px, {label}, {'flattened' if pool == 'flatten' else 'pooled'}",
            resnet18,
            (64, 3, 64, 64),
            target,
            {"layers": layers, "pool": pool},
        )
        for label, layers, pool, target in (
            ("stem and 8 blocks", ["stem", "blocks.*"], "flatten", 1.02),
            ("stem and 8 blocks", ["stem", "blocks.*"], "mean", 1.01),
            ("60 leaves", "leaves", "flatten", 1.08),
            ("60 leaves", "leaves", "mean", 1.05),
        )
    ]


def _deep_resnets() -> list[Case]:
    """ResNet-50 on images of 224 pixels, seventeen blocks, K = 1000; flattened they have 5.7 million features."""
    common: dict[str, Any] = {"build": resnet50, "inputs": (8, 3, 224, 224), "trials": 6, "slow": True}
    layers = ["stem", "blocks.*"]
    return [
        Case(
            "ResNet-50 224 px, stem and 16 blocks, flattened",
            target=1.045,
            options={"layers": layers, "pool": "flatten"},
            **common,
        ),
        Case(
            "ResNet-50 224 px, stem and 16 blocks, pooled, K=1000",
            target=1.02,
            options={"layers": layers, "pool": "mean"},
            num_classes=1000,
            **common,
        ),
    ]


def _transformers() -> list[Case]:
    """ViT-small on images of 224 pixels: twelve blocks and the last norm."""
    return [
        Case(
            f"ViT-small 224 px, 13 sites, {pool}",
            vision_transformer,
            (8, 3, 224, 224),
            target,
            {"layers": ["blocks.*", "norm"], "pool": pool},
        )
        for pool, target in (("mean", 1.01), ("cls", 1.01), ("flatten", 1.015))
    ]

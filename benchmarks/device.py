"""What class statistics cost on a GPU: every layer's moments over the bare forward pass, in one run of a few minutes.

    python benchmarks/device.py --output device.json
    python benchmarks/device.py --dry-run

Blocks of batches alternate between the two in one process, and CUDA events time each against its neighbour; inputs are
on the device already, labels are not. Beside the ratios it counts the kernels that one batch launches for each layer
beyond the model's own, and the times that the host had to wait for the device (`torch.cuda.set_sync_debug_mode`). It
compares two runs to the last bit, and the sums with those of the CPU on the same features. All of this once with the
kernel that a device runs on, torch's operations on class-sorted rows, and once with that of Triton, where it is there.
`--dry-run` does it at tiny sizes on the CPU, with the former, where the numbers mean nothing.
"""

import argparse
import itertools
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # the parts are plain scripts beside this one, not a package

import overhead
import torch
from overhead import without_copying_weights
from ratios import Ratio
from run import machine, write
from shapes import perceptron, resnet50, vision_transformer
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import neurocollapse as nc
from neurocollapse.metrics import compression
from neurocollapse.statistics import ClassBatch, MomentAccumulator, kernel_on

WARM_UP = 3
"""Blocks that are not counted: they allocate the state, and torch chooses its algorithms."""
ENOUGH = 20
"""Pairs of blocks of each case, fewer where they take too long."""
FLATTENED, POOLED = 1.07, 1.03
"""What the ratio is to be at most."""
SIZES, TINY = [(10, 64), (10, 2048), (1000, 2048), (10, 200_704)], [(3, 64), (3, 200)]
"""Classes and features of the sums that are compared."""
KERNELS, VARIABLE = ("sorted", "triton"), "NEUROCOLLAPSE_KERNEL"
"""What is measured, and the variable that chooses it."""


@dataclass(frozen=True)
class Case(overhead.Case):
    """One row of the table, with the time that it may take."""

    seconds: float = 30.0


def cases(*, tiny: bool = False) -> list[Case]:
    """The models and features that are measured; at tiny sizes the same with nearly nothing in them."""
    resnet: dict[str, Any] = {"build": resnet50, "inputs": (256, 3, 224, 224)}
    vit: dict[str, Any] = {"build": vision_transformer, "inputs": (256, 3, 224, 224)}
    mlp: dict[str, Any] = {"build": perceptron, "inputs": (256, 784), "batches_per_block": 10, "seconds": 10.0}
    if tiny:
        resnet = {"build": lambda: resnet50(8), "inputs": (8, 3, 32, 32), "seconds": 0.2}
        vit = {"build": lambda: vision_transformer(16, 2, heads=2, size=32), "inputs": (8, 3, 32, 32), "seconds": 0.2}
        mlp = {"build": lambda: perceptron(16, 3), "inputs": (8, 784), "seconds": 0.2}
    flat, pooled = ({"layers": ["stem", "blocks.*"], "pool": pool} for pool in ("flatten", "mean"))
    tokens, means = ({"layers": ["blocks.*", "norm"], "pool": pool} for pool in ("flatten", "mean"))
    return [
        Case("ResNet-50, stem and 16 blocks, flattened", target=FLATTENED, options=flat, **resnet),
        Case(
            "ResNet-50, stem and 16 blocks, pooled, K=1000", target=POOLED, options=pooled, num_classes=1000, **resnet
        ),
        Case("ViT-small, 13 sites, flattened", target=FLATTENED, options=tokens, **vit),
        Case("ViT-small, 13 sites, mean", target=POOLED, options=means, **vit),
        Case("MLP 784–1024×9–10, K=10", target=FLATTENED, options={"layers": "linear"}, **mlp),
        Case("MLP, K=1000", target=FLATTENED, options={"layers": "linear"}, num_classes=1000, **mlp),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case, then determinism and agreement; print and write."""
    options = _parser().parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --dry-run checks the script at tiny sizes on the CPU")
    device = torch.device("cpu" if options.dry_run else "cuda")
    if options.dry_run:
        torch.set_num_threads(1)  # several are slow where there is little to compute
    write(measured(device, tiny=options.dry_run), options.output)


def measured(device: torch.device, *, tiny: bool) -> dict[str, Any]:
    """All numbers, printed as they come."""
    results: dict[str, Any] = {"machine": machine() | {"device": name_of(device)}, "cases": []}
    print(" · ".join(f"{name} {value}" for name, value in results["machine"].items()))
    print("\nForward + class statistics ÷ bare forward, in turns, on the device's own clock")
    header = f"{'median [quartiles]':>24}{'target':>8}{'bare':>12}{'launches a layer':>18}{'waits':>7}"
    print(f"{'':<48}{'kernel':<8}{header}")
    kernels = KERNELS[:1] if tiny else kernels_on(device)
    for case, kernel in itertools.product(cases(tiny=tiny), kernels):
        row = measure(case, device, kernel)
        results["cases"].append(row)
        ratio, launches = Ratio(**row["ratio"]), row["launches_per_layer"]
        times = f"{row['bare_ms_per_batch']:>9.2f} ms{launches:>18.1f}{row['waits_per_batch']:>7.1f}"
        print(f"{case.name:<48}{kernel:<8}{ratio!s:>24}{case.target:>8.2f}{times}", flush=True)
    sizes = TINY if tiny else SIZES
    results["sums"] = [compared(device, kernel, *size) for size, kernel in itertools.product(sizes, kernels)]
    print("\nThe same features twice, and on the CPU")
    for row in results["sums"]:
        same = "the same to the last bit" if row["same_twice"] else "NOT the same twice"
        size = f"K = {row['num_classes']}, d = {row['num_features']}"
        difference = f"D differs from the CPU's by {row['difference_from_cpu']:.1e}"
        print(f"{size:<24}{row['kernel']:<8}{same}; {difference}", flush=True)
    return results


def kernels_on(device: torch.device) -> Sequence[str]:
    """Those that run on a device: Triton may not be installed, and runs on a CPU only where it is told to."""
    found = []
    for name in KERNELS:
        with _kernel(name), suppress(ValueError):
            found += [name] * (kernel_on(device).name == name)
    return found


def measure(case: Case, device: torch.device, kernel: str) -> dict[str, Any]:
    """Ratio, launches and waits of one case."""
    blocks = _Blocks(case, device)
    options: dict[str, Any] = {"num_classes": case.num_classes, "progress": False, **case.options}
    with _kernel(kernel):
        moments = nc.collect(blocks.model, blocks, **options)
        launches, waits = _launches(blocks, options), _waits(blocks, options)
    streamed, bare = blocks.clock.seconds()
    counted = slice(WARM_UP, None)
    return {
        "case": case.name,
        "kernel": kernel,
        "ratio": Ratio.of(streamed[counted], bare[counted]).as_dict(),
        "target": case.target,
        "bare_ms_per_batch": 1e3 * sum(bare[counted]) / len(bare[counted]) / case.batches_per_block,
        "launches_per_layer": launches / len(moments),
        "waits_per_batch": waits,
        "num_layers": len(moments),
    }


def compared(device: torch.device, kernel: str, num_classes: int, num_features: int) -> dict[str, Any]:
    """Two runs over the same features of separated classes on the device, and one on the CPU."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(num_classes, num_features, generator=generator)
    labels = torch.randint(num_classes, (20, 256), generator=generator)
    noise = torch.randn(4, 256, num_features, generator=generator)
    features = [means[own] + 1e-2 * noise[index % 4] for index, own in enumerate(labels)]

    def run(where: torch.device) -> nc.ClassMoments:
        accumulator = MomentAccumulator(num_classes, num_features, device=where)
        for rows, own in zip(features, labels, strict=True):
            accumulator.update(rows.to(where), ClassBatch(own, num_classes))
        return accumulator.moments()

    with _kernel(kernel):
        first, second = run(device), run(device)
    with _kernel(None):
        expected = run(torch.device("cpu"))
    names = ("reference", "offset_sum", "offset_square")
    return {
        "kernel": kernel,
        "num_classes": num_classes,
        "num_features": num_features,
        "same_twice": all(torch.equal(getattr(first, name), getattr(second, name)) for name in names),
        "difference_from_cpu": abs(compression(first) / compression(expected) - 1),
    }


@contextmanager
def _kernel(name: str | None) -> Iterator[None]:
    """Inside, the statistics run on this kernel; None for the one that fits the device."""
    before = os.environ.pop(VARIABLE, None)
    try:
        if name is not None:
            os.environ[VARIABLE] = name
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


class _Clock:
    """Marks on the device's own time line, or on the processor's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list[tuple[Any, Any, Any]] = []

    def now(self) -> Any:
        """A mark."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> tuple[list[float], list[float]]:
        """What lay between the first and the second mark of each block, and between the second and the third."""
        if self.device.type != "cuda":
            return [b - a for a, b, _ in self.marks], [c - b for _, b, c in self.marks]
        torch.cuda.synchronize()
        pairs = [(a.elapsed_time(b) / 1e3, b.elapsed_time(c) / 1e3) for a, b, c in self.marks]
        return [first for first, _ in pairs], [second for _, second in pairs]


class _Blocks:
    """A loader that runs the bare model on the same batches after every block that it has yielded."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case, self.clock = case, _Clock(device)
        self.model = case.build().to(device)
        self.twin = without_copying_weights(self.model)
        self.generator = torch.Generator().manual_seed(0)
        self.inputs = [torch.randn(case.inputs, generator=self.generator).to(device) for _ in range(2)]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        end = time.monotonic() + self.case.seconds
        for number in itertools.count():
            if number >= WARM_UP + 2 and (number >= WARM_UP + ENOUGH or time.monotonic() > end):
                return
            block = [self.batch(index) for index in range(self.case.batches_per_block)]
            start = self.clock.now()
            yield from block
            middle = self.clock.now()
            for inputs, _ in block:
                self.bare(inputs)
            self.clock.marks.append((start, middle, self.clock.now()))

    def bare(self, inputs: Tensor) -> None:
        """The forward pass alone."""
        with torch.no_grad():
            self.twin(inputs)

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs that are on the device, with new and uniformly random labels that are not."""
        labels = torch.randint(self.case.num_classes, self.case.inputs[:1], generator=self.generator)
        return self.inputs[index % 2], labels


def _launches(blocks: _Blocks, options: dict[str, Any]) -> float:
    """Kernels and copies of an ordinary batch beyond the model's own: the fewest of some batches, looked at one by one.

    On the CPU, where there are no kernels, the operations that torch dispatches.
    """
    counts: list[int] = []

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(WARM_UP + 9):
            with _Kernels(blocks.clock.device) as kernels:
                yield blocks.batch(index)
            counts.append(kernels.number)

    nc.collect(blocks.model, loader(), **options)
    with _Kernels(blocks.clock.device) as kernels:
        blocks.bare(blocks.inputs[0])
    return min(counts[WARM_UP:]) - kernels.number


class _Kernels:
    """Counts what the device does inside; on the CPU torch's operations."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.seen: Any = profile(activities=[ProfilerActivity.CUDA]) if self.on_gpu else _Operations()

    def __enter__(self) -> "_Kernels":
        self.seen.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()
        self.seen.__exit__(*error)

    @property
    def number(self) -> int:
        """How many there were."""
        if not self.on_gpu:
            return int(self.seen.number)
        return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in self.seen.events())


class _Operations(TorchDispatchMode):
    """Counts operations."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **kwargs or {})


def _waits(blocks: _Blocks, options: dict[str, Any]) -> float:
    """Times in a batch that torch makes the host wait; to hear of the batch before whether it was finite is not one."""
    if blocks.clock.device.type != "cuda":
        return 0.0
    found: list[int] = []

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(WARM_UP + 5):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                yield blocks.batch(index)
                torch.cuda.set_sync_debug_mode("default")
            found.append(sum("synchroniz" in str(warning.message) for warning in caught))

    nc.collect(blocks.model, loader(), **options)
    return sum(found[WARM_UP:]) / len(found[WARM_UP:])


def name_of(device: torch.device) -> str:
    """The card and its memory."""
    if device.type != "cuda":
        return "none: a dry run on the CPU, whose numbers mean nothing"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


def _parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU, to check the script")
    parser.add_argument("--output", type=Path, help="where to write the results as JSON")
    return parser


if __name__ == "__main__":
    main()

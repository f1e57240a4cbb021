"""What other ways of looking at the same layers cost, in one run: each over the bare forward pass.

    pip install torchlens torchmetrics
    python benchmarks/peers.py [--quick] [--output FILE]

They do not compute the same: TorchLens' `aggregate` gives one mean a layer, over all entries and samples; torchmetrics'
Calinski–Harabasz score is our compression, of features that it keeps; a script of two passes computes that with a loop
over the classes. Blocks of batches alternate with the bare forward pass in one process, and each is compared with its
neighbour; of several passes, the ratios add up. Times are CPU times of one thread; what follows behind the last batch
is timed apart.
"""

import argparse
import importlib
import importlib.metadata
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # the parts are plain scripts beside this one, not a package

import torch
from overhead import WARM_UP_TRIALS, Blocks, Case
from ratios import Ratio
from run import machine, write
from shapes import perceptron, resnet18
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.metrics import compression

Batches = Iterable[tuple[Tensor, Tensor]]
Run = Callable[[nn.Module, Batches, list[str], int], Callable[[], Mapping[str, float]]]
"""Goes through the batches with a model, some of its layers and a number of classes; gives what the end computes."""


def cases() -> list[tuple[Case, list[str]]]:
    """Models, and the layers whose pooled outputs are looked at."""
    linear = [str(index) for index in range(0, 19, 2)]
    blocks = ["stem", *(f"blocks.{index}" for index in range(8))]
    return [
        (Case("MLP 784–1024×9–10, 10 layers", perceptron, (256, 784), 0.0, batches_per_block=2, trials=20), linear),
        (Case("ResNet-18 64 px, 9 layers, pooled", resnet18, (64, 3, 64, 64), 0.0, trials=20), blocks),
    ]


def with_neurocollapse(model: nn.Module, batches: Batches, layers: list[str], num_classes: int) -> Any:
    """One pass that keeps class moments."""
    moments = nc.collect(model, batches, layers=layers, pool="mean", num_classes=num_classes, progress=False)
    return lambda: {name: compression(moments[name], weighting="frequency") for name in moments}


def with_torchlens(model: nn.Module, batches: Batches, layers: list[str], num_classes: int) -> Any:
    """One pass that keeps one number per layer: no classes, no features."""
    torchlens, stats = importlib.import_module("torchlens"), importlib.import_module("torchlens.stats")
    last = list(dict(model.named_children()))[-1]
    named = {name: "output" if name == last else name for name in layers}  # what it calls the last layer's output
    found = torchlens.aggregate(model, batches, {named[name]: stats.Mean() for name in layers})
    return lambda: {name: found[named[name]] for name in layers}


def with_torchmetrics(model: nn.Module, batches: Batches, layers: list[str], num_classes: int) -> Any:
    """One pass that keeps all features, and computes at its end."""
    score = importlib.import_module("torchmetrics.clustering").CalinskiHarabaszScore
    scores = {name: score() for name in layers}
    num_samples = 0
    for labels in _hooked(model, batches, layers, lambda name, features, labels: scores[name].update(features, labels)):
        num_samples += len(labels)
    factor = (num_samples - num_classes) / (num_classes - 1)
    return lambda: {name: factor / float(one.compute()) for name, one in scores.items()}


def with_two_passes(model: nn.Module, batches: Batches, layers: list[str], num_classes: int) -> Any:
    """Class means first, then the squared distances from them, class by class in double precision."""
    counts = torch.zeros(num_classes, dtype=torch.float64)
    sums: dict[str, Tensor] = {}
    squares = dict.fromkeys(layers, 0.0)

    def add(name: str, features: Tensor, labels: Tensor) -> None:
        own = sums.setdefault(name, torch.zeros(num_classes, features.shape[1], dtype=torch.float64))
        for k in labels.unique().tolist():
            own[k] += features[labels == k].double().sum(dim=0)

    def spread(name: str, features: Tensor, labels: Tensor) -> None:
        for k in labels.unique().tolist():
            squares[name] += float((features[labels == k].double() - sums[name][k] / counts[k]).square().sum())

    for labels in _hooked(model, batches, layers, add):
        counts += torch.bincount(labels, minlength=num_classes)
    for _ in _hooked(model, batches, layers, spread):
        pass

    def finish() -> Mapping[str, float]:
        found = {}
        for name, own in sums.items():
            means, mean = own / counts.unsqueeze(1), own.sum(dim=0) / counts.sum()
            between = (counts.unsqueeze(1) * (means - mean).square()).sum()
            found[name] = squares[name] / float(between)
        return found

    return finish


METHODS: dict[str, tuple[Run, str | None]] = {
    "neurocollapse.collect": (with_neurocollapse, None),
    "torchlens.aggregate, Mean": (with_torchlens, "torchlens"),
    "torchmetrics CalinskiHarabaszScore": (with_torchmetrics, "torchmetrics"),
    "script of two passes": (with_two_passes, None),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every method on every case; print and write."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    versions = {package: _version(package) for _, package in METHODS.values() if package is not None}
    results: dict[str, Any] = {"machine": machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "versions": versions}
    print(" · ".join(f"{name} {value}" for name, value in (results["machine"] | versions).items()), results["date"])
    results["rows"] = []
    for case, layers in cases():
        print(f"\n{case.name}, batches of {case.inputs[0]}\n{'':<38}{'median [quartiles]':>24}{'at the end':>12}")
        for name, (run, package) in METHODS.items():
            if package is not None and versions[package] is None:
                print(f"{name:<38}{'not installed':>24}")
                continue
            row = measure(case, layers, run, trials=4 if options.quick else case.trials)
            results["rows"].append({"case": case.name, "method": name} | row)
            print(f"{name:<38}{Ratio(**row['ratio'])!s:>24}{row['end_ms']:>9.0f} ms", flush=True)
    write(results, options.output)


class _Repeated(Blocks):
    """The same batches in every pass."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.generator.manual_seed(1)
        yield from super().__iter__()


def measure(case: Case, layers: list[str], run: Run, *, trials: int) -> dict[str, Any]:
    """Ratio of one method, and the CPU time behind its last batch."""
    torch.manual_seed(0)  # the same weights for every method
    blocks = _Repeated(replace(case, trials=trials))
    finish = run(blocks.model, blocks, layers, case.num_classes)
    start = time.process_time()
    found = finish()
    elapsed = time.process_time() - start
    num_passes = len(blocks.streamed) // (WARM_UP_TRIALS + trials)
    ratios = [
        Ratio.of(blocks.streamed[first + WARM_UP_TRIALS :][:trials], blocks.bare[first + WARM_UP_TRIALS :][:trials])
        for first in range(0, len(blocks.streamed), WARM_UP_TRIALS + trials)
    ]
    total = Ratio(*(sum(getattr(one, key) for one in ratios) for key in _QUARTILES), trials)
    return {"ratio": total.as_dict(), "num_passes": num_passes, "end_ms": 1e3 * elapsed, "values": dict(found)}


_QUARTILES = ("value", "lower_quartile", "upper_quartile")


def _hooked(
    model: nn.Module, batches: Batches, layers: list[str], take: Callable[[str, Tensor, Tensor], object]
) -> Iterable[Tensor]:
    """Run the model over the batches with a hook on every layer, and give the labels of each."""
    current: list[Tensor] = []

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            take(name, output.mean(dim=(2, 3)) if output.dim() == 4 else output, current[-1])

        return hook

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(hook_of(name)) for name in layers]
    try:
        with torch.no_grad():
            for inputs, labels in batches:
                current.append(labels)
                model(inputs)
                yield current.pop()
    finally:
        for handle in handles:
            handle.remove()


def _version(package: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few blocks of each")
    parser.add_argument("--output", type=Path, help="where to write the results as JSON")
    return parser


if __name__ == "__main__":
    main()

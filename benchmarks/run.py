"""Run the benchmarks: print tables of ratios measured side by side, and write them as JSON.

    python benchmarks/run.py [--quick] [--peak-memory] [--output FILE] [--only PART]

PART is overhead, breakdown, scaling, accuracy, tracker, tracking, completion, scale, imports or others.

Targets are those of the project; a ratio is reached where its median is at most the target.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # the parts are plain scripts beside this one, not a package

import accuracy
import breakdown
import completion
import imports
import others
import overhead
import scale
import scaling
import torch
import tracker
import tracking

import neurocollapse as nc

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen parts."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    results: dict[str, Any] = {"machine": machine()}
    print(" · ".join(f"{name} {value}" for name, value in results["machine"].items()))
    for name, part in PARTS.items():
        if options.only in (None, name):
            results[name] = part(options)
    write(results, options.output)


def write(results: dict[str, Any], path: Path | None) -> None:
    """Write results as JSON, if there is a path."""
    if path is not None:
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nwritten to {path}")


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "neurocollapse": nc.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cpu": _cpu_name(),
    }


def run_overhead(options: argparse.Namespace) -> list[Row]:
    """Forward with statistics over the bare forward pass."""
    print("\nForward + streaming statistics ÷ bare forward (CPU time, one thread)")
    print(f"{'':<46}{'median [quartiles]':>24}{'target':>9}{'':>9}{'bare':>12}{'once':>9}")
    rows = []
    for case in overhead.cases():
        if options.quick and case.slow:
            continue
        row = overhead.measure(case)
        rows.append(row)
        spread = _spread(row["ratio"])
        reached = "reached" if row["ratio"]["value"] <= case.target else "missed"
        times = f"{row['bare_ms_per_batch']:>9.1f} ms{row['once_ms']:>6.0f} ms"
        print(f"{case.name:<46}{spread:>24}{case.target:>9.3f}{reached:>9}{times}", flush=True)
    return rows


def run_breakdown(options: argparse.Namespace) -> list[Row]:
    """What each part of streaming adds to the bare forward pass of the perceptron."""
    print("\nWhere the time goes: MLP 784–1024×9–10, what each part adds to the bare forward pass")
    rows = [breakdown.measure(num_classes, trials=10 if options.quick else 60) for num_classes in (10, 1000)]
    for row in rows:
        print(f"K = {row['num_classes']}, {row['bare_us_per_layer']:.0f} µs a layer")
        for part in row["parts"]:
            print(f"  {part['part']:<32}{part['share']:>7.1%}{part['us_per_layer']:>8.0f} µs a layer", flush=True)
    return rows


def run_scaling(options: argparse.Namespace) -> dict[str, Any]:
    """Time and memory against samples, features, classes and layers."""
    print("\nStatistics alone: time and state")
    results: dict[str, Any] = {"axes": []}
    for axis, sizes in scaling.AXES.items():
        row = scaling.measure(axis, sizes[: -1 if options.quick else None])
        results["axes"].append(row)
        print(f"{axis}: time grows with the power {row['time_exponent']:.2f}, state with {row['state_exponent']:.2f}")
        for point in row["points"]:
            size, memory = f"{point[axis]:>8}", point["state_bytes"] / 2**20
            print(f"{size}{point['nanoseconds_per_element']:>8.2f} ns an element{memory:>9.1f} MiB", flush=True)
    if options.peak_memory:
        results["peak_memory"] = scaling.peak_memory()
        print("K = 1000, d = 65,536: peak memory + {:.2f} GiB".format(results["peak_memory"]["peak_bytes"] / 2**30))
    return results


def run_accuracy(options: argparse.Namespace) -> list[Row]:
    """Relative errors of D."""
    print("\nRelative error of D against two passes in float64, K = 10, d = 512")
    print(f"{'within/mean':<12}{'D':>10}" + "".join(f"{name:>21}" for name in accuracy.METHODS))
    rows = []
    for spread in accuracy.SPREADS[:: 2 if options.quick else 1]:
        row = accuracy.measure(spread)
        rows.append(row)
        errors = "".join(f"{error:>21.1e}" for error in row["relative_error"].values())
        print(f"{spread:<12.0e}{row['compression']:>10.1e}{errors}", flush=True)
    return rows


def run_tracker(options: argparse.Namespace) -> list[Row]:
    """Training with a weight tracker over training without."""
    print("\nTraining + weight tracker ÷ training (CPU time, one thread)")
    print(f"{'':<36}{'every':>6}{'while training':>24}{'in all':>24}{'target':>8}{'step':>12}{'1 product':>12}")
    rows = []
    for case in tracker.cases():
        row = tracker.measure(case)
        rows.append(row)
        during, total = (_spread(row[name]) for name in ("while_training", "in_all"))
        times = "".join(f"{row[name]:>9.0f} µs" for name in ("step_us", "product_us"))
        print(f"{case.name:<36}{case.every:>6}{during:>24}{total:>24}{case.target:>8.2f}{times}", flush=True)
    return rows


def run_tracking(options: argparse.Namespace) -> dict[str, Any]:
    """Records of a tracker over the bare forward passes of their probe sets, and a share of wall time."""
    print("\nA record of nc.track ÷ bare forward passes of its probe set (CPU time, one thread)")
    rows = []
    for case in tracking.cases():
        row = tracking.measure(case)
        rows.append(row)
        reached = "reached" if row["ratio"]["value"] <= case.target else "missed"
        bare = f"{row['bare_seconds']:>9.2f} s"
        print(f"{case.name:<52}{_spread(row['ratio']):>24}{case.target:>8.2f}{reached:>9}{bare}", flush=True)
    share = tracking.Share(seconds=5.0) if options.quick else tracking.Share()
    row = tracking.measure_share(share)
    counts = f"{row['records']} records in {row['steps']} steps and {row['seconds']:.0f} s"
    target = f"target {share.least:.0%} to {share.most:.0%}"
    print(f'every="{share.every}": {row["share"]:.2%} of wall time, {counts}, {target}', flush=True)
    return {"records": rows, "share": row}


def run_completion(options: argparse.Namespace) -> dict[str, Any]:
    """Compressed over full matrix completion, and its growth with the observed entries."""
    print("\nMatrix completion, a step of the compressed network ÷ a step of the full one (as many steps in all)")
    row = completion.compressed_over_full(*(300, 5) if options.quick else (1000, 5))
    reached = "reached" if row["ratio"] <= row["target"] else "missed"
    sizes = f"d = {row['size']}, r = {row['rank']}, {row['num_entries']} entries"
    times = f"{row['compressed_ms']:.2f} ÷ {row['full_ms']:.1f} ms"
    print(f"{sizes}: {times} = {row['ratio']:.4f}, target {row['target']:.2f} {reached}", flush=True)
    growth = completion.against_entries(entries=completion.ENTRIES[: 2 if options.quick else None])
    print(f"d = {growth['size']}: time of a compressed step grows with the entries' power {growth['exponent']:.2f}")
    for point in growth["points"]:
        print(f"{point['num_entries']:>10} entries{point['ms']:>9.1f} ms", flush=True)
    results = {"compressed_over_full": row, "against_entries": growth}
    if options.peak_memory:
        results["peak_memory"] = completion.peak_memory()
        print("d = 10,000, 5 % observed: peak memory {:.2f} GiB".format(results["peak_memory"]["peak_bytes"] / 2**30))
    return results


def run_scale(options: argparse.Namespace) -> dict[str, Any]:
    """A language model's shape: state, time per token, time of `measure`, shards, and growth with the classes."""
    shape = scale.Shape(num_classes=5000, width=256, depth=2, trials=3) if options.quick else scale.Shape()
    print(f"\nLanguage model: {shape.depth} layers, d = {shape.width}, K = {shape.num_classes}, Zipf labels")
    results: dict[str, Any] = {"streaming": [scale.streaming(shape, state_bytes=width) for width in (16, 12, 8)]}
    results["sharded"] = scale.sharded(shape)
    for name, row in [("one process", row) for row in results["streaming"]] + [
        (f"rank {rank} of 2", row) for rank, row in enumerate(results["sharded"])
    ]:
        times = (
            f"{row['bare_ms_per_token']:>8.2f} ms a token{row['added_us_per_token_and_layer']:>8.1f} µs more a layer"
        )
        sizes = f"{row['state_bytes']:>4} bytes{row['moments_gib']:>8.2f} GiB at the end"
        print(f"{name:<14}{sizes}{_spread(row['ratio']):>24}{times}", flush=True)
    results["measure"] = [scale.measuring(shape.num_classes, shape.width, equal=equal) for equal in (False, True)]
    for row in results["measure"]:
        print(f"measure, {'equal' if row['equal'] else 'Zipf'} counts: {row['seconds']:.1f} s a layer", flush=True)
    results["classes"] = scale.against_classes(scale.CLASSES[: 2 if options.quick else None])
    growth = results["classes"]
    print(
        f"d = {growth['num_features']}: updates grow with the classes' power {growth['update_exponent']:.2f}, "
        f"`measure` with {growth['measure_exponent']:.2f}"
    )
    for point in growth["points"]:
        print(f"{point['num_classes']:>8}{point['us_per_sample']:>8.2f} µs a sample{point['measure']:>8.2f} s")
    return results


def run_imports(options: argparse.Namespace) -> list[Row]:
    """Imports and help over importing torch."""
    print("\nImports and help ÷ importing torch (CPU time of fresh interpreters)")
    rows = []
    for case in imports.cases():
        row = imports.measure(case, trials=2 if options.quick else 5)
        rows.append(row)
        reached = "reached" if row["ratio"]["value"] <= case.target else "missed"
        times = f"{row['torch_seconds']:>9.2f} s"
        print(f"{case.name:<46}{_spread(row['ratio']):>24}{case.target:>9.2f}{reached:>9}{times}", flush=True)
    return rows


def run_others(options: argparse.Namespace) -> list[Row]:
    """What is called once, each in a process of its own."""
    print("\nOther speeds (CPU time, one thread)")
    rows = []
    for case in others.CASES:
        if options.quick and case.target >= 5:
            continue
        row = others.measure(case)
        rows.append(row)
        reached = "reached" if row["seconds"] <= case.target else "missed"
        numbers = f"{row['seconds']:>9.3f} s{row['peak_gib']:>7.2f} GiB"
        print(f"{case.name:<52}{numbers}{case.target:>9.3f} s{reached:>9}", flush=True)
    return rows


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "overhead": run_overhead,
    "breakdown": run_breakdown,
    "scaling": run_scaling,
    "accuracy": run_accuracy,
    "tracker": run_tracker,
    "tracking": run_tracking,
    "completion": run_completion,
    "scale": run_scale,
    "imports": run_imports,
    "others": run_others,
}


def _spread(ratio: dict[str, float]) -> str:
    """Median and quartiles."""
    return f"{ratio['value']:.3f} [{ratio['lower_quartile']:.3f}, {ratio['upper_quartile']:.3f}]"


def _parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the slow sizes")
    parser.add_argument("--only", choices=PARTS, help="measure one part")
    parser.add_argument("--peak-memory", action="store_true", help="also measure K = 1000, d = 65,536")
    parser.add_argument("--output", type=Path, help="where to write the results as JSON")
    return parser


def _cpu_name() -> str:
    """The processor's model name."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


if __name__ == "__main__":
    main()

"""Compare the cost of streaming statistics in this checkout with that in another one, in one run.

    python benchmarks/before_after.py OTHER_CHECKOUT [--rounds 5] [--case TEXT]

Each round measures a case in a fresh process of either checkout, the order turned round each time; printed are the
medians of the ratio to the bare forward pass and the median of the paired quotients, after over before.
"""

import argparse
import importlib.machinery
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent


class _Hooks:
    """Finds neurocollapse.hooks, which lies beside the package in a checkout."""

    def __init__(self, checkout: Path) -> None:
        self.folder = checkout / "hooks"

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The package's place, for its own name only."""
        if name != "neurocollapse.hooks":
            return None
        init, inside = self.folder / "__init__.py", [str(self.folder)]
        return importlib.util.spec_from_file_location(name, init, submodule_search_locations=inside)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every chosen case in both checkouts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path, help="the checkout that is `before`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", default="", help="a part of the names of the cases to measure")
    options = parser.parse_args(arguments)
    checkouts = {"before": options.other.resolve(), "after": HERE.parent}
    print(f"{'':<50}{'before':>9}{'after':>9}{'after ÷ before':>16}")
    for name in _measured(checkouts["after"], None, options.case):
        found: dict[str, list[float]] = {side: [] for side in checkouts}
        for turn in range(options.rounds):
            for side in list(checkouts)[:: 1 if turn % 2 else -1]:
                found[side] += _measured(checkouts[side], name, "").values()
        before, after = (statistics.median(found[side]) for side in checkouts)
        quotient = statistics.median(b / a for a, b in zip(found["before"], found["after"], strict=True))
        print(f"{name:<50}{before:>9.3f}{after:>9.3f}{quotient:>16.4f}", flush=True)


def _measured(checkout: Path, name: str | None, part: str) -> dict[str, float]:
    """The ratio of one case in a process of its own; of all whose names hold `part`, only the names."""
    command = [sys.executable, __file__, "--worker", str(checkout), json.dumps([name, part])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    ratios: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return ratios


def _work(checkout: Path, name: str | None, part: str) -> None:
    """Measure in this process, with the library of one checkout and the cases of this one."""
    sys.path[:0] = [str(checkout), str(HERE)]
    sys.meta_path.insert(0, _Hooks(checkout))
    import overhead
    import torch

    torch.set_num_threads(1)
    cases = {case.name: case for case in overhead.cases() if not case.slow and part in case.name}
    if name is None:
        print(json.dumps(dict.fromkeys(cases, 0.0)))
    else:
        print(json.dumps({name: overhead.measure(cases[name])["ratio"]["value"]}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _work(Path(sys.argv[2]), *json.loads(sys.argv[3]))
    else:
        main()

"""What imports and the command line's help cost, in processor time of fresh interpreters, over importing torch."""

import resource
import subprocess
import sys
from typing import Any, NamedTuple

from ratios import Ratio

import neurocollapse as nc

TORCH, TORCH_AND_XARRAY = ["-c", "import torch"], ["-c", "import torch, xarray"]
NAMES = ", ".join(name for name in nc.__all__ if name not in ("experiment", "plot"))
"""Public names but those that are there for their matplotlib."""


class Case(NamedTuple):
    """What is run by the interpreter, what of it does not count, and the target of the ratio."""

    name: str
    arguments: list[str]
    beyond: list[str] | None = None
    target: float = 0.5


def cases() -> list[Case]:
    """The rows of the table."""
    used = f"import torch, xarray; from neurocollapse import {NAMES}"
    return [
        Case("import neurocollapse", ["-c", "import neurocollapse"], target=0.35),
        Case("its public names, beyond torch + xarray", ["-c", used], beyond=TORCH_AND_XARRAY, target=0.35),
        Case("neurocollapse --help", ["-m", "neurocollapse", "--help"]),
        Case("neurocollapse analyze --help", ["-m", "neurocollapse", "analyze", "--help"]),
        Case("neurocollapse --version", ["-m", "neurocollapse", "--version"]),
    ]


def measure(case: Case, *, trials: int = 5) -> dict[str, Any]:
    """The ratio in interleaved trials, and the median time of importing torch in seconds."""
    seconds(case.arguments)  # once, to compile and to fill the cache of the disk
    torch, own = [], []
    for _ in range(trials):
        torch.append(seconds(TORCH))
        own.append(seconds(case.arguments) - (0.0 if case.beyond is None else seconds(case.beyond)))
    return {
        "case": case.name,
        "ratio": Ratio.of(own, torch).as_dict(),
        "torch_seconds": sorted(torch)[trials // 2],
        "target": case.target,
    }


def seconds(arguments: list[str]) -> float:
    """Processor time of an interpreter with these arguments, in user and kernel mode."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

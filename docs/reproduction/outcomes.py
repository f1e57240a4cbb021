"""What the page needs of one run, as a small text file: its setting, claims, and the values of printed numbers."""

import dataclasses
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from neurocollapse.experiments import Experiment, restored
from neurocollapse.experiments.experiment import WALL_SECONDS, Outcome
from neurocollapse.support import files
from reproduction.printed import Printed

CONFIDENCE = 0.95
LONGEST = 80
"""Letters of a file's name."""
SIGNIFICANT = 6
"""Digits that are kept, so that files are short and do not change with the last bits."""


def datasets(folders: Iterable[Path]) -> Iterator[xr.Dataset]:
    """Every outcome in the folders, in the order of their paths; finished parts of runs are passed over."""
    for folder in folders:
        for path in sorted(folder.rglob("*.nc")):
            found = files.open(path)
            if isinstance(found, xr.Dataset) and {"experiment", "status"} <= set(found.attrs):
                yield found


def summary(dataset: xr.Dataset, numbers: Iterable[Printed]) -> dict[str, Any]:
    """A run as plain values; its claims are judged as they are now, not as they were when it ran.

    Raises
    ------
    ValueError
        If several claims begin with a number's words, where its measurement is what the page shows.
    """
    outcome = restored(dataset)
    setting = dataclasses.asdict(outcome.setting)
    return {
        "experiment": outcome.experiment.name,
        "scale": scale_of(outcome),
        "command": command(outcome.experiment, setting),
        "setting": setting,
        "seeds": _seeds(setting),
        "seconds": _rounded(dataset.attrs.get(WALL_SECONDS)),
        "torch_version": str(dataset.attrs["torch_version"]),
        "status": outcome.status,
        "claims": [
            {key: _rounded(value) for key, value in dataclasses.asdict(verdict).items() if key in _OF_CLAIM}
            for verdict in outcome.verdicts
        ],
        "numbers": {
            one.quantity: values
            for one in numbers
            if one.experiment == outcome.experiment.name and (values := _number(one, outcome))
        },
    }


def scale_of(outcome: Outcome) -> str:
    """ "paper" for the printed setting, "small" for the small one, both with any first seed; else "changed"."""
    seed = outcome.setting.seed
    for scale in ("paper", "small"):
        if dataclasses.replace(outcome.experiment.setting(scale), seed=seed) == outcome.setting:
            return scale
    return "changed"


def command(experiment: Experiment, setting: Mapping[str, Any]) -> str:
    """The command line that repeats a run, with as few words as there can be."""
    lines = []
    for scale in ("small", "paper"):
        words = [f"neurocollapse experiment {experiment.name}", *(["--scale paper"] if scale == "paper" else [])]
        start = dataclasses.asdict(experiment.setting(scale))
        words += [f"--set {key}={_text(value)}" for key, value in setting.items() if value != start[key]]
        lines.append(" ".join(words))
    return min(reversed(lines), key=lambda line: line.count("--set"))  # of two as short the one at paper scale


def file_name(found: Mapping[str, Any]) -> str:
    """Where a run's file lies: named for scale and first seed, or for what differs from a scale.

    A name that had to be shortened ends with a digest of the whole, so that two runs never share a file.
    """
    words = [found["experiment"], found["scale"]]
    if found["scale"] == "changed":
        changes = found["command"].partition(f"experiment {found['experiment']}")[2]
        words[1] = changes.replace("--scale", "").replace("--set", "")
    elif found["setting"]["seed"]:
        words.append(f"seed-{found['setting']['seed']}")
    name = re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")
    if len(name) > LONGEST:
        name = f"{name[:LONGEST].strip('-')}-{zlib.crc32(name.encode()):08x}"
    return name + ".json"


def write(found: Mapping[str, Any], folder: Path) -> Path:
    """Write a run into its file."""
    folder.mkdir(exist_ok=True)
    path = folder / file_name(found)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read(folder: Path) -> list[dict[str, Any]]:
    """All runs in a folder."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


_OF_CLAIM = ("claim", "reference", "measured", "lower", "upper", "outcome", "reason")


def _number(one: Printed, outcome: Outcome) -> dict[str, Any]:
    """Mean, interval of the mean and verdict of a printed number; empty where this run says nothing of it."""
    verdicts = [verdict for verdict in outcome.verdicts if one.claim and verdict.claim.startswith(one.claim)]
    values = one.measured(outcome.dataset)
    if values is None:
        if one.values is not None or not verdicts:
            return {}
        if len(verdicts) > 1:
            raise ValueError(f"{one.experiment}: {one.claim!r} begins {len(verdicts)} claims; name one")
        values = np.array([verdicts[0].measured])
        if not np.isfinite(values).all():
            return {}
    low, high = _interval(values)
    outcomes = [verdict.outcome for verdict in verdicts]
    differing = [key for key, value in one.given.items() if _plain(outcome.dataset.attrs.get(key)) != value]
    verdict = max(outcomes, key=_GRAVITY.index) if outcomes else "not claimed"
    return {
        "mean": _rounded(float(values.mean())),
        "low": _rounded(low),
        "high": _rounded(high),
        "networks": len(values),
        "verdict": "another setting" if differing else verdict,
    }


_GRAVITY = ("holds", "assumptions unmet", "violated")


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean by Student's t; NaN of one value."""
    if len(values) < 2:
        return math.nan, math.nan
    room = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)) * float(values.std(ddof=1)) / len(values) ** 0.5
    return float(values.mean()) - room, float(values.mean()) + room


def _seeds(setting: Mapping[str, Any]) -> str:
    """First and last seed."""
    count = next((setting[key] for key in ("num_seeds", "num_repeats", "trials") if key in setting), 1)
    first = setting["seed"]
    return str(first) if count == 1 else f"{first} to {first + count - 1}"


def _rounded(value: Any) -> Any:
    """Numbers with few digits; None for those that JSON lacks."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{SIGNIFICANT}g}") if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """An attribute as a setting has it."""
    return value.tolist() if isinstance(value, np.ndarray) else list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    """A setting's value as --set takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

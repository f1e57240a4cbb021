"""Programs that are killed at random moments and go on: python killed_programs.py PROGRAM KILLS SEED FOLDER.

Each program runs in a process that is forked from this one, which has imported all there is to import: what is killed
is the work. Writes to FOLDER/result.json how often it was killed, and which runs ended with other bits than an unbroken
one.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.utils.data import TensorDataset

import neurocollapse as nc
from neurocollapse.dynamics import WeightTracker, rows
from neurocollapse.experiments import experiment
from neurocollapse.passes import checkpoint
from neurocollapse.train import fit

checkpoint.SAVE_INTERVAL, checkpoint.SAVE_SHARE = 0.0, 1e9
"""Save behind every batch, so that most kills fall into or beside a write."""
rows.WRITING_SHARE = 1e9
MOST_KILLS = 3
"""Kills of one run before it may end."""


def collect(folder: Path) -> dict[str, np.ndarray]:
    """A pass over forty batches."""
    source = torch.Generator().manual_seed(0)
    batches = [(torch.randn(16, 6, generator=source), torch.arange(16) % 4) for _ in range(40)]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 5))
    found = nc.collect(model, batches, covariance=True, resume=folder / "pass.state", progress=False)
    return {
        f"{name}/{key}": getattr(found[name], key).numpy() for name in found for key in ("count", "mean", "scatter")
    }


def train(folder: Path) -> dict[str, np.ndarray]:
    """A training under a tracker that writes at moments of its own."""
    rows.SECONDS_BETWEEN_WRITES = 0.02
    source = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(60, 5, generator=source), torch.arange(60) % 3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 20), nn.Tanh(), nn.Dropout(0.1), nn.Linear(20, 3))
    tracker = WeightTracker(path=folder / "weights.nc", reference=5)
    events = {"on_start": tracker, "after_batch": tracker}
    place = folder / "run.safetensors"
    history = fit(model, data, epochs=6, batch_size=8, learning_rate=0.01, events=events, resume=place, progress=False)
    return arrays(tracker.to_dataset()) | {"loss": np.array(history.loss), "weight": model[0].weight.detach().numpy()}


def penultimate_svd(folder: Path) -> dict[str, np.ndarray]:
    """An experiment in parts, with its trackers."""
    rows.SECONDS_BETWEEN_WRITES = 0.05
    small = {"networks": ("linear", "MLP"), "width": 12, "num_hidden": 2, "epochs": 2, "every": 3, "batch_size": 256}
    return arrays(experiment("penultimate-svd", folder=folder / "parts", progress=False, **small).dataset)


def arrays(dataset: xr.Dataset) -> dict[str, np.ndarray]:
    """Everything that a dataset holds."""
    found = {str(name): np.asarray(variable.values) for name, variable in dataset.variables.items()}
    return {name: values.astype(str) if values.dtype == object else values for name, values in found.items()}


PROGRAMS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    "collect": collect,
    "train": train,
    "penultimate-svd": penultimate_svd,
}


def fork(program: str, folder: Path, seconds: float | None) -> bool:
    """Run a program, and kill it after some seconds if it has not ended; whether it has."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            found = PROGRAMS[program](folder)
            np.savez(folder / "result.npz", **found)
            code = 0
        finally:
            os._exit(code)
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if os.waitstatus_to_exitcode(status) != 0:
                raise RuntimeError(f"{program} failed in {folder}")
            return True
        if deadline is not None and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.0005)


def result(folder: Path) -> dict[str, np.ndarray]:
    """What a program that ended has left."""
    with np.load(folder / "result.npz") as found:
        return dict(found)


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Whether every bit is."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype and found[name].tobytes() == value.tobytes()
        for name, value in expected.items()
    )


def main(program: str, kills: int, seed: int, folder: Path) -> None:
    """Kill the program at random moments until it was killed so often."""
    source = random.Random(seed)
    unbroken = folder / "unbroken"
    unbroken.mkdir()
    start = time.monotonic()
    fork(program, unbroken, None)
    duration = time.monotonic() - start
    expected, done, runs, wrong = result(unbroken), 0, 0, []
    while done < kills:
        place = folder / f"run{runs}"
        place.mkdir()
        runs += 1
        for _ in range(MOST_KILLS):
            if done == kills or fork(program, place, source.uniform(0, duration)):
                break
            done += 1
        fork(program, place, None)
        if not same(result(place), expected):
            wrong.append(place.name)
    (folder / "result.json").write_text(json.dumps({"kills": done, "runs": runs, "wrong": wrong}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))

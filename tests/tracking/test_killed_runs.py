"""A run that is killed at any moment has every finished record in its file, and goes on without a gap."""

import os
import random
import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import xarray as xr

import neurocollapse as nc

DRIVER = Path(__file__).with_name("slow_run.py")
TIMES = ["created", "elapsed_seconds", "command"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    path = tmp_path_factory.mktemp("unbroken") / "run.nc"
    runpy.run_path(str(DRIVER))["record_all"](path)
    return nc.open(path)


def killed_after(path: Path, seconds: float) -> list[int]:
    """Start the run, kill it some time after its first line, and return the steps that it had finished."""
    command = [sys.executable, str(DRIVER), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        timer = threading.Timer(seconds, process.send_signal, [signal.SIGKILL])
        timer.start()
        lines = [first, *process.stdout]
        timer.cancel()
    return [int(line) for line in lines if line.strip()]


def check_kills(path: Path, moments: list[float], unbroken: xr.Dataset) -> None:
    finished: set[int] = set()
    for seconds in moments:
        finished |= set(killed_after(path, seconds))
        steps = nc.open(path)["step"].values.tolist()
        assert steps == list(range(len(steps)))
        assert finished <= set(steps)
        assert len(steps) <= len(finished) + 1  # one may be in the file that was not printed yet
        finished |= set(steps)
        if len(steps) == unbroken.sizes["step"]:
            path.unlink()
            finished.clear()
    runpy.run_path(str(DRIVER))["record_all"](path)
    again = nc.open(path)
    xr.testing.assert_identical(
        again.drop_vars(TIMES).drop_attrs(deep=False), unbroken.drop_vars(TIMES).drop_attrs(deep=False)
    )
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_killed_run_keeps_what_is_finished_and_goes_on(tmp_path: Path, unbroken: xr.Dataset) -> None:
    check_kills(tmp_path / "run.nc", [0.05, 0.2], unbroken)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # each of the fifty runs imports torch
def test_fifty_kills_at_random_moments(tmp_path: Path, unbroken: xr.Dataset) -> None:
    generator = random.Random(0)
    check_kills(tmp_path / "run.nc", [generator.uniform(0.0, 0.6) for _ in range(50)], unbroken)

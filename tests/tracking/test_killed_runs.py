"""A run that is killed at any moment has every finished record in its file, and goes on without a gap."""

import os
import random
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import xarray as xr

import neurocollapse as nc

DRIVER = Path(__file__).with_name("slow_run.py")
driver = SimpleNamespace(**runpy.run_path(str(DRIVER)))
TIMES = ["created", "elapsed_seconds", "command"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    path = tmp_path_factory.mktemp("unbroken") / "run.nc"
    driver.record_all(path)
    return nc.open(path)


@contextmanager
def recorder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that starts the run as often as it is asked to."""
    command = [sys.executable, str(DRIVER), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield server
        server.stdin.close()


def killed_after(server: subprocess.Popen[str], seconds: float) -> list[int]:
    """Start the run, kill it some time after its first line, and return the steps that it had finished."""
    server.stdin.write("\n")
    server.stdin.flush()
    process, *lines = int(server.stdout.readline()), server.stdout.readline().strip()
    timer = threading.Timer(seconds, kill, [process])
    timer.start()
    while lines[-1] != driver.END:
        lines.append(server.stdout.readline().strip())
    timer.cancel()
    return [int(line) for line in lines[:-1]]


def kill(process: int) -> None:
    """Kill a process, unless it has ended."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def check_kills(path: Path, moments: list[float], unbroken: xr.Dataset) -> None:
    finished: set[int] = set()
    with recorder(path) as server:
        for seconds in moments:
            finished |= set(killed_after(server, seconds))
            steps = nc.open(path)["step"].values.tolist()
            assert steps == list(range(len(steps)))
            assert finished <= set(steps)
            assert len(steps) <= len(finished) + 1  # one may be in the file that was not printed yet
            finished |= set(steps)
            if len(steps) == unbroken.sizes["step"]:
                path.unlink()
                finished.clear()
    driver.record_all(path)
    again = nc.open(path)
    xr.testing.assert_identical(
        again.drop_vars(TIMES).drop_attrs(deep=False), unbroken.drop_vars(TIMES).drop_attrs(deep=False)
    )
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_killed_run_keeps_what_is_finished_and_goes_on(tmp_path: Path, unbroken: xr.Dataset) -> None:
    check_kills(tmp_path / "run.nc", [0.05, 0.2], unbroken)


@pytest.mark.slow
def test_fifty_kills_at_random_moments(tmp_path: Path, unbroken: xr.Dataset) -> None:
    generator = random.Random(0)
    check_kills(tmp_path / "run.nc", [generator.uniform(0.0, 0.6) for _ in range(50)], unbroken)

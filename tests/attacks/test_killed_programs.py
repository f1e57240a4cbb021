"""SIGKILL at random moments: what goes on afterwards ends with the bits of what was never killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("killed_programs.py")
PROGRAMS = ("collect", "train", "penultimate-svd")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def kill(program: str, times: int, seed: int, folder: Path) -> dict[str, object]:
    """What the driver says of a program."""
    command = [sys.executable, str(DRIVER), program, str(times), str(seed), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found: dict[str, object] = json.loads((folder / "result.json").read_text())
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_few_kills_change_no_bit(program: str, tmp_path: Path) -> None:
    found = kill(program, 3, 0, tmp_path)
    assert found["kills"] == 3
    assert found["wrong"] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("program", PROGRAMS)
def test_fifty_kills_change_no_bit(program: str, tmp_path: Path) -> None:
    found = kill(program, 50, 1, tmp_path)
    assert found["kills"] == 50
    assert found["wrong"] == []

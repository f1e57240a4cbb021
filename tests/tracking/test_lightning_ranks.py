"""Lightning on two processes: the first one measures, nothing else changes, and both end when an alarm says so."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import neurocollapse as nc

DRIVER = Path(__file__).with_name("lightning_ranks.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have written."""
    pytest.importorskip("lightning")
    folder = tmp_path_factory.mktemp("ranks")
    run = subprocess.run([sys.executable, str(DRIVER), str(folder)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_training_is_the_same_to_the_last_bit(folder: Path, rank: int) -> None:
    expected, found = (torch.load(folder / f"{case}.rank{rank}") for case in ("bare", "tracked"))
    assert len(found) > 9
    assert all(map(torch.equal, expected, found))


@pytest.mark.slow
def test_one_process_records_what_all_have_logged(folder: Path) -> None:
    run = nc.open(folder / "run.nc")
    assert run["step"].values.tolist() == [3, 6, 9]
    assert run["val_accuracy"].notnull().all()
    assert run.attrs["num_samples"] == 60


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_alarm_of_the_first_process_ends_both(folder: Path, rank: int) -> None:
    assert torch.load(folder / f"stopped.rank{rank}")[-1] == 2

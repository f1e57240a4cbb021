"""analyze under torchrun, in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file
from torch import nn

import neurocollapse as nc
from neurocollapse import data

MODEL = """
from torch import nn

def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))
"""
DYING = """
import os
from torch import nn

class Dying(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        if os.environ["RANK"] == "1":
            os._exit(9)
        return self.layer(x.flatten(1))

def network():
    return Dying()
"""


def launch(folder: Path, *arguments: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """Start a command on several ranks."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *launcher, "-m", "neurocollapse", "analyze", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("precision", "tolerance", "more"), [("single", 1e-7, ()), ("double", 1e-12, ()), ("double", 1e-12, ("--shard",))]
)
def test_two_ranks_give_the_answer_of_one(
    tmp_path: Path, precision: str, tolerance: float, more: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "ranked.py").write_text(MODEL)
    shared = ("--model", "ranked:network", "--checkpoint", "weights.safetensors", "--data", "digits")
    # 1,001 samples do not divide by two ranks: one sample repeated to even them out would show in the counts
    finished = launch(tmp_path, *shared, "--limit", "1001", "--precision", precision, *more)
    assert finished.returncode == 0, finished.stderr
    together = nc.open(tmp_path / "analysis.nc")
    assert isinstance(together, xr.Dataset)
    samples = data.open("digits", limit=1001)
    alone = nc.analyze(model, samples.loader(128), precision=precision)
    np.testing.assert_array_equal(together["class_count"], alone["class_count"])
    for name in ("within_trace", "between_trace", "compression", "separation", "discrimination"):
        np.testing.assert_allclose(together[name], alone[name], rtol=tolerance)
    assert finished.stdout.count("analysis:") == 1


def test_a_rank_that_dies_ends_the_run_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    finished = launch(tmp_path, "--model", "dying:network", "--data", "digits", "--timeout", "20")
    assert finished.returncode != 0
    assert not (tmp_path / "analysis.nc").exists()

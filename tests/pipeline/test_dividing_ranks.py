"""However several processes divide their samples, each sample counts once."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import neurocollapse as nc

DRIVER = Path(__file__).with_name("dividing_ranks.py")
driver = SimpleNamespace(**runpy.run_path(str(DRIVER)))
WORLDS = (pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow))
SECONDS = 280
"""Until processes that wait for each other are given up."""


@pytest.fixture(scope="module", params=WORLDS)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every rank has counted."""
    pytest.importorskip("accelerate", reason="accelerate is an optional dependency")
    world, folder = request.param, tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(DRIVER)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(world), str(folder)], env=environment, stderr=subprocess.PIPE)
        for rank in range(world)
    ]
    errors = [rank.communicate(timeout=SECONDS)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * world, errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


@pytest.mark.parametrize("way", driver.WAYS)
def test_each_of_41_samples_counts_once(results: list[dict[str, Any]], way: str) -> None:
    alone = nc.analyze(driver.network(), [driver.DATA.tensors], progress=False, precision="double")
    for found in results:
        assert found[way].get("error") is None
        assert found[way]["count"] == driver.TOTAL
        assert found[way]["value"] == pytest.approx(float(alone.compression[0]), rel=1e-10)  # sums in another order

"""The script for a GPU runs at tiny sizes on the CPU, so that it is ready when there is one."""

import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, imported as it is when it runs: from its own folder."""
    threads, before = torch.get_num_threads(), set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    yield import_module("device")
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
            del sys.modules[name]


def test_a_dry_run_goes_through_all_of_it(
    device: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "ENOUGH", 2)
    monkeypatch.delenv("NEUROCOLLAPSE_KERNEL", raising=False)
    path = tmp_path / "device.json"
    device.main(["--dry-run", "--output", str(path)])
    results = json.loads(path.read_text(encoding="utf-8"))
    assert [row["case"] for row in results["cases"]] == [case.name for case in device.cases()]
    for row in results["cases"]:
        assert row["ratio"]["num_pairs"] == 2
        assert row["launches_per_layer"] > 0
    assert all(row["same_twice"] and row["difference_from_cpu"] < 1e-7 for row in results["sums"])
    assert "a dry run on the CPU, whose numbers mean nothing" in capsys.readouterr().out
    assert "NEUROCOLLAPSE_KERNEL" not in os.environ


@pytest.mark.skipif(find_spec("triton") is None, reason="there is Triton for Linux alone")
def test_triton_is_measured_where_it_is_there(device: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "ENOUGH", 1)
    cpu, perceptron = torch.device("cpu"), device.cases(tiny=True)[-2]  # interpreted on the CPU, in tests
    assert device.kernels_on(cpu) == ["sorted", "triton"]
    assert device.measure(perceptron, cpu, "triton")["launches_per_layer"] > 0
    assert device.compared(cpu, "triton", 3, 64)["same_twice"]
    monkeypatch.delenv("TRITON_INTERPRET")
    assert device.kernels_on(cpu) == ["sorted"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_script_says_so(device: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no CUDA device here; --dry-run"):
        device.main([])

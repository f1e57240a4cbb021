"""The comparison with other packages runs at tiny sizes, and those that compute the same number agree."""

import dataclasses
import json
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
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script at tiny sizes, imported as it is when it runs: from its own folder."""
    threads, before = torch.get_num_threads(), set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    script, shapes = import_module("peers"), import_module("shapes")
    (perceptron, _), (resnet, blocks) = script.cases()
    small = [
        (dataclasses.replace(perceptron, build=lambda: shapes.perceptron(16, 3), inputs=(40, 784)), ["0", "2", "4"]),
        (dataclasses.replace(resnet, build=lambda: shapes.resnet18(8), inputs=(40, 3, 32, 32)), blocks),
    ]
    monkeypatch.setattr(script, "cases", lambda: small)
    yield script
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
            del sys.modules[name]


def test_methods_that_compute_the_same_agree_and_the_others_say_they_are_missing(
    peers: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "peers.json"
    peers.main(["--quick", "--output", str(path)])
    results = json.loads(path.read_text(encoding="utf-8"))
    for case, layers in peers.cases():
        rows = {row["method"]: row for row in results["rows"] if row["case"] == case.name}
        ours = rows["neurocollapse.collect"]["values"]
        assert list(ours) == layers
        assert rows["script of two passes"]["num_passes"] == 2
        assert rows["script of two passes"]["values"] == pytest.approx(ours, rel=1e-5)
        if find_spec("torchmetrics"):  # whose sums are in single precision
            assert rows["torchmetrics CalinskiHarabaszScore"]["values"] == pytest.approx(ours, rel=1e-3)
    missing = [package for package in ("torchlens", "torchmetrics") if find_spec(package) is None]
    assert capsys.readouterr().out.count("not installed") == len(missing) * len(peers.cases())

"""The benchmark of records runs at tiny sizes and gives finite numbers. Nothing is asked of their values."""

import dataclasses
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_every_case_gives_finite_ratios_at_tiny_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    before = set(sys.modules)
    tracking, shapes = import_module("tracking"), import_module("shapes")
    try:
        for case in tracking.cases():
            build = (lambda: shapes.resnet18(4)) if case.build is shapes.resnet18 else (lambda: shapes.perceptron(8))
            small = dataclasses.replace(case, build=build, batch=(20, *case.batch[1:]), num_batches=2, pairs=2)
            row = tracking.measure(small)
            assert row["ratio"]["num_pairs"] == 2
            assert row["ratio"]["value"] > 1
            json.dumps(row, allow_nan=False)
        row = tracking.measure_share(tracking.Share(seconds=0.5))
        assert row["steps"] >= row["records"] > 0
        assert 0 < row["share"] < 1
    finally:
        for name in {"tracking", "shapes", "ratios"} - before:
            sys.modules.pop(name, None)

"""The tracker's benchmark runs at tiny sizes and gives finite numbers. Nothing is asked of their values."""

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
    tracker = import_module("tracker")
    try:
        for case in tracker.cases():
            small = tracker.perceptron(12, 8) if "MLP" in case.name else case.train
            row = tracker.measure(dataclasses.replace(case, train=small, num_steps=4, every=2, pairs=2))
            assert row["while_training"]["num_pairs"] == row["in_all"]["num_pairs"] == 2
            assert row["in_all"]["value"] > 0
            assert row["product_us"] > 0
            json.dumps(row, allow_nan=False)
    finally:
        for name in {"tracker", "ratios"} - before:
            sys.modules.pop(name, None)

"""The tightness benchmark runs at tiny sizes, and no network in it leaves its bracket."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_every_kind_of_network_has_a_row_of_bounds_above_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    tightness = import_module("tightness")
    try:
        setting = tightness.Setting(num_classes=3, samples_per_class=4, width=16, num_steps=30)
        for kind in tightness.KINDS:
            row = tightness.row(kind, 1, setting)
            assert len(row) == 4 + len(tightness.BANDS)
            for problem in tightness.problems(kind, 1, setting):
                for name, values in tightness.tightness(problem).items():
                    assert (values[np.isfinite(values)] >= 1 - 1e-9).all(), name
    finally:
        sys.modules.pop("tightness", None)

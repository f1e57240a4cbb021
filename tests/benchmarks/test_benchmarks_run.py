"""The benchmarks run at tiny sizes and give finite numbers that JSON can hold. Nothing is asked of their values."""

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from neurocollapse.statistics import extension

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The command, imported as it is when it runs: from its own folder."""
    threads = torch.get_num_threads()
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    yield import_module("run")
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
            del sys.modules[name]


def test_every_case_gives_finite_ratios_at_tiny_sizes(run: ModuleType) -> None:
    shapes = import_module("shapes")
    tiny = {
        "perceptron": (lambda: shapes.perceptron(16, 3), (8, 784)),
        "deep_perceptron": (lambda: shapes.perceptron(16, 4), (8, 784)),
        "resnet18": (lambda: shapes.resnet18(8), (2, 3, 32, 32)),
        "resnet50": (lambda: shapes.resnet50(8), (2, 3, 32, 32)),
        "vision_transformer": (lambda: shapes.vision_transformer(12, 2, heads=2, size=32), (2, 3, 32, 32)),
    }
    for case in run.overhead.cases():
        build, inputs = tiny[case.build.__name__]
        row = run.overhead.measure(dataclasses.replace(case, build=build, inputs=inputs, trials=2))
        assert row["ratio"]["num_pairs"] == 2
        assert_finite(row)


@pytest.mark.skipif(bool(extension.MISSING), reason="no compiled kernel here")
def test_every_part_of_streaming_is_timed(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    model = import_module("shapes").perceptron(16, 3)
    monkeypatch.setattr(run.breakdown, "perceptron", lambda: model)
    kernel = extension.add_rows
    row = run.breakdown.measure(5, trials=2)
    assert [part["part"] for part in row["parts"]][-1] == "the sums"
    assert extension.add_rows is kernel
    assert not any(module._forward_hooks for module in model.modules())
    assert_finite(row)


def test_every_axis_gives_finite_exponents_at_tiny_sizes(run: ModuleType) -> None:
    size = run.scaling.Size(num_batches=2, num_features=130)
    for axis in run.scaling.AXES:
        start = getattr(size, axis)
        row = run.scaling.measure(axis, [size, size._replace(**{axis: 2 * start})])
        assert [point[axis] for point in row["points"]] == [start, 2 * start]
        assert_finite(row)


def test_peak_memory_is_measured_in_its_own_process(run: ModuleType) -> None:
    assert run.scaling.peak_memory(4, 2**17)["peak_bytes"] > 0


def test_a_language_model_is_streamed_alone_and_in_shards(run: ModuleType) -> None:
    shape = run.scale.Shape(num_classes=50, width=264, depth=2, heads=2, sequences=2, length=8, trials=2)
    rows = [run.scale.streaming(shape, state_bytes=width) for width in (16, 8)]
    assert rows[1]["moments_gib"] < rows[0]["moments_gib"]
    ranks = run.scale.sharded(shape)
    assert [row["moments_gib"] for row in ranks] == [rows[0]["moments_gib"] / 2] * 2
    assert_finite([*rows, *ranks])


def test_more_classes_give_finite_exponents(run: ModuleType) -> None:
    row = run.scale.against_classes((10, 20), num_features=130, rows=64, num_batches=2)
    assert [point["num_classes"] for point in row["points"]] == [10, 20]
    assert_finite(row)


def test_an_import_is_measured_in_its_own_process(run: ModuleType) -> None:
    case = run.imports.Case("nothing", ["-c", "pass"], beyond=["-c", "pass"])
    row = run.imports.measure(case, trials=1)
    assert row["torch_seconds"] > 0
    assert_finite(row)
    assert all(case.arguments[0] in ("-c", "-m") for case in run.imports.cases())


def test_other_speeds_are_measured_in_their_own_process(run: ModuleType) -> None:
    row = run.others.measure(next(case for case in run.others.CASES if case.name.startswith("analyze")))
    assert row["seconds"] > 0
    assert_finite(row)


def test_other_speeds_are_those_of_what_they_name(run: ModuleType) -> None:
    shapes = {case.name: case.make for case in run.others.CASES}
    features, labels, *_ = shapes["nearest class mean, K = 1000, d = 2048, N = 5000"]()
    assert (tuple(features.shape), int(labels.max())) == ((5000, 2048), 999)
    assert run.others.classes(6, 4).count.tolist() == [2] * 6
    assert [tuple(weight.shape) for weight in run.others.linear_network(12)[0]] == [(12, 12)] * 3 + [(10, 12)]


def test_every_method_gives_a_finite_error(run: ModuleType) -> None:
    row = run.accuracy.measure(1e-3, num_samples=600, num_features=130)
    assert set(row["relative_error"]) == set(run.accuracy.METHODS)
    assert_finite(row)


def test_the_command_writes_what_it_prints(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run.accuracy, "SPREADS", (1e-1,))
    path = tmp_path / "results.json"
    run.main(["--only", "accuracy", "--output", str(path)])
    results = json.loads(path.read_text(encoding="utf-8"))
    assert set(results) == {"machine", "accuracy"}
    assert "ours single" in capsys.readouterr().out


def assert_finite(value: Any) -> None:
    """Every number inside is finite, and JSON can hold all of it."""
    json.dumps(value, allow_nan=False)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    for part in parts:
        assert_finite(part)
    if isinstance(value, float):
        assert math.isfinite(value)


def test_cases_of_a_checkout_are_listed_in_a_process_of_its_own(run: ModuleType) -> None:
    before_after = import_module("before_after")
    names = before_after._measured(FOLDER.parent, None, "K=10")
    assert names == dict.fromkeys(
        [case.name for case in run.overhead.cases() if "K=10" in case.name and not case.slow], 0.0
    )

"""Several processes get the answer of one, and a process that disagrees, dies or stays away is an error."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from neurocollapse.metrics import compression
from neurocollapse.statistics import ClassMoments, MomentCollection

WORKER = Path(__file__).with_name("all_reduce_worker.py")
TOLERANCES = {"single": 1e-7, "double": 1e-12, "covariance": 1e-12}


def load_worker() -> ModuleType:
    specification = importlib.util.spec_from_file_location("all_reduce_worker", WORKER)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


worker = load_worker()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where three processes have left what they got; the last of them was meant to die."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, "-W", "error", str(WORKER), str(rank), str(folder)] for rank in range(worker.WORLD)]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0, 7], outputs
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    """What the two surviving processes report."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def load(folder: Path, name: str, rank: int) -> MomentCollection:
    return MomentCollection.load(folder / f"{name}.{rank}")


@pytest.mark.parametrize("scheme", worker.SCHEMES)
@pytest.mark.parametrize("options", worker.OPTIONS)
def test_three_processes_get_the_answer_of_one(
    options: str, scheme: str, folder: Path, relative: Callable[[Any, Any], float]
) -> None:
    alone = worker.collection(torch.arange(301), **worker.OPTIONS[options])
    for rank in range(worker.WORLD):
        together = load(folder, f"{options} {scheme}", rank)
        assert list(together) == list(alone)
        assert together.attributes == {"source": "test", "num_samples": alone.num_samples}
        for name, expected in alone.items():
            found = together[name]
            present = expected.present
            assert torch.equal(found.count, expected.count)
            assert relative(found.scatter, expected.scatter) <= TOLERANCES[options]
            assert relative(found.mean[present], expected.mean[present]) <= TOLERANCES[options]
            assert abs(compression(found) / compression(expected) - 1) <= TOLERANCES[options]
            assert found.scatter[4] == 0.0  # collapsed
            assert found.mean[3].isnan().all()  # absent
            assert together.record(name).num_skipped == 301
            if expected.within_scatter is not None and found.within_scatter is not None:
                assert relative(found.within_scatter, expected.within_scatter) <= TOLERANCES[options]
                assert torch.equal(found.within_scatter, found.within_scatter.T)


def test_every_process_gets_the_same_bits(
    folder: Path, same_moments: Callable[[ClassMoments, ClassMoments], bool]
) -> None:
    for name in ("single interleaved", "covariance one rank has nothing", "classes", "layers"):
        first = load(folder, name, 0)
        for rank in (1, 2):
            other = load(folder, name, rank)
            assert other.layers == first.layers
            assert all(same_moments(first[layer], other[layer]) for layer in first)


def test_processes_may_have_met_different_numbers_of_classes(folder: Path) -> None:
    reduced = load(folder, "classes", 0)
    alone = worker.collection(torch.arange(301), worker.NUM_CLASSES + 2)
    for name in alone:
        assert torch.equal(reduced[name].count, alone[name].count)
        torch.testing.assert_close(reduced[name].scatter, alone[name].scatter, rtol=1e-7, atol=0)


def test_a_process_without_layers_takes_part(folder: Path) -> None:
    reduced = load(folder, "layers", 0)
    alone = worker.collection(torch.arange(301), covariance=True)
    assert list(reduced) == list(alone)
    for name in alone:
        torch.testing.assert_close(reduced[name].scatter, alone[name].scatter, rtol=1e-7, atol=0)
        assert reduced[name].within_scatter is not None


@pytest.mark.parametrize("bias", [True, False])
def test_a_process_without_samples_gets_the_readers_of_the_others(folder: Path, bias: bool) -> None:
    expected = worker.with_reader(MomentCollection({}), 0, bias=bias).readers["wide"]
    for rank in range(worker.WORLD):
        readers = load(folder, f"reader {bias}", rank).readers
        assert list(readers) == ["wide"]
        assert readers["wide"].equals(expected)


def test_processes_that_read_the_features_differently_all_get_the_error(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["other readers"]["error"] == "ValueError"
        assert result["other readers"]["message"] == (
            "the processes read the features with linear layers of different weights; give every rank the same model"
        )


def test_a_group_of_two_reduces_by_itself(folder: Path) -> None:
    alone = worker.collection(torch.arange(301))
    for rank in (0, 1):
        reduced = load(folder, "pair", rank)
        for name in alone:
            torch.testing.assert_close(reduced[name].scatter, alone[name].scatter, rtol=1e-7, atol=0)


@pytest.mark.parametrize("disagreement", ["other layers", "other widths", "covariance on one rank"])
def test_processes_that_disagree_all_get_the_error(disagreement: str, results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result[disagreement]["error"] == "ValueError"
        assert result[disagreement]["message"] == (
            "the processes have collected different layers; give every rank the same model and options"
        )


def test_no_samples_anywhere_is_an_error_on_every_process(results: list[dict[str, Any]]) -> None:
    for result in results:
        message = "no process has collected a single sample; check the loader"
        assert (result["no samples at all"]["error"], result["no samples at all"]["message"]) == ("ValueError", message)


def test_without_a_process_group_the_error_says_how_to_get_one(results: list[dict[str, Any]]) -> None:
    assert results[0]["without a group"]["error"] == "RuntimeError"
    assert "call init_process_group first or start with torchrun" in results[0]["without a group"]["message"]


def test_a_process_that_dies_ends_the_others_with_an_error(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["a rank died"]["error"] == "RuntimeError"
        assert result["a rank died"]["seconds"] < 60


def test_a_process_that_stays_away_is_given_up_in_time(results: list[dict[str, Any]]) -> None:
    assert results[0]["a rank stayed away"]["error"] == "RuntimeError"
    assert worker.AWAY / 2 < results[0]["a rank stayed away"]["seconds"] < 2 * worker.AWAY

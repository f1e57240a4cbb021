"""A rank that fails, is caught and goes on never adds its numbers to those of another run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("failing_ranks.py")
SECONDS = 280
"""Until processes that wait for each other are given up."""
GOOD = ("good", "after fails", "after wrong option", "after interrupted", "parts of one's own", "second pass")


@pytest.fixture(
    scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def world(request: pytest.FixtureRequest) -> int:
    """The number of ranks, of which number 1 makes all the trouble."""
    return int(request.param)


@pytest.fixture(scope="module")
def results(world: int, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What came of every call on each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(DRIVER), str(rank), str(world), str(folder)], env=environment, stderr=subprocess.PIPE
        )
        for rank in range(world)
    ]
    errors = [rank.communicate(timeout=SECONDS)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * world, errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


@pytest.mark.parametrize("call", GOOD)
def test_runs_before_and_after_trouble_are_right(results: list[dict[str, Any]], call: str) -> None:
    for found in results:
        # parts of one's own are read in other batches, which moves products in single precision
        assert found[call]["value"] == pytest.approx(results[0]["good"]["value"], rel=1e-6)
        assert found[call]["count"] == 41
        assert found[call]["warnings"] == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ("fails", "OSError", "broken disk"),
        ("fails in collect", "OSError", "broken disk"),
        ("wrong option", "NoMatchError", "`layers` names 'nope'"),
    ],
)
def test_one_rank_fails_and_the_other_says_which(
    results: list[dict[str, Any]], call: str, error: str, message: str
) -> None:
    assert results[1][call]["error"] == error
    assert message in results[1][call]["message"]
    for found in (results[0], *results[2:]):
        assert found[call]["error"] == "ProcessError"
        assert found[call]["message"].startswith("process 1 has failed, which ends this run on all; its own error")


def test_a_rank_that_was_interrupted_and_goes_on_is_not_in_the_run_of_the_other(results: list[dict[str, Any]]) -> None:
    assert results[1]["interrupted"]["error"] == "KeyboardInterrupt"
    for found in results:
        assert found["peer of interrupted"]["error"] == "ProcessError"
        assert "the processes are not in the same run: this one is in number" in found["peer of interrupted"]["message"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("other weights", "the models of the processes have different weights; load the same checkpoint"),
        ("the same batches", "several processes have counted the same samples; give each a part"),
        ("undivided", "several processes have counted the same samples"),
        ("undivided and mixed", "several processes have counted the same samples"),
        ("repeats at the beginning", "have counted {repeated} samples of a data set of 41, some of them twice"),
    ],
)
def test_what_would_be_counted_wrongly_is_refused_on_every_rank(
    results: list[dict[str, Any]], world: int, call: str, message: str
) -> None:
    repeated = world * (-(-41 // world) + 4)  # each part is filled up to the same length, behind four more samples
    message = message.format(repeated=repeated)
    for found in results:
        assert found[call]["error"] == "ValueError"
        assert message in found[call]["message"]
        assert "\n" not in found[call]["message"]


def test_buffers_that_differ_are_warned_of(results: list[dict[str, Any]]) -> None:
    for found in results:
        (warning,) = found["other buffers"]["warnings"]
        assert warning.startswith("the models of the processes have different buffers, such as running statistics")


def test_a_group_that_is_ignored_is_warned_of(results: list[dict[str, Any]], world: int) -> None:
    for found in results:
        (warning,) = found["not asked for"]["warnings"]
        assert warning.startswith(
            f"there is a group of {world} processes, but these are the numbers of this one's own samples"
        )
        assert found["not asked for"]["value"] != pytest.approx(results[0]["good"]["value"], rel=1e-2)

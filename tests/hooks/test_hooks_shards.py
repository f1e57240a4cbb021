"""A model that several processes share gives the features of the whole, or is refused."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

DRIVER = Path(__file__).with_name("split_ranks.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two ranks has found."""
    folder = tmp_path_factory.mktemp("split")
    ranks = [
        subprocess.Popen([sys.executable, str(DRIVER), str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("case", ["columns", "columns, distributed", "one layer"])
def test_weights_that_are_split_over_processes_are_refused_in_one_line(found, case):
    for rank in found:
        assert "are split over 2 processes (tensor parallel, " in rank[case]
        assert len(rank[case]) <= 300


@pytest.mark.parametrize("case", ["fully_shard", "fully_shard, resumed"])
def test_fully_sharded_weights_give_what_the_whole_model_gives(found, case):
    for rank in found:
        assert rank["is split"]
        assert rank[case] == pytest.approx(rank["whole"], rel=1e-6)  # float32 matrix products of the model


@pytest.mark.parametrize("case", ["features in parts", "samples in parts"])
def test_activations_in_parts_are_put_together(found, case):
    for rank in found:
        whole = rank["whole"]
        assert rank[case] == pytest.approx([*whole, whole[-1]], rel=1e-6)  # another part only hands on the features


def test_a_weight_in_parts_is_read_whole(found):
    driver = SimpleNamespace(**runpy.run_path(str(DRIVER)))
    for rank in found:
        assert rank["weight"] == driver.build()[0].weight.tolist()

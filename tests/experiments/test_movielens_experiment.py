"""The ratings experiment reads files in MovieLens' format and compares the methods fairly."""

from pathlib import Path

import numpy as np
import pytest

from neurocollapse.data import DataError
from neurocollapse.experiments.recovery.movielens import EXPERIMENT, MovieLens, claims, open_ratings, write_ratings
from neurocollapse.experiments.workplace import Workplace

QUIET = Workplace(progress=False)


def test_all_methods_end_at_the_same_error_and_the_claims_can_fail() -> None:
    outcome = EXPERIMENT(MovieLens(num_steps=700, seed=1), workplace=QUIET)
    errors = outcome.dataset["rmse"].to_series()
    assert outcome.status == "holds"
    assert errors["compressed"] == pytest.approx(errors["alternating"], rel=0.05)
    assert errors["compressed"] < 0.7 * errors["mean rating"]
    assert errors["mean rating"] == pytest.approx(1.0, abs=0.2)
    worse = outcome.dataset.assign(rmse=outcome.dataset["rmse"] * np.array([1, 2, 1, 1, 1]))
    slower = outcome.dataset.assign(seconds=outcome.dataset["seconds"] * np.array([1, 100, 1, 1, 1]))
    assert [verdict.outcome for verdict in claims(worse)] == ["violated", "violated", "violated", "holds"]
    assert [verdict.outcome for verdict in claims(slower)] == ["holds", "holds", "holds", "violated"]
    assert len(outcome.figure().axes) == 2
    assert all({"long_name", "units"} <= set(variable.attrs) for variable in outcome.dataset.data_vars.values())


def test_the_file_is_found_as_it_is_and_in_the_data_root(tmp_path: Path) -> None:
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    file = write_ratings(folder / "u.data", users=20, items=30, seed=2)
    direct = open_ratings(MovieLens(file=str(file)), QUIET)
    rooted = open_ratings(MovieLens(file="ml-100k/u.data"), Workplace(data_root=tmp_path))
    assert len(direct) == len(rooted) > 100
    assert set(direct.values.tolist()) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    with pytest.raises(DataError, match=r"cannot read ratings from .*nowhere") as caught:
        open_ratings(MovieLens(file="nowhere/u.data"), Workplace(data_root=tmp_path))
    assert "\n" not in str(caught.value)

"""Ratings files are read or refused in one line, and alternating minimisation completes what has low rank."""

import math
from pathlib import Path

import pytest
import torch

from neurocollapse.data.synthetic import low_rank_target
from neurocollapse.lowrank import Observations, RatingsError, alternate, observe, read_ratings

LINES = ["196\t242\t3\t881250949", "186\t302\t3.5\t891717742", "22\t242\t1\t878887116"]


def write(folder: Path, lines: list[str]) -> Path:
    """A ratings file."""
    file = folder / "u.data"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_ratings_are_numbered_in_the_order_of_the_files_numbers(tmp_path: Path) -> None:
    ratings = read_ratings(write(tmp_path, LINES))
    assert ratings.users.tolist() == [2, 1, 0]
    assert ratings.items.tolist() == [0, 1, 0]
    assert ratings.values.tolist() == [3.0, 3.5, 1.0]
    assert (ratings.num_users, ratings.num_items, len(ratings)) == (3, 2, 3)
    assert torch.equal(read_ratings(tmp_path).values, ratings.values)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3 4", r"u.data, line 4: expected user, item, rating and time separated by tabs, got 1 field: '1 2 3 4'"),
        ("1\t2\t3", "line 4: expected .* got 3 fields"),
        ("1\tx\t3\t4", "line 4: invalid literal for int"),
        ("1\t2\tfour\t4", "line 4: could not convert string to float: 'four'"),
        (f"{10**20}\t2\t3\t4", r"line 4: the numbers of users and items must be below 2\^63, got '1000"),
        (f"1\t-{10**20}\t3\t4", r"line 4: the numbers of users and items must be below 2\^63, got '1"),
        ("1\t2\tnan\t4", "line 4: the rating must be a finite number, got nan"),
        ("196\t242\t4\t881250950", "user 196 rates item 242 twice; keep one of the lines"),
    ],
)
def test_bad_lines_are_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(RatingsError, match=message) as caught:
        read_ratings(write(tmp_path, [*LINES, line]))
    assert "\n" not in str(caught.value)


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RatingsError, match=r"cannot read ratings from .*u\.data.*; name u\.data of MovieLens-100k"):
        read_ratings(tmp_path)
    (tmp_path / "u.data").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RatingsError, match="cannot read ratings"):
        read_ratings(tmp_path)
    with pytest.raises(RatingsError, match="holds no ratings"):
        read_ratings(write(tmp_path, [""]))


def test_a_split_keeps_every_rating_once(tmp_path: Path) -> None:
    lines = [f"{user}\t{item}\t{user + item}\t0" for user in range(9) for item in range(7)]
    ratings = read_ratings(write(tmp_path, lines))
    train, test = ratings.split(0.75, seed=1)
    assert (len(train), len(test), train.shape) == (47, 16, (9, 7))
    pairs = {(int(r), int(c)) for part in (train, test) for r, c in zip(part.rows, part.columns, strict=True)}
    assert len(pairs) == 63
    for part in (train, test):
        assert torch.equal(part.values, (part.rows + part.columns).double())
    for fraction in (1.0, 0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"must leave ratings in both parts, got {fraction} of 63"):
            ratings.split(fraction)


def test_alternating_minimisation_completes_a_matrix_of_low_rank() -> None:
    target = low_rank_target(60, 50, 2, seed=0)
    seen, hidden = observe(target, 0.4, seed=1)
    left, right = alternate(seen, 2, ridge=1e-8, num_rounds=200, tolerance=0.0)
    error = (left @ right.T - target)[hidden.rows, hidden.columns]
    assert float(error.norm() / hidden.values.norm()) < 1e-5


def test_every_half_round_solves_its_ridge_regressions() -> None:
    target = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(8, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    left, right = alternate(Observations.where(target, mask), 2, ridge=0.3, num_rounds=3, tolerance=0.0)
    for column in range(6):
        rows = mask[:, column]
        normal = left[rows].T @ left[rows] + 0.3 * int(rows.sum()) * torch.eye(2)
        expected = torch.linalg.solve(normal, left[rows].T @ target[rows, column])
        torch.testing.assert_close(right[column], expected)


def test_lines_without_entries_get_zero_and_bad_settings_are_refused() -> None:
    seen = Observations.of(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.ones(2), (3, 2), allow_empty=True)
    left, right = alternate(seen, 1, ridge=0.1)
    assert float(left[2].abs() + right[1].abs()) == 0
    for rank, ridge in ((0, 0.1), (1, 0.0), (1, math.nan)):
        with pytest.raises(ValueError, match=r"`rank` must be an integer|`ridge` must be a positive number"):
            alternate(seen, rank, ridge=ridge)
    with pytest.raises(ValueError, match="`num_rounds` must be an integer of at least 1, got 0"):
        alternate(seen, 1, ridge=0.1, num_rounds=0)

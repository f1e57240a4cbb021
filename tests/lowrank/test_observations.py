"""Observed entries are checked, sorted and drawn without repetition."""

import math
import warnings

import pytest
import torch

from neurocollapse.data.synthetic import low_rank_target
from neurocollapse.lowrank import Factors, Observations, observe
from neurocollapse.lowrank.sampled import SampledProduct

ROWS, COLUMNS, VALUES = torch.tensor([1, 0, 1]), torch.tensor([1, 0, 0]), torch.tensor([3.0, 1.0, 2.0])


def test_entries_are_sorted_by_row_and_column() -> None:
    found = Observations.of(ROWS, COLUMNS, VALUES, (2, 2))
    assert found.rows.tolist() == [0, 1, 1]
    assert found.columns.tolist() == [0, 0, 1]
    assert found.values.tolist() == [1.0, 2.0, 3.0]
    assert found.fraction == 0.75


def test_a_mask_gives_the_same_entries() -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls the layout beta, once a process
        csr = mask.float().to_sparse_csr()
    for given in (mask, mask.float(), mask.to_sparse(), csr):
        assert Observations.where(matrix, given).values.tolist() == [0.0, 2.0, 4.0]
    with pytest.raises(ValueError, match="`mask` must be true or false everywhere, got NaN"):
        Observations.where(matrix, torch.where(mask, 1.0, math.nan))


def test_bad_observations_are_refused_in_one_line() -> None:
    cases = [
        ((ROWS, COLUMNS, VALUES[:2], (2, 2)), r"vectors of one length ≥ 1, got shapes \(3,\), \(3,\) and \(2,\)"),
        ((ROWS[:0], COLUMNS[:0], VALUES[:0], (2, 2)), "one length ≥ 1"),
        ((ROWS, COLUMNS, VALUES, (1, 2)), r"`rows` must lie in \[0, 1\), got 1 at position 0"),
        ((ROWS, -COLUMNS, VALUES, (2, 2)), r"`columns` must lie in \[0, 2\), got -1 at position 0"),
        ((ROWS, COLUMNS, VALUES * torch.tensor([1, math.nan, 1]), (2, 2)), "got nan at row 0, column 0; leave unknown"),
        ((ROWS, COLUMNS, VALUES / torch.tensor([1, 1, 0]), (2, 2)), "got inf at row 1, column 0"),
        ((ROWS * 0, COLUMNS, VALUES, (2, 2)), "row 0, column 0 comes twice"),
        ((ROWS, COLUMNS, VALUES, (3, 2)), r"row 2 has none \(1 of 3 are empty\); drop them"),
        ((ROWS, COLUMNS, VALUES, (2, 4)), r"column 2 has none \(2 of 4 are empty\)"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            Observations.of(*arguments)
        assert "\n" not in str(caught.value)
    for rows in (ROWS + 0.5, ROWS.float(), ROWS > 0):
        with pytest.raises(TypeError, match=r"`rows` must hold integers, got torch\.(float32|bool)"):
            Observations.of(rows, COLUMNS, VALUES, (2, 2))
    with pytest.raises(ValueError, match="`mask` must have the shape of the matrix"):
        Observations.where(torch.ones(2, 2), torch.ones(2, 3))
    assert len(Observations.of(ROWS, COLUMNS, VALUES, (3, 2), allow_empty=True)) == 3


@pytest.mark.parametrize("enumerated", [2**24, 0])
def test_drawn_positions_differ_and_the_hidden_ones_are_others(
    enumerated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurocollapse.lowrank.observations._ENUMERATED", enumerated)
    target = torch.arange(30.0 * 40).reshape(30, 40)
    observed, hidden = observe(target, 0.7, seed=3)
    assert (len(observed), len(hidden)) == (840, 360)
    both = torch.cat([observed.values, hidden.values])
    assert both.sort().values.tolist() == list(range(1200))  # the values are the positions
    again, other = observe(target, 0.7, seed=3)[0], observe(target, 0.7, seed=4)[0]
    assert torch.equal(observed.values, again.values)
    assert not torch.equal(observed.values, other.values)


def test_every_position_is_drawn_equally_often() -> None:
    counts, target = torch.zeros(100), torch.arange(100.0).reshape(10, 10)
    for seed in range(400):
        counts[observe(target, 0.8, seed=seed)[0].values.long()] += 1
    assert float((counts - 320).abs().max()) < 40  # five standard deviations of a binomial


def test_factors_are_observed_like_their_product() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 25, 3, generator=generator, dtype=torch.float64)
    of_factors, hidden = observe(Factors(left, right), 0.4, seed=1, max_hidden=7)
    of_product = observe(left @ right.T, 0.4, seed=1)[0]
    torch.testing.assert_close(of_factors.values, of_product.values)
    assert len(hidden) == 7


@pytest.mark.parametrize("fraction", [0.0, 1.5, math.nan])
def test_fractions_outside_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"`fraction` must lie in \(0, 1\]"):
        observe(torch.ones(5, 5), fraction)


def test_too_few_observations_leave_an_empty_row() -> None:
    with pytest.raises(ValueError, match="every row needs an observed entry"):
        observe(low_rank_target(50, 50, 2), 0.01)
    assert len(observe(low_rank_target(50, 50, 2), 0.01, allow_empty=True)[0]) == 25
    with pytest.raises(ValueError, match="`target` must be a matrix or its two factors"):
        observe(torch.ones(5), 0.5)


@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
@pytest.mark.parametrize(("shape", "inner"), [((41, 23), 4), ((7, 300), 1), ((1, 5), 3), ((90, 90), 130)])
def test_sampled_products_equal_the_entries_of_the_product(
    density: float, shape: tuple[int, int], inner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurocollapse.lowrank.sampled._BLOCK", 400)  # several blocks and pieces
    generator = torch.Generator().manual_seed(1)
    rows, columns = (torch.rand(shape, generator=generator) < density).nonzero(as_tuple=True)
    left, right = (torch.randn(size, inner, generator=generator, dtype=torch.float64) for size in shape)
    sample = SampledProduct(rows, columns, shape)
    torch.testing.assert_close(sample(left, right), (left @ right.T)[rows, columns])
    torch.testing.assert_close(sample(2 * left, right), 2 * (left @ right.T)[rows, columns])

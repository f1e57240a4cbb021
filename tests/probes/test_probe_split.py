"""The held-out part: stratified, and the same for the same seed."""

from typing import Any

import numpy as np
import pytest

from neurocollapse.probes import held_out


@pytest.mark.parametrize("sizes", [(10, 20, 30), (1, 1, 1), (2, 5, 1, 100), (0, 3)])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_every_class_gives_its_share_and_keeps_one(sizes: tuple[int, ...], share: float) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    chosen = held_out(labels, share=share)
    for k, size in enumerate(sizes):
        held = chosen[labels == k].sum()
        assert held <= max(size - 1, 0)
        assert abs(held - share * size) <= 0.5 or held == max(size - 1, 0)


def test_the_split_depends_on_the_seed_alone() -> None:
    labels = np.arange(90) % 3
    before = np.random.get_state()[1].tolist()  # noqa: NPY002 - the global state is meant
    assert np.array_equal(held_out(labels), held_out(labels, seed=0))
    assert not np.array_equal(held_out(labels), held_out(labels, seed=1))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002 - the global state is meant


def test_every_sample_is_drawn_about_as_often() -> None:
    counts = sum(held_out([0] * 10, seed=seed).astype(int) for seed in range(1000))
    # Binomial(1000, 0.3): five standard deviations of 14.5.
    assert np.abs(counts - 300).max() < 75


@pytest.mark.parametrize("share", [0, 1, -0.1, "some", True])
def test_shares_that_leave_a_part_empty_are_refused(share: Any) -> None:
    with pytest.raises(ValueError, match=r"`share` must be a number between 0 and 1"):
        held_out([0, 1], share=share)

"""The small causal transformer: nothing sees what comes later, and the sizes it refuses."""

import pytest
import torch
from torch import Tensor

import neurocollapse as nc
from neurocollapse.models import SmallGPT


def model() -> SmallGPT:
    torch.manual_seed(0)
    return SmallGPT(20, 9, width=8, depth=2, num_heads=2).double()


def tokens() -> Tensor:
    return torch.randint(20, (3, 9), generator=torch.Generator().manual_seed(1))


def test_a_position_depends_on_those_before_it_alone() -> None:
    net, ids = model(), tokens()
    changed = ids.clone()
    changed[:, 5] = (ids[:, 5] + 1) % 20
    before, after = net(ids), net(changed)
    assert before.shape == (3, 9, 20)
    assert torch.equal(before[:, :5], after[:, :5])
    assert bool((before[:, 5:] != after[:, 5:]).any(dim=2).all())
    torch.testing.assert_close(
        net(ids[:, :6]), before[:, :6], rtol=0, atol=1e-14
    )  # so padding on the right is harmless


def test_its_blocks_and_what_the_head_reads_are_hooked_by_name() -> None:
    net, ids = model(), tokens()
    with nc.capture(net, ["blocks", "penultimate"], pool="tokens") as features, torch.no_grad():
        scores = net(ids)
    assert list(features) == ["blocks.0", "blocks.1", "head@in"]
    expected = features["head@in"] @ net.head.weight.T
    torch.testing.assert_close(scores.flatten(0, 1), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 10, "num_heads": 4}, r"`width` must be a multiple of num_heads=4, got 10"),
        ({"depth": 0}, r"`depth` must be"),
        ({"length": 2.5}, r"`length` must be"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        SmallGPT(**{"num_tokens": 5, "length": 4, **sizes})


def test_sequences_that_do_not_fit_are_refused() -> None:
    for ids in (torch.zeros(2, 10, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"`input_ids` must have shape \(samples, at most 9\), got"):
            model()(ids)

"""From which layer on a network decides, or can be read: by hand, planted, and through `analyze`."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.metrics.depth import effective_depth, probe_depth


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.5, 0.2, 0.11, 0.1], 2),
        ([0.5, 0.05, 0.3, 0.1], 1),  # better than the last one is near enough
        ([0.5, 0.105, 0.05, 0.1], 1),  # the last one is meant, not the best
        ([0.3], 0),
        ([math.nan, 0.4, 0.1, math.nan], 2),
        ([math.nan, math.nan], None),
        ([0.1, 0.1 + 1e-9], 0),
    ],
)
def test_effective_depth_is_the_first_layer_near_the_last(errors: list[float], expected: int | None) -> None:
    assert effective_depth(errors) == expected


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [([0.2, 0.94, 0.96, 1.0], 2), ([0.95, 1.0], 0), ([math.nan, 0.5, 0.5], 1), ([math.nan], None), ([0.0, 0.0], 0)],
)
def test_probe_depth_is_the_first_layer_with_most_of_the_best(accuracies: list[float], expected: int | None) -> None:
    assert probe_depth(accuracies) == expected


def planted() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """Classes told by the size of one coordinate: neither means nor lines see them before a layer squares it."""

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square()

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    sign = torch.randint(0, 2, (400,), generator=generator) * 2 - 1
    inputs = torch.stack([sign * (1 + 2 * labels), 0.1 * torch.randn(400, generator=generator)], dim=1)
    inputs = inputs + 0.1 * torch.randn(400, 2, generator=generator)
    return nn.Sequential(nn.Identity(), Square(), nn.Identity(), nn.Identity()), [(inputs, labels)]


def test_a_planted_layer_is_found_and_what_is_behind_it_is_the_tunnel() -> None:
    model, loader = planted()
    dataset = nc.analyze(model, loader, quantities=["effective_depth", "ncm_error"], probes=True)
    assert dataset["depth"].values.tolist() == [1, 2, 3, 4]
    assert dataset["ncm_error"].values[0] > 0.4 > 0.01 > dataset["ncm_error"].values[1]
    assert (dataset["effective_depth"].item(), dataset["probe_depth"].item()) == (2, 2)
    assert dataset["tunnel_length"].item() == 2


def test_depths_do_not_depend_on_scale_and_rotation_of_the_features() -> None:
    model, loader = planted()
    turned = nn.Linear(2, 2, bias=False)
    turned.weight.data = 5 * torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    both = nn.Sequential(*model[:2], turned, *model[2:])
    dataset = nc.analyze(both, loader, quantities="effective_depth")
    assert dataset["effective_depth"].item() == 2


def test_without_what_it_needs_a_depth_is_refused() -> None:
    moments = nc.ClassMoments.from_features(np.eye(4), [0, 0, 1, 1])
    with pytest.raises(nc.QuantityError, match="'effective_depth' needs a second pass"):
        nc.measure({"a": moments}, quantities="effective_depth")
    with pytest.raises(nc.QuantityError, match="'probe_depth' needs the features"):
        nc.measure({"a": moments}, quantities="probe_depth")

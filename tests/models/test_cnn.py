"""The small convolutional network: its layers written out, its blocks hooked, and the sizes it refuses."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import neurocollapse as nc
from neurocollapse import models
from neurocollapse.models import SmallVGG


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_output_is_that_of_the_layers_written_out() -> None:
    model = SmallVGG(2, 3, widths=(4, 5), hidden=6).eval().double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # as built, normalisations do nothing
        for name, tensor in model.state_dict().items():
            if "norm" in name and tensor.dim():
                tensor.uniform_(0.5, 1.5, generator=generator)
    z = x = images(3, 2, 8, 8).double()
    state = model.state_dict()
    for block in range(2):
        for number in (1, 2):
            z = functional.conv2d(z, state[f"blocks.{block}.conv{number}.weight"], padding=1)
            mean, variance = (state[f"blocks.{block}.norm{number}.running_{name}"] for name in ("mean", "var"))
            scale, shift = (state[f"blocks.{block}.norm{number}.{name}"] for name in ("weight", "bias"))
            scale = scale / (variance + 1e-5).sqrt()
            z = ((z - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None]).clamp(min=0)
        z = z.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    z = (z.mean((2, 3)) @ state["hidden.weight"].T + state["hidden.bias"]).clamp(min=0)
    expected = z @ state["head.weight"].T + state["head.bias"]
    assert torch.allclose(model(x), expected, rtol=1e-12, atol=1e-14)  # a hundred float64 roundings


@pytest.mark.parametrize("size", [4, 5, 8, 17])
def test_images_of_any_size_fit_that_outlast_the_pooling(size: int) -> None:
    assert SmallVGG(1, 3, widths=(4, 4)).eval()(images(2, 1, size, size)).shape == (2, 3)


def test_blocks_preset_hooks_every_block_with_the_mean_over_positions() -> None:
    model, x = SmallVGG(1, 3, widths=(4, 5, 6)).eval(), images(6, 1, 8, 8)
    labels = torch.arange(6) % 3
    dataset = nc.analyze(model, [(x, labels)], layers="blocks", progress=False)
    assert list(dataset["layer"].values) == ["blocks.0", "blocks.1", "blocks.2"]
    assert list(dataset["layout"].values) == ["channels-first"] * 3
    assert list(dataset["feature_dimension"].values) == [4, 5, 6]
    with torch.no_grad():
        features = model.blocks[:2](x).mean((2, 3)).double()
    means = torch.stack([features[labels == k].mean(0) for k in range(3)])
    within = (features - means[labels]).square().sum() / 6
    between = (means - means.mean(0)).square().sum() / 3
    # float32 features; the hooked run may round its convolutions in another order
    assert float(dataset["compression"].sel(layer="blocks.1")) == pytest.approx(float(within / between), rel=1e-4)


def test_penultimate_preset_is_the_head() -> None:
    model = SmallVGG(1, 3, widths=(4,), hidden=7).eval()
    with nc.capture(model, "penultimate") as features:
        model(images(2, 1, 4, 4))
    assert {name: value.shape for name, value in features.items()} == {"head@in": (2, 7)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "`in_channels` must be an integer of at least 1, got 0"),
        ({"num_classes": 2.5}, "`num_classes` must be an integer of at least 1, got 2.5"),
        ({"hidden": -1}, "`hidden` must be an integer of at least 1, got -1"),
        ({"widths": (4, "8")}, r"`widths\[1\]` must be an integer of at least 1, got '8'"),
        ({"widths": ()}, "`widths` must name at least one block's channels"),
    ],
)
def test_wrong_sizes_get_one_clear_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        SmallVGG(**{"in_channels": 1, "num_classes": 3, **arguments})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 8, 8), r"shape \(samples, 1, height, width\), got \(2, 3, 8, 8\)"),
        ((1, 8, 8), r"shape \(samples, 1, height, width\), got \(1, 8, 8\)"),
        ((2, 1, 8, 3), "at least 4 × 4, which 2 blocks halve to one position, got 8 × 3; .*fewer widths"),
    ],
)
def test_images_that_do_not_fit_get_one_clear_line(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        SmallVGG(1, 3, widths=(4, 4))(torch.zeros(shape))


def test_it_is_exported() -> None:
    assert models.SmallVGG is SmallVGG

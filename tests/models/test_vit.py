"""The small vision transformer: its layers written out, its tokens pooled, and the sizes it refuses."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import neurocollapse as nc
from neurocollapse import models
from neurocollapse.models import SmallViT

SIZES: dict[str, Any] = {"patch_size": 2, "width": 8, "depth": 2, "num_heads": 2, "hidden": 5}


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def by_hand(model: SmallViT, image: Tensor, num_heads: int) -> Tensor:
    """Scores of one image, patch by patch and head by head."""
    p = dict(model.named_parameters())
    kernel = p["patches.weight"]
    side, size = kernel.shape[-1], image.shape[-1]
    corners = [(row, column) for row in range(0, size, side) for column in range(0, size, side)]
    patches = [image[:, row : row + side, column : column + side] for row, column in corners]
    rows = [p["class_token"][0, 0]]
    rows += [(kernel * patch).sum((1, 2, 3)) + p["patches.bias"] for patch in patches]
    z = torch.stack(rows) + p["positions"][0]

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        spread = (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return centred / spread * p[f"{name}.weight"] + p[f"{name}.bias"]

    for depth in range(len(model.blocks)):
        name = f"blocks.{depth}"
        parts = linear(f"{name}.attention.qkv", norm(f"{name}.norm1", z)).chunk(3, dim=1)
        heads = []
        for q, k, v in zip(*(part.chunk(num_heads, dim=1) for part in parts), strict=True):
            weights = (q @ k.T / math.sqrt(q.shape[1])).exp()
            heads.append(weights / weights.sum(1, keepdim=True) @ v)
        z = z + linear(f"{name}.attention.output", torch.cat(heads, dim=1))
        h = functional.gelu(linear(f"{name}.mlp.expand", norm(f"{name}.norm2", z)))
        z = z + linear(f"{name}.mlp.contract", h)
    return linear("head", norm("norm", z))[0]


def test_output_is_that_of_the_layers_written_out() -> None:
    model = SmallViT(6, 3, in_channels=2, **SIZES).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # as built, all normalisations are the same
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = images(4, 2, 6, 6).double()
    expected = torch.stack([by_hand(model, image, num_heads=2) for image in x])
    assert torch.allclose(model(x), expected, rtol=1e-10, atol=1e-12)  # some hundred float64 roundings, exp among them


def test_without_positions_the_order_of_the_patches_does_not_matter() -> None:
    model = SmallViT(4, 3, **SIZES).double()
    with torch.no_grad():
        model.positions.zero_()
    x = images(2, 1, 4, 4).double()
    swapped = torch.cat([x[..., 2:], x[..., :2]], dim=-1)
    assert not torch.allclose(x, swapped)
    assert torch.allclose(model(x), model(swapped), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pool", ["auto", "cls"])
def test_blocks_preset_hooks_every_block_and_pools_its_tokens(pool: str) -> None:
    model, x = SmallViT(8, 3, **SIZES).eval(), images(6, 1, 8, 8)
    labels = torch.arange(6) % 3
    dataset = nc.analyze(model, [(x, labels)], layers="blocks", pool=pool, progress=False)
    assert list(dataset["layer"].values) == ["blocks.0", "blocks.1"]
    assert list(dataset["layout"].values) == ["tokens"] * 2
    assert list(dataset["feature_dimension"].values) == [8, 8]
    tokens: list[Tensor] = []
    with torch.no_grad(), model.blocks[1].register_forward_hook(lambda *call: tokens.append(call[2])):
        model(x)
    features = (tokens[0].mean(1) if pool == "auto" else tokens[0][:, 0]).double()
    means = torch.stack([features[labels == k].mean(0) for k in range(3)])
    within = (features - means[labels]).square().sum() / 6
    between = (means - means.mean(0)).square().sum() / 3
    # float32 features, whose class token hardly depends on the image before training
    assert float(dataset["compression"].sel(layer="blocks.1")) == pytest.approx(float(within / between), rel=1e-3)


def test_penultimate_preset_is_the_class_token_before_the_head() -> None:
    model = SmallViT(8, 3, **SIZES).eval()
    with nc.capture(model, "penultimate") as features:
        model(images(2, 1, 8, 8))
    assert {name: value.shape for name, value in features.items()} == {"head@in": (2, 8)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "`image_size` must be an integer of at least 1, got 0"),
        ({"num_classes": None}, "`num_classes` must be an integer of at least 1, got None"),
        ({"depth": 0}, "`depth` must be an integer of at least 1, got 0"),
        ({"patch_size": 3}, "`image_size` must be a multiple of patch_size=3, got 8; change one of the two"),
        ({"num_heads": 3}, "`width` must be a multiple of num_heads=3, got 8; change one of the two"),
        ({"width": True}, "`width` must be an integer of at least 1, got True"),
        ({"hidden": 2.0}, "`hidden` must be an integer of at least 1, got 2.0"),
    ],
)
def test_wrong_sizes_get_one_clear_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        SmallViT(**{"image_size": 8, "num_classes": 3, **SIZES, **arguments})


def test_images_that_do_not_fit_get_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"shape \(samples, 1, 8, 8\), got \(2, 3, 8, 8\)"):
        SmallViT(8, 3, **SIZES)(torch.zeros(2, 3, 8, 8))


def test_it_is_exported() -> None:
    assert models.SmallViT is SmallViT

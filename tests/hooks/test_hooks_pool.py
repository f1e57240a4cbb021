"""Pooling against loops, and the modes that do not fit."""

import pytest
import torch

from neurocollapse.hooks import LayoutError
from neurocollapse.hooks.pool import pool_features

MAPS = ("channels-first", "channels-last")


def loop(tensor, mode, layout):
    """Every mode written as a loop over samples and positions, in float64."""
    rows = []
    for sample in tensor.double():
        if layout == "channels-first":
            positions = [
                sample[(slice(None), *index)]
                for index in torch.cartesian_prod(*map(torch.arange, sample.shape[1:]))
                .reshape(-1, sample.dim() - 1)
                .tolist()
            ]
        else:
            positions = list(sample.reshape(-1, sample.shape[-1]))
        if mode == "mean":
            rows.append(sum(positions) / len(positions))
        elif mode == "max":
            rows.append(torch.stack(positions).max(0).values)
        elif mode == "flatten":
            rows.append(torch.tensor(sample.contiguous().flatten().tolist(), dtype=torch.float64))
        elif mode == "cls":
            rows.append(positions[0])
        elif mode == "last":
            rows.append(positions[-1])
        else:
            rows.extend(positions)
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("layout", "shape", "modes"),
    [
        ("channels-first", (2, 3, 4, 5), ("mean", "max", "flatten", "positions")),
        ("channels-first", (2, 3, 4), ("mean", "max", "flatten", "positions")),
        ("channels-first", (2, 3, 2, 2, 2), ("mean", "positions")),
        ("channels-last", (2, 4, 5, 3), ("mean", "max", "flatten", "positions")),
        ("tokens", (2, 5, 3), ("mean", "cls", "last", "flatten", "tokens")),
    ],
)
def test_each_mode_equals_a_loop_over_samples_and_positions(dtype, layout, shape, modes):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    for mode in modes:
        features = pool_features(tensor, pool=mode, layout=layout)
        assert features.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        # Half-precision inputs are exact in float32; what is left is the rounding of a float32 mean of 20 values.
        torch.testing.assert_close(features.double(), loop(tensor, mode, layout), rtol=1e-6, atol=1e-6)


def test_auto_is_the_mean_and_leaves_plain_features_alone():
    maps = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(pool_features(maps, layout="channels-first"), maps.mean((2, 3)))
    plain = maps[:, :, 0, 0]
    assert pool_features(plain, layout="features") is plain
    assert pool_features(torch.ones(5), layout="features").shape == (5, 1)


def test_the_mean_does_not_depend_on_the_order_of_positions():
    maps = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    turned = maps.flip(2).transpose(2, 3)
    for mode in ("mean", "max"):
        # The order of a float64 sum of 16 numbers changes the last digits only.
        torch.testing.assert_close(
            pool_features(maps, pool=mode, layout="channels-first"),
            pool_features(turned, pool=mode, layout="channels-first"),
            rtol=1e-14,
            atol=1e-14,
        )


def test_bfloat16_maps_are_averaged_in_float32():
    maps = torch.full((1, 1, 100, 100), 1.0, dtype=torch.bfloat16)
    maps[..., 0] = 1.5
    assert pool_features(maps, layout="channels-first").item() == pytest.approx(1.005, rel=1e-6)  # bfloat16: 1.0078


def test_positions_come_sample_after_sample():
    maps = torch.arange(2 * 3 * 4.0).reshape(2, 3, 2, 2)
    rows = pool_features(maps, pool="positions", layout="channels-first")
    assert torch.equal(rows[:4], maps[0].flatten(1).T)
    assert torch.equal(rows[4:], maps[1].flatten(1).T)


@pytest.mark.parametrize(
    ("layout", "mode"),
    [(layout, mode) for layout in MAPS for mode in ("cls", "last", "tokens")]
    + [("tokens", "positions"), ("tokens", "max"), ("tokens", "unheard of")],
)
def test_a_mode_that_does_not_fit_the_layout_is_refused(layout, mode):
    shape = (2, 4, 3) if layout == "tokens" else (2, 4, 3, 3)
    with pytest.raises(LayoutError, match="pool"):
        pool_features(torch.zeros(shape), pool=mode, layout=layout)


def test_a_function_pools_and_its_answer_is_checked():
    maps = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    features = pool_features(maps, pool=lambda maps: maps.std((2, 3)), layout="channels-first")
    assert torch.equal(features, maps.std((2, 3)))
    for function, message in [
        (lambda maps: maps, r"\(4, 3, 2, 2\)"),
        (lambda maps: maps.mean(), "got"),
        (lambda maps: maps[:3, :, 0, 0], "4 samples, got 3"),
        (lambda maps: None, "NoneType"),
        (lambda maps: maps[:, :, 0, 0].long(), "int64"),
    ]:
        with pytest.raises(LayoutError, match=message):
            pool_features(maps, pool=function, layout="channels-first")


def test_an_empty_batch_gives_no_rows():
    for mode, width in (("mean", 3), ("flatten", 12), ("positions", 3)):
        assert pool_features(torch.zeros(0, 3, 2, 2), pool=mode, layout="channels-first").shape == (0, width)

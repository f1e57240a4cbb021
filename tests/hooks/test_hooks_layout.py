"""Which axis holds the samples and which the channels, for the layouts of real models."""

import pytest
import torch
from torch import nn

from neurocollapse.hooks import AmbiguousOutputError, CaptureError, CaptureWarning, LayoutError, capture


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Call(nn.Module):
    """A leaf without parameters that rearranges or reduces."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


class LayerNorm2d(nn.LayerNorm):
    """Normalises the channels of NCHW maps, as in ConvNeXt."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scale(nn.Module):
    """A leaf of unknown kind with one number a channel."""

    def __init__(self, width) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


def layouts(model, *inputs, layers="leaves", num_samples=None):
    with capture(model, layers) as features, torch.no_grad():
        if num_samples is not None:
            features.expect(num_samples)
        model(*inputs)
    return {name: site.layout for name, site in features.sites.items()}


CHW, HWC, TOKENS, FLAT = "channels-first", "channels-last", "tokens", "features"


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Sequential(nn.Conv1d(3, 6, 1), nn.BatchNorm1d(6), nn.ReLU()), (4, 3, 9), [CHW] * 3),
        (nn.Sequential(nn.Conv3d(3, 6, 1), nn.AvgPool3d(2), nn.Flatten()), (4, 3, 2, 2, 2), [CHW, CHW, FLAT]),
        (nn.Sequential(nn.ConvTranspose2d(3, 6, 2), nn.GroupNorm(2, 6), nn.GELU()), (4, 3, 5, 5), [CHW] * 3),
        (nn.Sequential(nn.Conv2d(3, 6, 1), nn.PReLU(6), nn.Dropout2d()), (4, 3, 6, 6), [CHW] * 3),
        (nn.Sequential(nn.Conv2d(3, 6, 1), nn.Flatten(2), nn.ReLU()), (4, 3, 5, 5), [CHW] * 3),
        (nn.Sequential(nn.PReLU(3), nn.PReLU()), (4, 3, 3, 3), [CHW] * 2),
        (nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU()), (4, 5, 3), [TOKENS] * 3),
        (nn.Sequential(nn.Linear(3, 6), nn.RMSNorm(6), nn.Identity()), (4, 6, 3), [TOKENS] * 3),
        (nn.Sequential(nn.Linear(3, 6), nn.ReLU()), (4, 5, 7, 3), [HWC] * 2),
        (nn.Sequential(nn.Conv2d(3, 6, 1), LayerNorm2d(6)), (4, 3, 5, 5), [CHW] * 2),
        (nn.Sequential(nn.Conv2d(3, 6, 1), LayerNorm2d(6), nn.ReLU()), (4, 3, 6, 6), [CHW] * 3),
        (nn.Sequential(nn.Linear(3, 6), Scale(6)), (4, 5, 3), [TOKENS] * 2),
        (nn.Sequential(nn.Linear(3, 6), Scale(6)), (4, 6, 3), [TOKENS] * 2),
        (
            nn.Sequential(nn.Conv2d(3, 6, 1), Call(lambda z: z.permute(0, 2, 3, 1)), nn.LayerNorm(6), nn.GELU()),
            (4, 3, 5, 7),
            [CHW, HWC, HWC, HWC],
        ),
        (
            nn.Sequential(nn.Conv2d(3, 6, 1), Call(lambda z: z.flatten(2).mT), nn.Dropout()),
            (4, 3, 5, 7),
            [CHW, TOKENS, TOKENS],
        ),
        (
            nn.Sequential(nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)),
            (4, 3, 5, 5),
            [CHW, CHW, FLAT, FLAT],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_channel_axis_comes_from_the_producing_module(model, shape, expected):
    assert list(layouts(model.eval(), randn(*shape)).values()) == expected


def test_pooled_features_have_one_number_a_channel_in_both_layouts():
    maps = randn(4, 6, 5, 7)
    first = nn.Sequential(nn.Conv2d(6, 6, 1))
    last = nn.Sequential(nn.Linear(6, 6))
    last[0].load_state_dict({"weight": first[0].weight.detach()[:, :, 0, 0], "bias": first[0].bias.detach()})
    with capture(first, "0") as from_first, capture(last, "0") as from_last:
        first(maps)
        last(maps.permute(0, 2, 3, 1))
    # The same 35 products summed in another order in float32.
    torch.testing.assert_close(from_first["0"], from_last["0"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 6, 1), Call(lambda z: z.permute(0, 2, 3, 1))), (4, 3, 6, 7)),
        (nn.Sequential(nn.Linear(3, 6), Call(lambda z: z.transpose(1, 2))), (4, 6, 3)),
        (nn.Sequential(nn.Identity(), Call(lambda z: z)), (4, 3, 5)),
        (nn.Sequential(nn.Linear(6, 6), Call(lambda z: z @ z.mT), nn.Softmax(-1)), (4, 5, 6)),
        (nn.Sequential(nn.Linear(6, 6), Call(lambda z: z.reshape(4, 5, 2, 3).transpose(1, 2))), (4, 5, 6)),
        (nn.Sequential(nn.Linear(6, 6), Call(lambda z: z.new_ones(4, 2, 5, 6))), (4, 5, 6)),
    ],
)
def test_what_is_not_certain_is_an_error_not_a_guess(model, shape):
    with capture(model, "1"), pytest.raises(LayoutError, match=r"channel axis .* is not certain"):
        model(randn(*shape))


def test_a_function_that_rearranges_an_output_takes_its_layout_along():
    model = nn.Sequential(nn.Conv2d(3, 6, 1))
    with capture(model, "0", output=lambda z: z.permute(0, 2, 3, 1)), pytest.raises(LayoutError, match="not certain"):
        model(randn(4, 3, 6, 6))


def test_a_pooling_that_does_not_fit_the_layout_is_an_error():
    model = nn.Sequential(nn.Conv2d(3, 6, 1))
    with capture(model, "0", pool="cls"), pytest.raises(LayoutError, match="layer '0': `pool` = 'cls' does not fit"):
        model(randn(4, 3, 5, 5))


def test_no_token_is_dropped_unless_asked():
    model, x = nn.Sequential(nn.Linear(3, 6)), randn(4, 5, 3)
    expected = model(x).detach()
    for pool, features in (
        ("auto", expected.mean(1)),
        ("cls", expected[:, 0]),
        ("last", expected[:, -1]),
        ("tokens", expected.reshape(20, 6)),
        ("flatten", expected.reshape(4, 30)),
    ):
        with capture(model, "0", pool=pool) as captured:
            model(x)
        torch.testing.assert_close(captured["0"], features)
        assert captured.sites["0"].positions == (5 if pool == "tokens" else 1)


class Block(nn.Module):
    """A convolution block whose functional end changes the spatial size."""

    def __init__(self, width) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return nn.functional.avg_pool2d(self.conv(x), 2)


class Gate(nn.Module):
    """Squeeze and excitation: the last layer that fired has one position only."""

    def __init__(self, width) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return x * self.fc(self.squeeze(x)).sigmoid()


@pytest.mark.parametrize("size", [4, 6, 8])
def test_containers_follow_the_layers_inside(size):
    model = nn.Sequential(nn.Conv2d(3, 6, 1), Gate(6), nn.Sequential(nn.ReLU(), nn.Identity()))
    assert set(layouts(model, randn(4, 3, size, size), layers="**").values()) == {CHW}
    assert layouts(nn.Sequential(Block(6)), randn(4, 6, 8, 8), layers="0") == {"0": CHW}


class Concatenate(nn.Module):
    """Two branches side by side, as in Inception, Fire and DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x)], 1)


@pytest.mark.parametrize("shape", [(4, 8), (8, 4), (8, 8), (16, 16), (5, 16)])
def test_concatenated_branches_are_maps_with_more_channels(shape):
    model, x = nn.Sequential(Concatenate(), nn.Dropout()).eval(), randn(4, 3, *shape)
    with capture(model, ["0", "1"]) as features, torch.no_grad():
        output = model(x)
    torch.testing.assert_close(features["0"], output.mean((2, 3)))
    torch.testing.assert_close(features["1"], output.mean((2, 3)))


def test_an_axis_that_happens_to_have_the_size_is_no_evidence():
    # (8, 4, 16) comes from maps with 16 channels, yet its axis of 16 entries is no channel axis.
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Sequential(nn.Identity(), Call(lambda z: z.flatten(1)[:, :512].reshape(4, 8, 4, 16)))
    )
    with capture(model, "1"), pytest.raises(LayoutError, match="not certain"):
        model(randn(4, 3, 8, 8))


def test_an_untapped_neighbour_tells_the_layout():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU())
    assert layouts(model, randn(4, 3, 5, 5), layers="1") == {"1": CHW}
    assert layouts(model, randn(4, 3, 5, 5), layers="1@in") == {"1@in": CHW}


def test_hints_are_placed_for_the_first_forward_only():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU())
    with capture(model, "1"):
        assert model[0]._forward_hooks
        model(randn(4, 3, 5, 5))
        assert not model[0]._forward_hooks


@pytest.mark.parametrize("layer", [nn.LSTM(3, 6), nn.GRU(3, 6, bidirectional=True), nn.MultiheadAttention(3, 1)])
def test_modules_that_count_samples_in_axis_1_are_read_so(layer):
    model, x = nn.Sequential(), randn(5, 4, 3)
    model.layer = layer
    call = (lambda: layer(x, x, x)) if isinstance(layer, nn.MultiheadAttention) else (lambda: layer(x))
    model.forward = lambda x: call()[0]
    with capture(model, "layer") as features, torch.no_grad():
        features.expect(4)
        output = model(x)
    torch.testing.assert_close(features["layer"], output.mean(0))


class SequenceFirst(nn.Module):
    """(time, samples) token ids through an embedding and an encoder with batch_first=False."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        return self.head(self.encoder(self.embedding(tokens)))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_a_sequence_first_model_is_read_right_once_the_batch_size_is_told():
    model, tokens = SequenceFirst().eval(), torch.arange(35).reshape(7, 5) % 10
    with capture(model, ["leaves", "encoder"]) as features, torch.no_grad():
        features.expect(5)
        output = model(tokens)
    assert {value.shape[0] for value in features.values()} == {5}
    torch.testing.assert_close(features["head"], output.mean(0))
    torch.testing.assert_close(features["embedding"], model.embedding(tokens).detach().mean(0))


@pytest.mark.parametrize("layers", ["embedding", "leaves", "head"])
def test_a_batch_size_read_from_the_time_axis_is_noticed(layers):
    model, tokens = SequenceFirst().eval(), torch.arange(35).reshape(7, 5) % 10
    with capture(model, layers), pytest.raises(LayoutError, match=r"call expect\(num_samples\)"):
        model(tokens)


@pytest.mark.parametrize("layer", [nn.LSTM(8, 6), nn.MultiheadAttention(8, 2)])
def test_a_batch_size_read_from_the_time_axis_is_noticed_at_structured_outputs(layer):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.layer = nn.Embedding(10, 8), layer

        def forward(self, tokens):
            z = self.embedding(tokens)
            return self.layer(z, z, z) if isinstance(self.layer, nn.MultiheadAttention) else self.layer(z)

    for layers in ("leaves", "embedding"):
        with capture(model := Model(), layers), pytest.raises(LayoutError, match=r"call expect\(num_samples\)"):
            model(torch.arange(35).reshape(7, 5) % 10)


def test_as_many_samples_as_time_steps_are_ambiguous_in_a_sequence_first_model():
    model, tokens = SequenceFirst().eval(), torch.arange(25).reshape(5, 5) % 10
    with capture(model, "embedding") as features:
        features.expect(5)
        with pytest.raises(LayoutError, match="use another batch size"):
            model(tokens)
    with capture(model, "encoder") as features, torch.no_grad():
        features.expect(5)
        assert model(tokens).shape == (5, 5, 3)
    assert features["encoder"].shape == (5, 8)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: z.reshape(-1, 3), r"axis 0 holds 5 rows per sample, as windows do"),
        (lambda z: z[:1], "counts the 4 samples"),
        (lambda z: z.sum(), r"no axis of \(\)"),
    ],
)
def test_outputs_without_a_batch_axis_are_refused(function, message):
    model = nn.Sequential(Call(function))
    with capture(model, "0"), pytest.raises(LayoutError, match=message):
        model(randn(4, 5, 3))


@pytest.mark.parametrize(("layer", "shape"), [(nn.Conv1d(4, 4, 1), (4, 4)), (nn.GRU(3, 4), (4, 3))])
def test_layers_run_on_a_single_sample_without_batch_axis_are_refused(layer, shape):
    model = nn.Sequential(layer)
    with capture(model, "0"), pytest.raises(LayoutError, match="without a batch axis"):
        model(randn(*shape))


def test_a_packed_sequence_is_refused_with_its_tree():
    model = nn.Sequential(nn.GRU(3, 4, batch_first=True))
    packed = nn.utils.rnn.pack_padded_sequence(randn(4, 5, 3), [5, 4, 3, 2], batch_first=True)
    with capture(model, "0") as features:
        features.expect(4)
        with pytest.raises(AmbiguousOutputError, match=r"layer '0': .* got PackedSequence\(data: Tensor\(\(14, 4\)"):
            model(packed)


def test_squeezed_scores_are_one_feature():
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    assert layouts(model, randn(4, 3)) == {"0": FLAT, "1": FLAT}


def test_the_number_of_tokens_and_positions_may_change_but_not_the_width():
    tokens, maps = nn.Sequential(nn.Linear(3, 6)), nn.Sequential(nn.Conv2d(3, 6, 1))
    with capture(tokens, "0", pool="tokens") as features:
        for length in (5, 7):
            tokens(randn(4, length, 3))
            assert features["0"].shape == (4 * length, 6)
    with capture(maps, "0") as features:
        for size in (5, 7):
            maps(randn(4, 3, size, size))
            assert features["0"].shape == (4, 6)
    with capture(maps, "0", pool="flatten"):
        maps(randn(4, 3, 5, 5))
        with pytest.raises(CaptureError, match=r"layer '0': the width .* from 150 to 294"):
            maps(randn(4, 3, 7, 7))
    with capture(tokens, "0"):
        tokens(randn(4, 5, 3))
        with pytest.raises(CaptureError, match=r"layer '0': the activation has shape \(4, 3\)|\(4, 6\)"):
            tokens(randn(4, 3))


def test_a_pooling_for_each_layer():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1))
    with capture(model, "leaves", pool={"0": "flatten", "1": "max"}) as features:
        model(randn(4, 3, 5, 5))
    assert [(site.pooling, site.num_features) for site in features.sites.values()] == [
        ("flatten", 150),
        ("max", 6),
        ("mean", 2),
    ]


def test_a_sweep_leaves_out_layers_that_a_pooling_does_not_fit():
    model = nn.Sequential(nn.Conv2d(3, 6, 5), nn.Flatten(2), Call(lambda z: z.mT), nn.Linear(6, 6))
    with pytest.warns(CaptureWarning, match="2 of the layers: 0, 1: `pool` = 'cls'"):
        found = cls_layers(model, randn(4, 3, 6, 8))
    assert found == ["2", "3"]


def cls_layers(model, x):
    with capture(model, "leaves", pool="cls") as features:
        model(x)
    return list(features)

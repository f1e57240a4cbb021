"""Padding is never measured: every pooling of padded batches gives the numbers of sequences without padding."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.hooks import CaptureError, LayoutError, MaskError, masks
from neurocollapse.hooks.masks import Forward, Masks, as_mask, check_labelled
from neurocollapse.hooks.pool import pool_features, takes_mask
from tests.hooks.padding import LONGEST, VOCABULARY, built, padded, sequences

transformers = pytest.importorskip("transformers")

WIDTH = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(**WIDTH, intermediate_size=24))


@pytest.mark.parametrize("given", ["keyword", "positional", "one dict", "expect", "name"])
def test_the_mask_is_found_however_it_is_given(given: str) -> None:
    class Reads(nn.Module):
        """Takes tokens and a mask under names of its own choice."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(VOCABULARY, 4)

        def forward(self, input_ids: Any, attention_mask: Any = None, real: Any = None) -> Tensor:
            return self.embed(input_ids["input_ids"] if isinstance(input_ids, dict) else input_ids)

    model = built(Reads)
    ids, mask = padded(sequences(), "right")
    expected = torch.stack([model.embed(row).mean(0) for row in sequences()])
    with nc.capture(model, "embed", mask="real" if given == "name" else None) as features, torch.no_grad():
        if given == "keyword":
            model(ids, attention_mask=mask)
        elif given == "positional":
            model(ids, mask)
        elif given == "one dict":
            model({"input_ids": ids, "attention_mask": mask})
        elif given == "name":
            model(ids, real=mask.bool())
        else:
            features.expect(len(ids), mask=mask)
            model(ids)
        torch.testing.assert_close(features["embed"], expected)
        if given == "expect":  # it was meant for one forward pass only
            model(ids)
            torch.testing.assert_close(features["embed"], model.embed(ids).mean(1))
    with nc.capture(model, "embed", mask=False) as features, torch.no_grad():
        model(ids, mask)
        torch.testing.assert_close(features["embed"], model.embed(ids).mean(1))


def test_an_embedding_that_encoder_and_decoder_share_has_no_mask_that_can_be_told() -> None:
    class Shared(nn.Module):
        """Both halves read the same embedding."""

        def __init__(self) -> None:
            super().__init__()
            self.shared, self.encoder, self.decoder = nn.Embedding(VOCABULARY, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
            return self.encoder(self.shared(input_ids)) + self.decoder(self.shared(decoder_input_ids))

    model = built(Shared)
    ids, mask = padded(sequences(), "right")
    with nc.capture(model, "shared"), pytest.raises(LayoutError, match=r"layer 'shared.*encoder and decoder share"):
        model(ids, mask, ids)
    with nc.capture(model, ["shared", "decoder"]) as features:
        model(ids, torch.ones_like(mask), ids)
        assert list(features) == ["shared#0", "shared#1", "decoder"]


@pytest.mark.parametrize("layout", ["tokens", "channels-first", "channels-last"])
def test_every_pooling_looks_at_real_positions_only(layout: str) -> None:
    generator = torch.Generator().manual_seed(0)
    size = (3, 4) if layout != "tokens" else (6,)
    mask = torch.rand(5, *size, generator=generator) < 0.6
    mask.flatten(1)[:, 2] = True
    values = torch.randn(5, *size, 7, generator=generator, dtype=torch.float64)
    tensor = values.movedim(-1, 1) if layout == "channels-first" else values
    wild = torch.where(mask.unsqueeze(1 if layout == "channels-first" else -1), tensor, torch.nan)
    naive = [values[index][mask[index]] for index in range(5)]
    expected: dict[Any, list[Tensor]] = {"mean": [rows.mean(0, keepdim=True) for rows in naive]}
    if layout == "tokens":
        expected |= {"cls": [rows[:1] for rows in naive], "last": [rows[-1:] for rows in naive], "tokens": naive}
    else:
        expected |= {"max": [rows.amax(0, keepdim=True) for rows in naive], "positions": naive}
    for pool, rows in expected.items():
        found = pool_features(wild, pool=pool, layout=layout, mask=mask)  # padding may hold anything
        torch.testing.assert_close(found, torch.cat(rows), rtol=1e-14, atol=1e-14)
    with pytest.raises(LayoutError, match="'flatten' would make features of padding"):
        pool_features(tensor, pool="flatten", layout=layout, mask=mask)


def test_a_mask_that_changes_in_place_is_read_again() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    tensor = torch.arange(12.0).view(2, 3, 2)
    assert len(pool_features(tensor, pool="tokens", layout="tokens", mask=mask)) == 5
    mask[1, 1:] = False
    found = pool_features(tensor, pool="tokens", layout="tokens", mask=mask)
    torch.testing.assert_close(found, tensor[[0, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize("pool", ["mean", "tokens"])
def test_no_mask_outlives_its_batch(pool: str) -> None:
    model = built(bert)
    kept: list[int] = []
    ids, mask = padded(sequences(), "right")
    with nc.capture(model, "encoder.layer.0", pool=pool), torch.no_grad():
        for _ in range(3):
            model(input_ids=ids, attention_mask=mask.clone())
            gc.collect()
            kept.append(len(masks._MADE))
    assert kept == kept[:1] * 3


def test_functions_of_two_arguments_are_given_the_mask() -> None:
    model = built(bert)
    ids, mask = padded(sequences(), "right")
    seen: list[Any] = []

    def first_two(tensor: Tensor, mask: Tensor | None) -> Tensor:
        seen.append(mask)
        return tensor[:, :2].flatten(1)

    with nc.capture(model, "encoder.layer.0", pool=first_two) as features, torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
        model(input_ids=ids, attention_mask=torch.ones_like(mask))
    assert features["encoder.layer.0"].shape == (4, 32)
    assert torch.equal(seen[0], mask.bool())
    assert seen[1] is None
    assert takes_mask(first_two)
    assert not takes_mask(lambda tensor: tensor)
    assert not takes_mask(lambda tensor, scale=2: tensor)
    assert takes_mask(lambda tensor, mask=None: tensor)
    assert not takes_mask("mean")


def test_a_layer_with_other_positions_is_refused_or_left_out() -> None:
    class Strided(nn.Module):
        """Halves the number of positions."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Embedding(VOCABULARY, 4), nn.LayerNorm(4)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.norm(self.embed(input_ids)[:, ::2])

    model = built(Strided)
    ids, mask = padded(sequences(), "right")
    message = r"layer 'norm': the mask has shape \(4, 9\), but this layer's positions are \(5,\) per sample"
    with nc.capture(model, ["norm"]), pytest.raises(LayoutError, match=message):
        model(ids, mask)
    with nc.capture(model, "leaves") as features, pytest.warns(nc.CaptureWarning, match=r"norm: the mask has shape"):
        model(ids, mask)
    assert list(features) == ["embed"]
    with nc.capture(model, ["norm"]) as features:  # nothing is padded: there is nothing to fit
        model(ids, torch.ones_like(mask))
        assert features["norm"].shape == (4, 4)
        with pytest.raises(LayoutError, match=message):
            model(ids, mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.tensor([[1, 1], [0, 0]]), r"leaves nothing of sample 1 of the batch"),
        (
            torch.tensor([[0.0, -1e9], [0.0, 0.0]]),
            r"must hold 1 for real positions and 0 for padding, got torch",
        ),
        (torch.tensor([[2, 1], [1, 0]]), r"must hold 1 for real positions"),
        (torch.ones(3, 2), r"must have shape \(2, positions, …\), got \(3, 2\)"),
        (torch.ones(2), r"must have shape \(2, positions, …\), got \(2,\)"),
        ("mask", r"must be a tensor \(samples, positions\), got str"),
    ],
)
def test_what_is_no_mask_is_refused_in_one_line(mask: Any, message: str) -> None:
    with pytest.raises(MaskError, match=f"^`mask` {message}") as caught:
        as_mask(mask, 2, "`mask`")
    assert isinstance(caught.value, CaptureError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


FORMS: dict[str, Any] = {
    "bool": lambda mask: mask.bool(),
    "float": lambda mask: mask.float(),
    "an axis for heads": lambda mask: mask.bool()[:, None, None],
    "zeros and ones for heads": lambda mask: mask[:, None, None],
    "added to scores": lambda mask: (1.0 - mask)[:, None, None] * -1e9,
    "added, without heads": lambda mask: (1.0 - mask) * torch.finfo(torch.float32).min,
}


class Reads(nn.Module):
    """Embeds tokens, and takes a mask of any form."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.embed(input_ids)


@pytest.mark.parametrize("form", FORMS)
def test_masks_of_every_form_say_the_same(form: str) -> None:
    model = built(Reads)
    ids, mask = padded(sequences(), "right")
    expected = torch.stack([model.embed(row).mean(0) for row in sequences()])
    given = {"input_ids": ids, "attention_mask": FORMS[form](mask)}
    with nc.capture(model, "embed") as features, torch.no_grad():
        model(**given)
    torch.testing.assert_close(features["embed"], expected, rtol=0, atol=1e-6)
    moments = nc.collect(model, [given | {"labels": torch.arange(4)}])
    torch.testing.assert_close(moments["embed"].mean.float(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["pairs of positions", "transposed", "one axis", "another batch"])
def test_a_mask_from_which_padding_cannot_be_told_is_named(form: str) -> None:
    model = built(Reads)
    ids, mask = padded(sequences(), "right")
    wrong = {
        "pairs of positions": mask.bool()[:, None, None].expand(4, 1, LONGEST, LONGEST),
        "transposed": mask.T,
        "one axis": mask[0],
        "another batch": mask[:3],
    }[form]
    message = (
        r"`attention_mask` has shape \(.*\), from which padding cannot be told as from \(4, positions\); pass mask="
    )
    with nc.capture(model, "embed") as features, pytest.warns(nc.CaptureWarning, match=message):
        model(ids, wrong)
    assert features["embed"].shape == (4, 4)
    batch = {"input_ids": ids, "attention_mask": wrong, "labels": torch.arange(4)}
    with pytest.raises(MaskError, match=message) as caught:
        nc.collect(model, [batch])
    assert len(str(caught.value)) < 300
    counted = nc.collect(model, [batch], mask=False, pool="tokens")
    assert int(counted["embed"].count.sum()) == 4 * LONGEST
    nothing = {"attention_mask": torch.ones(4, 1, LONGEST, LONGEST)}
    assert len(nc.collect(model, [batch | nothing])) == 1  # masks nothing in whatever form


def test_wrong_names_of_masks_are_refused() -> None:
    model = built(bert)
    ids, mask = padded(sequences(), "right")
    with nc.capture(model, "encoder.layer.0", mask="real"), pytest.raises(MaskError, match="`mask` names 'real'"):
        model(input_ids=ids, attention_mask=mask)
    with (
        pytest.raises(TypeError, match="`mask` must be the name of an argument, False or None, got Tensor"),
        nc.capture(model, "encoder.layer.0", mask=mask),
    ):
        pass
    assert not any(module._forward_hooks for module in model.modules())


def test_labelled_positions_fit_the_same_sequence_and_whole_multiples_of_a_map() -> None:
    check_labelled((9,), (9,))
    check_labelled((4, 6), (8, 12))
    check_labelled((8, 12), (4, 6))
    for own, labelled in (((9,), (18,)), ((4, 5), (8, 12)), ((), (9,)), ((9,), (3, 3))):
        with pytest.raises(LayoutError, match=r"labels are given for positions"):
            check_labelled(own, labelled)
    labelled = Forward(4, True, Masks(None, None, True), (9,))
    assert labelled.labelled_at("decoder.block.0") == (9,)
    with pytest.raises(LayoutError, match="the decoder's positions"):
        labelled.labelled_at("encoder.block.0")

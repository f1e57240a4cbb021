"""Padding is never measured: every pooling of padded batches gives the numbers of sequences without padding."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.hooks import CaptureError, LayoutError, MaskError
from neurocollapse.hooks.masks import Forward, Masks, as_mask, check_labelled
from neurocollapse.hooks.pool import pool_features, takes_mask

transformers = pytest.importorskip("transformers")

LENGTHS = (5, 9, 3, 7)
LONGEST = max(LENGTHS)
VOCABULARY = 40
WIDTH = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ABSOLUTE = 2e-6  # float32 attention over other numbers of positions rounds in another order
EXACT = 1e-6  # in float64 only what padding adds could be as large


def bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(**WIDTH, intermediate_size=24))


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2, **TOKENS)
    return transformers.GPT2Model(config)


def llama() -> nn.Module:
    config = transformers.LlamaConfig(**WIDTH, **TOKENS, intermediate_size=24, num_key_value_heads=1)
    return transformers.LlamaModel(config)


def qwen() -> nn.Module:
    config = transformers.Qwen2Config(**WIDTH, **TOKENS, intermediate_size=24, num_key_value_heads=1)
    return transformers.Qwen2Model(config)


def t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5Model(config)


MODELS = {"bert": bert, "gpt2": gpt2, "llama": llama, "qwen": qwen, "t5": t5}
BLOCKS: dict[str, Any] = {
    "bert": "encoder.layer.*",
    "gpt2": "h.*",
    "llama": "layers.*",
    "qwen": "layers.*",
    "t5": ["encoder.block.*", "decoder.block.*"],
}


def built(make: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def sequences(seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in LENGTHS]


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Tokens and mask of one batch; zeros stand for nothing."""
    ids, mask = torch.zeros(len(rows), LONGEST, dtype=torch.int64), torch.zeros(len(rows), LONGEST, dtype=torch.int64)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(LONGEST - len(row), LONGEST)
        ids[index, place], mask[index, place] = row, 1
    return ids, mask


def arguments(name: str, side: str) -> dict[str, Tensor]:
    """A batch; models with positions count them from the first real token, and T5 has an answer to each sequence."""
    ids, mask = padded(sequences(), side)
    if name != "t5":
        return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    answers, answer_mask = padded(sequences(seed=2)[::-1], side)
    decoder = {"decoder_input_ids": answers, "decoder_attention_mask": answer_mask}
    return {"input_ids": ids, "attention_mask": mask} | decoder


def alone(name: str) -> list[dict[str, Tensor]]:
    """The arguments for every sequence alone, without padding or mask."""
    answers = sequences(seed=2)[::-1]
    return [
        {"input_ids": row[None]} | ({"decoder_input_ids": answer[None]} if name == "t5" else {})
        for row, answer in zip(sequences(), answers, strict=True)
    ]


def first_and_last(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """A function of the user's that reads the mask."""
    real = torch.ones(tensor.shape[:2], dtype=torch.bool) if mask is None else mask
    ends = [(row[own][0], row[own][-1]) for row, own in zip(tensor, real, strict=True)]
    return torch.stack([torch.cat(end) for end in ends])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pool", ["mean", "cls", "last", "tokens", "auto", first_and_last])
@pytest.mark.parametrize("name", MODELS)
def test_padded_batches_give_what_single_sequences_give(name: str, pool: Any, side: str) -> None:
    model = built(MODELS[name])
    with nc.capture(model, BLOCKS[name], pool=pool) as features, torch.no_grad():
        model(**arguments(name, side))
        together = {layer: value.clone() for layer, value in features.items()}
    with nc.capture(model, BLOCKS[name], pool=pool) as features, torch.no_grad():
        single = []
        for given in alone(name):
            model(**given)
            single.append({layer: value.clone() for layer, value in features.items()})
    assert len(together) == (4 if name == "t5" else 2)
    for layer, found in together.items():
        expected = torch.cat([one[layer] for one in single])
        torch.testing.assert_close(found, expected, rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_nothing_but_single_sequences_can_be_flattened(name: str, side: str) -> None:
    model = built(MODELS[name])
    message = "'flatten' would make features of padding"
    with nc.capture(model, BLOCKS[name], pool="flatten"), torch.no_grad(), pytest.raises(LayoutError, match=message):
        model(**arguments(name, side))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("labels", ["sequences", "next tokens", "tags"])
def test_moments_of_padded_batches_are_those_of_single_sequences(name: str, side: str, labels: str) -> None:
    model, batch = built(MODELS[name]).double(), arguments(name, side)
    kind = "decoder_" if name == "t5" else ""
    ids, mask = batch[f"{kind}input_ids"], batch[f"{kind}attention_mask"].bool()
    layers = "decoder.block.*" if name == "t5" else BLOCKS[name]
    batch |= {"labels": torch.tensor([0, 1, 1, 0]), "tags": torch.where(ids % 5 == 4, -100, ids % 3)}  # padding: 0
    options: dict[str, Any] = {"layers": layers, "num_classes": VOCABULARY}
    if labels == "next tokens":
        options["label_fn"] = nc.labels.next_token(f"{kind}input_ids", mask=f"{kind}attention_mask")
    elif labels == "tags":
        options["label_fn"] = nc.labels.field("tags")
    moments = nc.collect(model, [batch], **options)
    rows: dict[str, list[Tensor]] = {layer: [] for layer in moments}
    counted: list[int] = []
    with nc.capture(model, layers, pool="mean" if labels == "sequences" else "tokens") as features, torch.no_grad():
        for index, given in enumerate(alone(name)):
            model(**given)
            own = ids[index][mask[index]].tolist()
            classes = {
                "sequences": [int(batch["labels"][index])],
                "next tokens": [*own[1:], -100],
                "tags": [-100 if token % 5 == 4 else token % 3 for token in own],
            }[labels]
            counted += [label for label in classes if label >= 0]
            for layer, value in features.items():
                rows[layer] += [row for row, label in zip(value, classes, strict=True) if label >= 0]
    assert len(moments) == 2
    for layer, found in moments.items():
        for label in range(VOCABULARY):
            naive = [row for row, own in zip(rows[layer], counted, strict=True) if own == label]
            assert int(found.count[label]) == len(naive)
            if naive:
                torch.testing.assert_close(found.mean[label], torch.stack(naive).mean(0), rtol=0, atol=EXACT)
                scatter = ((torch.stack(naive) - torch.stack(naive).mean(0)) ** 2).sum()
                torch.testing.assert_close(found.scatter[label], scatter, rtol=0, atol=10 * EXACT)


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
    message = r"layer 'norm': the mask has shape \(4, 9\), but this layer's positions are \(5,\) a sample"
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


def test_masks_of_other_forms_are_left_alone_and_wrong_names_refused() -> None:
    model = built(bert)
    ids, mask = padded(sequences(), "right")
    additive = torch.zeros(4, 1, 1, LONGEST).masked_fill(mask[:, None, None] == 0, -1e9)
    with nc.capture(model, "encoder.layer.0") as features, torch.no_grad():
        model(input_ids=ids, attention_mask=additive)
        assert features["encoder.layer.0"].shape == (4, 16)
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

"""Language models of five families: padded batches give the numbers of sequences run alone, on either side."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.hooks import LayoutError
from tests.hooks.padding import VOCABULARY, built, padded, sequences

transformers = pytest.importorskip("transformers")

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

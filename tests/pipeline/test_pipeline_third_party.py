"""Models of torchvision, timm and transformers: every site equals two passes over features saved by hand."""

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc

SIZES = (7, 5)  # two batches of different size, and no activation has an axis of either length


def pixels(hand: Any, size: int) -> tuple[list[tuple[tuple[Any, ...], dict[str, Any]]], Tensor]:
    """Images as positional arguments."""
    inputs, labels = hand.clustered(sum(SIZES), 3, size, size)
    return [((part,), {}) for part in inputs.split(SIZES)], labels


def tokens(hand: Any, **more: Any) -> tuple[list[tuple[tuple[Any, ...], dict[str, Any]]], Tensor]:
    """Token ids as keyword arguments, as Hugging Face loaders give them."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(sum(SIZES)) % 3
    ids = torch.randint(20, (sum(SIZES), 9), generator=generator)
    ids[:, 0] = labels
    kwargs = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(SIZES)]
    if more:
        kwargs = [part | {name: part[source] for name, source in more.items()} for part in kwargs]
    return [((), part) for part in kwargs], labels


def transformers() -> ModuleType:
    return pytest.importorskip("transformers", reason="transformers is an optional dependency")


def resnet18(hand: Any) -> Any:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is an optional dependency")
    return torchvision.models.resnet18(weights=None, num_classes=11), *pixels(hand, 32)


def vit_tiny(hand: Any) -> Any:
    timm = pytest.importorskip("timm", reason="timm is an optional dependency")
    options = {"img_size": 32, "patch_size": 8, "depth": 3, "num_classes": 11}
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, **options), *pixels(hand, 32)


def hf_resnet(hand: Any) -> Any:
    config = transformers().ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[2, 1], layer_type="basic", num_labels=11
    )
    return transformers().ResNetForImageClassification(config), *pixels(hand, 32)


def hf_vit(hand: Any) -> Any:
    config = transformers().ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, image_size=16, patch_size=4
    )
    return transformers().ViTModel(config), *pixels(hand, 16)


def hf_bert(hand: Any) -> Any:
    config = transformers().BertConfig(
        vocab_size=20, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, num_labels=11
    )
    return transformers().BertForSequenceClassification(config), *tokens(hand)


def hf_gpt2(hand: Any) -> Any:
    config = transformers().GPT2Config(vocab_size=20, n_embd=24, n_layer=2, n_head=2, n_positions=16)
    return transformers().GPT2Model(config), *tokens(hand)


def hf_t5(hand: Any) -> Any:
    config = transformers().T5Config(vocab_size=20, d_model=24, d_kv=12, d_ff=40, num_layers=2, num_heads=2)
    return transformers().T5Model(config), *tokens(hand, decoder_input_ids="input_ids")


MODELS = {
    "torchvision resnet18": resnet18,
    "timm vit_tiny": vit_tiny,
    "transformers ResNet": hf_resnet,
    "transformers ViT": hf_vit,
    "transformers BERT": hf_bert,
    "transformers GPT-2": hf_gpt2,
    "transformers T5": hf_t5,
}
# What is left out, and why a human agrees: position tables have no batch axis, attention weights no feature axis.
LEFT_OUT = {
    "transformers BERT": {"bert.embeddings.position_embeddings"},
    "transformers GPT-2": {"wpe"},
    "transformers T5": {"encoder.block.0.layer.0.SelfAttention.relative_attention_bias"},
}


def by_hand(output: Any, num_samples: int) -> Tensor | None:
    """Features of one saved output: maps and tokens averaged, matrices as they are, None where samples do not lead."""
    if not isinstance(output, Tensor):
        parts = output.values() if isinstance(output, dict) else output
        output = next(part for part in parts if isinstance(part, Tensor))
    if not output.is_floating_point() or output.shape[0] != num_samples:
        return None
    return output if output.dim() == 2 else output.mean({3: (1,), 4: (2, 3)}[output.dim()])


@pytest.mark.parametrize("layers", ["leaves", "blocks"])
@pytest.mark.parametrize("name", MODELS)
def test_every_site_equals_features_saved_by_hand(hand: Any, name: str, layers: str) -> None:
    build: Callable[[Any], Any] = MODELS[name]
    found: list[Any] = []

    def only_model() -> nn.Module:
        found.extend(build(hand))
        return found[0]

    model = hand.seeded(only_model)
    _, batches, labels = found
    loader = as_loader(batches, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nc.CaptureWarning)  # what is left out is looked at below
        dataset = nc.analyze(model, loader, layers=layers)
    saved = hand.saved(model, batches, dict(model.named_modules()))
    names = [str(site) for site in dataset["layer"].values]
    assert len(names) == len(set(names)) >= 2
    for site in names:
        path, _, call = site.partition("#")
        features = [by_hand(calls[int(call or 0)], n) for calls, n in zip(saved[path], SIZES, strict=True)]
        hand.assert_layer_equals(dataset, site, torch.cat(features), labels)
    if layers == "leaves":
        assert_nothing_is_missing(model, saved, names, LEFT_OUT.get(name, set()))


def as_loader(batches: list[tuple[tuple[Any, ...], dict[str, Any]]], labels: Tensor) -> list[Any]:
    """Pairs of images and labels, or dicts with labels and a column that no model takes."""
    targets = labels.split(SIZES)
    if batches[0][0]:
        return [(args[0], target) for (args, _), target in zip(batches, targets, strict=True)]
    return [
        kwargs | {"labels": target, "text": ["a"] * len(target), "idx": torch.arange(len(target))}
        for (_, kwargs), target in zip(batches, targets, strict=True)
    ]


def assert_nothing_is_missing(
    model: nn.Module, saved: dict[str, list[list[Any]]], names: list[str], left_out: set[str]
) -> None:
    """Every call of every leaf is a site, but for those known to have no features."""
    leaves = [path for path, module in model.named_modules() if not list(module.children())]
    expected = set()
    for path in leaves:
        calls = len(saved[path][0])
        expected |= {path} if calls == 1 else {f"{path}#{call}" for call in range(calls)}
    missing = expected - set(names)
    assert {path for path in left_out if path in missing} == left_out
    for site in missing:
        path, _, call = site.partition("#")
        output = saved[path][0][int(call or 0)]
        assert output.dim() == 4 or output.shape[0] != SIZES[0], site  # attention weights, or no samples
    assert set(names) <= expected

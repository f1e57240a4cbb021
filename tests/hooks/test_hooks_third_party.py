"""Models of torchvision, timm and transformers: every layer equals what hand-written hooks save and pool.

All are built from small configurations with random weights; nothing is downloaded.
"""

import re
import warnings
from collections import defaultdict
from functools import cache

import pytest
import torch
from torch import nn

from neurocollapse.hooks import CaptureWarning, Recorder, capture

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(2, 90, (3, 7), generator=torch.Generator().manual_seed(1))
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def resnet18():
    return torchvision.models.resnet18(num_classes=5), {"x": IMAGES}


def vision_transformer():
    return torchvision.models.VisionTransformer(64, 16, 2, 4, 32, 64, num_classes=5), {"x": IMAGES}


def convnext():
    settings = [
        torchvision.models.convnext.CNBlockConfig(8, 16, 1),
        torchvision.models.convnext.CNBlockConfig(16, None, 1),
    ]
    return torchvision.models.ConvNeXt(settings, num_classes=5), {"x": IMAGES}


def vit_tiny():
    return timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=5), {"x": IMAGES}


def hf_resnet():
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], layer_type="basic", num_labels=5
    )
    return transformers.ResNetForImageClassification(config), {"pixel_values": IMAGES}


def hf_vit():
    config = transformers.ViTConfig(**SMALL, image_size=64, patch_size=16, num_labels=5)
    return transformers.ViTForImageClassification(config), {"pixel_values": IMAGES}


def bert():
    config = transformers.BertConfig(**SMALL, vocab_size=99, num_labels=5)
    return transformers.BertForSequenceClassification(config), {"input_ids": TOKENS}


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=16, bos_token_id=1, eos_token_id=1
    )
    return transformers.GPT2Model(config), {"input_ids": TOKENS}


def t5():
    config = transformers.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return transformers.T5Model(config), {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :5]}


@cache
def build(factory):
    """The model in evaluation mode, and its inputs."""
    torch.manual_seed(0)
    model, inputs = factory()
    return model.eval(), inputs


def first_tensor(output):
    """What a module returned, where the features come first in every one of these models."""
    if isinstance(output, torch.Tensor):
        return output
    values = list(output.values()) if isinstance(output, dict) else list(output)
    return first_tensor(values[0])


def save_by_hand(model, inputs):
    """Copies of all outputs of all modules, by name and call."""
    saved = defaultdict(list)

    def keep(name):
        return lambda module, args, output: saved[name].append(first_tensor(output).clone())

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return saved


def pool_by_hand(activation, *, channels_last=False):
    """Means over positions, written out: tokens lie in axis 1, those of NCHW maps in axes 2 and 3."""
    if activation.dim() == 4:
        return activation.double().flatten(1, 2).mean(1) if channels_last else activation.double().mean((2, 3))
    return activation.double().mean(1) if activation.dim() == 3 else activation.double()


def run(factory, layers):
    model, inputs = build(factory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        with capture(model, layers) as features, torch.no_grad():
            model(**inputs)
    return features


# The inside of a ConvNeXt block, between its two permutations.
CHANNELS_LAST = r"features\.\d\.\d\.block\.[1-5]"
LEAVES = {
    resnet18: 60,
    vision_transformer: 22,
    convnext: 24,
    vit_tiny: 57,
    hf_resnet: 50,
    hf_vit: 26,
    bert: 30,
    gpt2: 21,
    t5: 68,
}
BLOCKS = {
    resnet18: [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)],
    vision_transformer: ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"],
    convnext: ["features.0", "features.1.0", "features.2", "features.3.0"],
    vit_tiny: ["blocks.0", "blocks.1", "blocks.2"],
    hf_resnet: [f"resnet.encoder.stages.{stage}" for stage in range(4)],
    hf_vit: ["vit.layers.0", "vit.layers.1"],
    bert: ["bert.encoder.layer.0", "bert.encoder.layer.1"],
    gpt2: ["h.0", "h.1"],
    t5: ["encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"],
}
# What cannot be read without being told more, and why: layers that the model does not call (attention runs fused),
# tables of positions that have no samples, and heads x tokens x width arrays whose channel axis nothing tells.
SKIPPED = {
    resnet18: {},
    vision_transformer: {},
    convnext: {},
    vit_tiny: {
        r"blocks\.\d\.attn\.(q|k)_norm": r"channel axis of \(3, 3, 17, 64\)",
        r"blocks\.\d\.attn\.attn_drop": "never called",
    },
    hf_resnet: {},
    hf_vit: {},
    bert: {
        r"bert\.embeddings\.position_embeddings": r"no axis of \(1, 7, 32\) counts the 3 samples",
        r"bert\.encoder\.layer\.\d\.attention\.self\.dropout": "never called",
    },
    gpt2: {"wpe": r"no axis of \(1, 7, 32\) counts the 3 samples", r"h\.\d\.attn\.attn_dropout": "never called"},
    t5: {
        "shared": "never called",
        r"(en|de)coder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias": "counts no samples",
    },
}
NUM_SKIPPED = {vit_tiny: 9, bert: 3, gpt2: 3, t5: 3}


@pytest.mark.parametrize("factory", LEAVES)
@pytest.mark.parametrize("layers", ["leaves", "blocks", "linear", "**"])
def test_every_site_equals_features_saved_and_pooled_by_hand(factory, layers):
    features = run(factory, layers)
    saved = save_by_hand(*build(factory))
    for site in features.sites.values():
        activation = saved[site.path][site.call]
        expected = pool_by_hand(activation, channels_last=re.fullmatch(CHANNELS_LAST, site.path) is not None)
        # A float32 mean of up to 1,024 positions against a float64 one.
        torch.testing.assert_close(features[site.name].double(), expected, rtol=1e-5, atol=1e-6)
        assert site.num_calls == len(saved[site.path])


@pytest.mark.parametrize("factory", LEAVES)
def test_every_leaf_is_captured_or_on_the_list_of_what_cannot_be(factory):
    features = run(factory, "leaves")
    assert len(features) == LEAVES[factory]
    assert len(features.skipped) == NUM_SKIPPED.get(factory, 0)
    for name, reason in features.skipped.items():
        patterns = [why for pattern, why in SKIPPED[factory].items() if re.fullmatch(pattern, name)]
        assert len(patterns) == 1, name
        assert re.search(patterns[0], reason), reason


@pytest.mark.parametrize("factory", LEAVES)
def test_every_called_leaf_is_a_site_unless_it_is_skipped(factory):
    model, inputs = build(factory)
    features = run(factory, "leaves")
    called = {
        (name, call)
        for name, outputs in save_by_hand(model, inputs).items()
        for call in range(len(outputs))
        if not list(model.get_submodule(name).children())
        or isinstance(model.get_submodule(name), nn.MultiheadAttention)
    }
    found = {(site.path, site.call) for site in features.sites.values()}
    assert found == {(name, call) for name, call in called if name not in features.skipped}


@pytest.mark.parametrize("factory", LEAVES)
def test_blocks_are_the_repeated_parts_in_order(factory):
    features = run(factory, "blocks")
    assert list(features) == BLOCKS[factory]
    assert not features.skipped


@pytest.mark.parametrize(
    ("factory", "name"),
    [
        (resnet18, "fc@in"),
        (vision_transformer, "heads.head@in"),
        (convnext, "classifier.2@in"),
        (vit_tiny, "head@in"),
        (hf_resnet, "classifier.1@in"),
        (hf_vit, "classifier@in"),
        (bert, "classifier@in"),
    ],
)
def test_penultimate_features_are_the_classifiers_input(factory, name):
    features = run(factory, "penultimate")
    assert list(features) == [name]
    model, inputs = build(factory)
    with torch.no_grad():
        scores = model(**inputs)
    classifier = model.get_submodule(name.removesuffix("@in"))
    # The classifier applied to what was captured gives the model's own scores, up to the order of float32 sums.
    torch.testing.assert_close(classifier(features[name]).detach(), first_tensor(scores), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factory", [vit_tiny, hf_vit, bert])
def test_the_class_token_is_the_first_and_only_when_asked(factory):
    model, inputs = build(factory)
    saved = save_by_hand(model, inputs)
    for pool, index in (("cls", 0), ("last", -1)):
        with capture(model, "blocks", pool=pool) as features, torch.no_grad():
            model(**inputs)
        assert all(torch.equal(features[name], saved[name][0][:, index]) for name in BLOCKS[factory])


def test_a_hidden_state_of_a_model_output_is_reached_by_its_path():
    model, inputs = build(bert)
    with capture(model, {"embedded": model.bert}, output="hidden_states.0") as features, torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    torch.testing.assert_close(features["embedded"], output.hidden_states[0].mean(1))


def test_attention_weights_are_left_out_not_guessed():
    model, inputs = build(vit_tiny)
    model.blocks[0].attn.fused_attn = False
    recorder = Recorder(model, "leaves", sink=lambda key, features, positions: None)
    with pytest.warns(CaptureWarning, match="no features of 9 of the layers"), recorder, torch.no_grad():
        model(**inputs)
    assert recorder.skipped["blocks.0.attn.attn_drop"].startswith("the channel axis of (3, 3, 17, 17)")
    model.blocks[0].attn.fused_attn = True

"""Hugging Face models from a folder: the architecture that was saved, whole, offline and without the folder's code."""

import json
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import neurocollapse as nc
from neurocollapse import models
from neurocollapse.models import ModelError

transformers = pytest.importorskip("transformers", reason="transformers is an optional dependency")

TEXT = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION = {key: value for key, value in TEXT.items() if key != "vocab_size"} | {"image_size": 8, "patch_size": 4}
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "BertForSequenceClassification": lambda: transformers.BertConfig(num_labels=5, **TEXT),
    "BertForMaskedLM": lambda: transformers.BertConfig(**TEXT),
    "BertModel": lambda: transformers.BertConfig(**TEXT),
    "DistilBertForSequenceClassification": lambda: transformers.DistilBertConfig(
        vocab_size=20, dim=8, n_layers=1, n_heads=2, hidden_dim=16
    ),
    "ViTForImageClassification": lambda: transformers.ViTConfig(num_labels=5, **VISION),
    "ViTModel": lambda: transformers.ViTConfig(**VISION),
    "Dinov2Model": lambda: transformers.Dinov2Config(**VISION),
    "GPT2LMHeadModel": lambda: transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16),
    "LlamaForCausalLM": lambda: transformers.LlamaConfig(**TEXT),
    "LlamaForSequenceClassification": lambda: transformers.LlamaConfig(num_labels=5, pad_token_id=0, **TEXT),
    "MixtralForCausalLM": lambda: transformers.MixtralConfig(num_local_experts=2, **TEXT),
    "T5ForConditionalGeneration": lambda: transformers.T5Config(
        vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2
    ),
    "CLIPModel": lambda: transformers.CLIPConfig(text_config=TEXT, vision_config=VISION),
    "ResNetForImageClassification": lambda: transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=5
    ),
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be asked for."""

    def refused(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)


def made(name: str) -> nn.Module:
    return getattr(transformers, name)(ARCHITECTURES[name]()).eval()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders that save_pretrained wrote, one for each architecture that is asked for."""
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                folders[name] = tmp_path_factory.mktemp(name)
                made(name).save_pretrained(folders[name])
        return folders[name]

    return folder


@pytest.fixture
def copied(saved: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a folder, with its configuration and weights changed."""

    def copy(name: str, change: Callable[[dict[str, Any]], Any] = dict, **config: Any) -> Path:
        folder = Path(shutil.copytree(saved(name), tmp_path / "copy"))
        written = json.loads((folder / "config.json").read_text()) | config
        written = {key: value for key, value in written.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(written))
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
        return folder

    return copy


def assert_same_state(model: nn.Module, expected: nn.Module) -> None:
    assert type(model) is type(expected)
    states = model.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[1].items():
        assert torch.equal(states[0][name], value), name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_architecture_that_was_saved_is_opened_with_all_its_weights(
    saved: Callable[[str], Path], name: str
) -> None:
    expected = getattr(transformers, name).from_pretrained(saved(name))
    assert_same_state(models.open(f"hf:{saved(name)}"), expected)


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    expected = made("LlamaForCausalLM")
    expected.save_pretrained(tmp_path, max_shard_size="1KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same_state(models.open(f"hf:{tmp_path}"), expected)
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(ModelError, match=r"index.json names 'model-00002-of-.*', which is not beside it; download"):
        models.open(f"hf:{tmp_path}")


def test_the_penultimate_layer_is_in_front_of_the_head(saved: Callable[[str], Path]) -> None:
    model = models.open(f"hf:{saved('BertForSequenceClassification')}").eval()
    tokens, labels = torch.randint(20, (8, 6)), torch.arange(8) % 2
    with nc.capture(model, "penultimate") as features:
        model(tokens)
    dataset = nc.analyze(model, [{"input_ids": tokens, "labels": labels}], layers="penultimate")
    (layer,) = features
    assert dataset["layer"].values.tolist() == [layer]
    assert layer == "classifier@in"


LACKING = {
    "no head": ("BertForSequenceClassification", lambda state: without(state, "classifier"), "lacks 2 .*classifier.bi"),
    "no pooler": ("ViTModel", lambda state: without(state, "pooler"), r"lacks 2 weights of ViTModel, .*pooler.dense"),
    "no layer": ("GPT2LMHeadModel", lambda state: without(state, "mlp"), r"lacks 4 weights .* and 1 more"),
    "no embedding": ("LlamaForCausalLM", lambda state: without(state, "embed_tokens"), "embed_tokens.weight"),
    "other names": ("BertModel", lambda state: {f"x.{key}": value for key, value in state.items()}, "lacks"),
}


def without(state: dict[str, Any], part: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if part not in name}


@pytest.mark.parametrize(("name", "change", "message"), LACKING.values(), ids=LACKING)
def test_no_weight_is_random(copied: Callable[..., Path], name: str, change: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        models.open(f"hf:{copied(name, change)}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("BertModel", "BertForSequenceClassification"),
        ("ViTForImageClassification", "ViTModel"),
        ("LlamaForCausalLM", "LlamaForSequenceClassification"),
    ],
)
def test_weights_of_another_architecture_are_refused(copied: Callable[..., Path], name: str, other: str) -> None:
    with pytest.raises(ModelError, match=rf"weights of {other}, which would be random: .*; name the architecture"):
        models.open(f"hf:{copied(name, architectures=[other])}")


def test_weights_that_the_model_lacks_are_reported(copied: Callable[..., Path]) -> None:
    folder = copied("BertModel", lambda state: state | {"projection.weight": torch.ones(1)})
    with pytest.warns(UserWarning, match="holds 1 weights that BertModel has no place for: projection.weight"):
        models.open(f"hf:{folder}")


def test_weights_of_another_shape_are_refused(copied: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="cannot be built"):
        models.open(f"hf:{copied('BertModel', hidden_size=4)}")


def test_a_configuration_without_an_architecture_opens_the_headless_model(copied: Callable[..., Path]) -> None:
    assert type(models.open(f"hf:{copied('BertModel', architectures=None)}")) is transformers.BertModel


HUB = "kernels-community/flash-attn3"


@pytest.mark.parametrize(
    "config",
    [
        {"attn_implementation": HUB},
        {"_attn_implementation": HUB},
        {"_attn_implementation_internal": HUB},
        {"attn_implementation": {"": HUB}},
        {"_attn_implementation_autoset": False, "attn_implementation": "flash_attention_2"},
        {"experts_implementation": HUB},
        {"use_kernels": True},
        {"fusion_config": {"patch_embeddings": True}},
        {"transformers_weights": "../elsewhere.safetensors"},
        {"auto_map": {"AutoModel": "own.Model"}},
    ],
    ids=str,
)
def test_attention_is_chosen_here_and_nothing_in_the_configuration_leads_elsewhere(
    copied: Callable[..., Path], config: dict[str, Any]
) -> None:
    model = models.open(f"hf:{copied('BertModel', **config)}")
    assert model.config._attn_implementation == "sdpa"


def test_attention_is_chosen_for_every_part(copied: Callable[..., Path]) -> None:
    parts = {"text_config": TEXT, "vision_config": VISION}
    named = {name: part | {"attn_implementation": HUB, "_attn_implementation": HUB} for name, part in parts.items()}
    model = models.open(f"hf:{copied('CLIPModel', **named)}")
    assert {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")} == {"sdpa"}


def test_a_model_without_fused_attention_keeps_its_own(saved: Callable[[str], Path]) -> None:
    assert models.open(f"hf:{saved('ResNetForImageClassification')}").config._attn_implementation == "eager"


def test_the_hubs_client_is_as_before_afterwards(saved: Callable[[str], Path], capfd: Any) -> None:
    from huggingface_hub import constants

    log = transformers.utils.logging
    before = constants.HF_HUB_OFFLINE, log.get_verbosity(), log.is_progress_bar_enabled()
    models.open(f"hf:{saved('BertModel')}")
    with pytest.raises(ModelError):
        models.open(f"hf:{saved('BertModel')}", checkpoint="nowhere")
    assert (constants.HF_HUB_OFFLINE, log.get_verbosity(), log.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_a_checkpoint_takes_the_place_of_the_folders_weights(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = saved("BertForSequenceClassification")
    zeros = {name: torch.zeros_like(value) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(zeros, tmp_path / "zeros.safetensors")
    model = models.open(f"hf:{folder}", checkpoint=tmp_path / "zeros.safetensors")
    assert not any(value.any() for value in model.parameters())


class Marker:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "distributed_checkpoint/.metadata", ".metadata"])
def test_pickled_weights_are_not_loaded(saved: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    folder = saved("BertModel")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(pickle.dumps(Marker(tmp_path / "ran")))
    with pytest.raises(ModelError, match=r"no model.safetensors .* pickled weights are never read"):
        models.open(f"hf:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_an_adapter_is_not_left_out_in_silence(copied: Callable[..., Path]) -> None:
    folder = copied("BertModel")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil/model"}))
    with pytest.raises(ModelError, match=r"holds an adapter .*, which is not applied; open it in a factory"):
        models.open(f"hf:{folder}")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}},
            "names the architecture 'own', which",
        ),
        ({"model_type": "bert", "architectures": ["OwnModel"]}, "names the architecture 'OwnModel', which transformer"),
        ({"model_type": "bert", "architectures": ["pipeline"]}, "names the architecture 'pipeline'"),
        ({"model_type": "bert", "architectures": ["os.system"]}, "names the architecture 'os.system'"),
        ({"model_type": "bert", "architectures": [7]}, "names the architecture 7"),
        ({"architectures": ["BertModel"], "quantization_config": {"quant_method": "fp8"}}, "describes quantised weigh"),
        ({}, "names the architecture None"),
        ({"model_type": ["bert"]}, r"names the architecture \['bert'\]"),
        ([], "must hold a configuration, got a list"),
    ],
)
def test_code_in_the_folder_never_runs(tmp_path: Path, config: Any, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=message) as caught:
        models.open(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("contents", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN'])
def test_a_damaged_configuration_is_refused(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "config.json").write_bytes(contents)
    with pytest.raises(ModelError, match=r"config.json is not readable JSON"):
        models.open(f"hf:{tmp_path}")


def test_the_number_of_classes_is_the_configs(saved: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="`num_classes` does not go with 'hf:FOLDER'"):
        models.open(f"hf:{saved('BertModel')}", num_classes=3)

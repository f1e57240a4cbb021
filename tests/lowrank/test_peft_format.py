"""Plain LoRA adapters mean the same to PEFT and to this package, in both directions."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neurocollapse.lowrank import (
    AdapterError,
    CompressedDeepLoRA,
    DeepLoRA,
    LoRA,
    inject,
    load_peft,
    save_peft,
)

# PEFT asks transformers for a property under the name it had before.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TOKENS = torch.randint(0, 30, (3, 8), generator=torch.Generator().manual_seed(0))
ROUNDING = 1e-5
"""Of outputs of order one in float32, after some tens of additions each."""


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft", reason="peft is needed to compare with")


def language_model(family: str) -> nn.Module:
    """A small BERT, with Linear layers, or a small GPT-2, with Conv1D layers."""
    transformers = pytest.importorskip("transformers", reason="transformers is an optional dependency")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "bert":
            sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
            return transformers.BertModel(transformers.BertConfig(vocab_size=30, **sizes)).eval()
        config = transformers.GPT2Config(vocab_size=30, n_positions=16, n_embd=16, n_layer=2, n_head=2)
        return transformers.GPT2Model(config).eval()


LAYERS = {"bert": "**.value", "gpt2": "**.c_attn"}
both_families = pytest.mark.parametrize("family", LAYERS)


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(TOKENS).last_hidden_state


def filled(model: nn.Module, family: str, kind: Any) -> Any:
    """Adapters that change the output."""
    loss = (lambda: model(TOKENS).last_hidden_state.square().sum()) if isinstance(kind, CompressedDeepLoRA) else None
    adapters = inject(model, LAYERS[family], kind=kind, loss=loss)
    for chain in adapters.values():
        for factor in chain.factors:
            nn.init.normal_(factor, std=0.4, generator=torch.Generator().manual_seed(2))
    return adapters


@both_families
@pytest.mark.parametrize("kind", [LoRA(rank=4, alpha=2.0), DeepLoRA(rank=4), CompressedDeepLoRA(rank=4)], ids=str)
def test_peft_computes_what_was_saved(peft: Any, family: str, kind: Any, tmp_path: Path) -> None:
    model = language_model(family)
    plain = output(model)
    save_peft(filled(model, family, kind), tmp_path)
    theirs = peft.PeftModel.from_pretrained(language_model(family), tmp_path)
    assert float((output(model) - plain).abs().max()) > 0.01
    assert float((output(theirs) - output(model)).abs().max()) < ROUNDING
    assert {type(module).__name__ for module in theirs.modules()} & {"Linear", "Conv1D"}


@both_families
@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_saved_is_read(peft: Any, family: str, rslora: bool, tmp_path: Path) -> None:
    options = {"r": 4, "lora_alpha": 6, "use_rslora": rslora, "fan_in_fan_out": family == "gpt2"}
    config = peft.LoraConfig(target_modules=[LAYERS[family].removeprefix("**.")], init_lora_weights=False, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        theirs = peft.get_peft_model(language_model(family), config)
    theirs.eval().save_pretrained(tmp_path)
    ours = language_model(family)
    plain = output(ours)
    adapters = load_peft(ours, tmp_path)
    assert len(adapters) == 2
    assert float((output(theirs) - plain).abs().max()) > 0.01
    assert float((output(ours) - output(theirs)).abs().max()) < ROUNDING


@both_families
def test_a_folder_comes_back_without_peft(family: str, tmp_path: Path) -> None:
    model = language_model(family)
    save_peft(filled(model, family, LoRA(rank=4, alpha=2.0)), tmp_path)
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    layer = {"bert": "encoder.layer.0.attention.self.value", "gpt2": "h.0.attn.c_attn"}[family]
    assert f"base_model.model.{layer}.lora_A.weight" in names
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (4, 2.0, family == "gpt2")
    assert layer in config["target_modules"]
    again = language_model(family)
    assert load_peft(again, tmp_path).kind == LoRA(rank=4, alpha=2.0)
    assert torch.equal(output(again), output(model))


def test_conv1d_layers_merge(tmp_path: Path) -> None:
    model = language_model("gpt2")
    adapters = filled(model, "gpt2", DeepLoRA(rank=4))
    trained = output(model)
    adapters.merge()
    assert float((output(model) - trained).abs().max()) < ROUNDING


def test_a_layer_whose_name_ends_another_is_named_by_an_expression(tmp_path: Path) -> None:
    model = nn.ModuleDict({"fc": nn.Linear(4, 4), "block": nn.ModuleDict({"fc": nn.Linear(4, 4)})})
    save_peft(inject(model, "fc", kind=LoRA(rank=2)), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == "fc"


def test_a_layer_whose_name_ends_that_of_any_module_is_named_by_an_expression(peft: Any, tmp_path: Path) -> None:
    def network() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Dropout(), nn.Linear(8, 4))).eval()

    model, inputs = network(), torch.ones(2, 6)
    adapters = inject(model, "**", kind=DeepLoRA(rank=2, init_scale=1.0))
    save_peft(adapters, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == r"0|2\.1"
    theirs = peft.PeftModel.from_pretrained(network(), tmp_path)  # a Dropout, 2.0, ends in .0 and takes no adapter
    assert float((theirs(inputs) - model(inputs)).detach().abs().max()) < ROUNDING


def test_an_embedding_gets_no_adapter_by_its_name(peft: Any, tmp_path: Path) -> None:
    def network() -> nn.Module:
        return nn.ModuleDict({"body": nn.ModuleDict({"word": nn.Embedding(9, 6)}), "word": nn.Linear(6, 4)})

    save_peft(inject(network(), "word", kind=LoRA(rank=2)), tmp_path)
    theirs = peft.PeftModel.from_pretrained(network(), tmp_path)
    assert {name.rpartition(".lora_")[0] for name, _ in theirs.named_parameters() if "lora" in name} == {
        "base_model.model.word"
    }


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_adapters_beside_changed_base_weights_are_refused(peft: Any, start: str, tmp_path: Path) -> None:
    theirs = peft.get_peft_model(
        nn.ModuleDict({"fc": nn.Linear(6, 6)}), peft.LoraConfig(r=2, target_modules=["fc"], init_lora_weights=start)
    )
    theirs.save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match=f"sets init_lora_weights='{start}', which plain LoRA does not have"):
        load_peft(nn.ModuleDict({"fc": nn.Linear(6, 6)}), tmp_path)


@pytest.mark.parametrize("start", [True, "gaussian", "orthogonal"])
def test_other_starts_are_read(peft: Any, start: Any, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["fc"], init_lora_weights=start, task_type="FEATURE_EXTRACTION")
    peft.get_peft_model(nn.ModuleDict({"fc": nn.Linear(6, 6)}), config).save_pretrained(tmp_path)
    assert list(load_peft(nn.ModuleDict({"fc": nn.Linear(6, 6)}), tmp_path)) == ["fc"]


def test_a_configuration_that_cannot_be_written_leaves_the_weights(tmp_path: Path) -> None:
    adapters = inject(nn.ModuleDict({"fc": nn.Linear(4, 4)}), "fc", kind=LoRA(rank=2))
    (tmp_path / "adapter_config.json").mkdir()
    (tmp_path / "adapter_model.safetensors").write_bytes(b"older")
    with pytest.raises(AdapterError, match=r"cannot write .*adapter_config\.json"):
        save_peft(adapters, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == b"older"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "must describe a LORA adapter, got peft_type='IA3'"),
        ({"use_dora": True}, "sets use_dora, which plain LoRA does not have"),
        ({"bias": "all"}, "sets bias"),
        ({"rank_pattern": {"fc": 8}}, "sets rank_pattern"),
        ({"init_lora_weights": "pissa_niter_4"}, "sets init_lora_weights='pissa_niter_4'"),
        ({"alora_invocation_tokens": [1, 2]}, "sets alora_invocation_tokens"),
        ({"target_parameters": ["fc.weight"], "layer_replication": [[0, 1]]}, "target_parameters, layer_replication"),
        ({"a_setting_of_tomorrow": {"x": 1}}, "sets a_setting_of_tomorrow"),
        ({"r": 0}, "must give 'r' as a positive integer, got 0"),
        ({"r": 3.0}, "must give 'r' as a positive integer, got 3.0"),
        ({"lora_alpha": "x"}, "must give 'lora_alpha' as a positive number, got 'x'"),
        ({"lora_alpha": math.inf}, "must give 'lora_alpha' as a positive number, got inf"),
    ],
)
def test_adapters_that_are_not_plain_lora_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = nn.ModuleDict({"fc": nn.Linear(4, 4)})
    adapters = inject(model, "fc", kind=LoRA(rank=2))
    save_peft(adapters, tmp_path)
    adapters.remove()
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(AdapterError, match=message):
        load_peft(model, tmp_path)
    assert model["fc"].weight.requires_grad


def test_folders_of_other_things_are_refused(tmp_path: Path) -> None:
    model = nn.ModuleDict({"fc": nn.Linear(4, 4)})
    with pytest.raises(AdapterError, match="name a folder that PEFT wrote"):
        load_peft(model, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterError, match="is not JSON"):
        load_peft(model, tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    save_file({"base_model.model.fc.lora_embedding_A": torch.ones(2, 4)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="only lora_A and lora_B of dense layers"):
        load_peft(model, tmp_path)
    save_file({"base_model.model.fc.lora_A.weight": torch.ones(2, 4)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="does not fit: factors of 'fc'"):
        load_peft(model, tmp_path)

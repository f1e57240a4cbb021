"""Hugging Face models from a folder: local, safetensors only, and without the folder's code."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from neurocollapse import models
from neurocollapse.models import ModelError

transformers = pytest.importorskip("transformers", reason="transformers is an optional dependency")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("bert")
        transformers.BertModel(config).save_pretrained(path)
    return path


def test_a_saved_model_is_loaded_with_its_weights(folder: Path) -> None:
    model = models.open(f"hf:{folder}")
    saved = load_file(folder / "model.safetensors")
    assert torch.equal(model.embeddings.word_embeddings.weight, saved["embeddings.word_embeddings.weight"])


def test_a_checkpoint_takes_the_place_of_the_folders_weights(folder: Path, tmp_path: Path) -> None:
    zeros = {name: torch.zeros_like(value) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(zeros, tmp_path / "zeros.safetensors")
    model = models.open(f"hf:{folder}", checkpoint=tmp_path / "zeros.safetensors")
    assert not model.embeddings.word_embeddings.weight.any()


def test_pickled_weights_are_not_loaded(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be built: OSError"):
        models.open(f"hf:{tmp_path}")


def test_code_in_the_folder_never_runs(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}'
    )
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="cannot be built"):
        models.open(f"hf:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_the_number_of_classes_is_the_configs(folder: Path) -> None:
    with pytest.raises(ModelError, match="`num_classes` does not go with 'hf:FOLDER'"):
        models.open(f"hf:{folder}", num_classes=3)

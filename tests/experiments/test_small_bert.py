"""The small BERT compares sentences after its pretraining, and transformers loads without what text does not need."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from neurocollapse.experiments.adapters import small_bert
from neurocollapse.experiments.adapters.small_bert import pretrained_small_bert
from neurocollapse.models import ModelError

transformers = pytest.importorskip("transformers", reason="transformers is an optional dependency")


def test_pretraining_depends_on_the_seed_alone_and_is_kept_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "pretrained.safetensors"
    before = torch.get_rng_state()
    first = pretrained_small_bert(2, seed=0, file=file)
    again, other = pretrained_small_bert(2, seed=0), pretrained_small_bert(2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    kept = pretrained_small_bert(2, seed=7, file=file)
    assert all(torch.equal(first[name], kept[name]) for name in first)


def test_heads_are_drawn_from_the_seed_on_one_encoder() -> None:
    weights = pretrained_small_bert(1, seed=0)
    models = [small_bert.small_bert(weights, seed=seed) for seed in (0, 0, 1)]
    heads = [model.classifier.weight for model in models]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(models[2].bert.pooler.dense.weight, weights["pooler.dense.weight"])


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "transformers" else find_spec(name, *rest)
    )
    with pytest.raises(ModelError, match=r"pip install 'neurocollapse\[text\]'"):
        small_bert.transformers()


@pytest.mark.slow
def test_a_torchvision_that_does_not_load_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('built for another torch')")
    code = (
        "import sys; from neurocollapse.experiments.adapters.small_bert import transformers\n"
        "print(transformers().BertForSequenceClassification.__name__, 'torchvision' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["BertForSequenceClassification", "False"]

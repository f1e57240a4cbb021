"""What the page "How do I …?" takes for granted: small models, loaders, trainers and files under its names."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import neurocollapse as nc
from neurocollapse.models import SmallGPT

CLASSES, SAMPLES, SIDE, WIDTH = 3, 48, 4, 8
VOCABULARY, LENGTH, SENTENCES = 600, 24, 32  # enough for 500 kinds of tokens
MODELS_FILE = f"""
from torch import nn

def build():
    block = nn.Sequential(nn.Linear({3 * SIDE * SIDE}, {WIDTH}), nn.ReLU())
    return nn.Sequential(nn.Flatten(), block, nn.Linear({WIDTH}, {CLASSES}))
"""
TRAINER_SETTINGS = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


class Perceptron(nn.Module):
    """A stack of layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(SIDE, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images))


class WithLoss(nn.Module):
    """The perceptron as the Trainer of transformers takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Perceptron()

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(images)
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


class Tagger(nn.Module):
    """Tokens, mixed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.mix(self.embed(input_ids))


def batches(shift: float = 0.0) -> list[tuple[Tensor, Tensor]]:
    labels = torch.arange(SAMPLES) % CLASSES
    inputs = 2.0 * torch.eye(CLASSES, SIDE)[labels] + 0.5 * torch.randn(SAMPLES, SIDE) + shift
    return list(zip(inputs.split(16), labels.split(16), strict=True))


def pairs() -> torch.utils.data.DataLoader[Any]:
    samples = [(image, int(label)) for images, labels in batches() for image, label in zip(images, labels, strict=True)]
    return torch.utils.data.DataLoader(samples, 16)


def sentences(**labels: Tensor) -> list[dict[str, Tensor]]:
    """One padded batch, as a tokenizer gives it."""
    lengths = LENGTH - torch.arange(SENTENCES) % 4
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    tokens = torch.randperm(mask.numel()).view_as(mask) % VOCABULARY
    return [{"input_ids": tokens * mask, "attention_mask": mask, **labels}]


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return transformers.BertModel(transformers.BertConfig(vocab_size=VOCABULARY, **sizes))


def resnet() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """The smallest of torchvision's, and images for it."""
    model = pytest.importorskip("torchvision").models.resnet18(num_classes=CLASSES)
    return model, [(torch.randn(12, 3, 32, 32), torch.arange(12) % CLASSES)]


def segmenter() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    return nn.Conv2d(3, CLASSES, 1), [(torch.randn(6, 3, SIDE, SIDE), torch.randint(CLASSES, (6, SIDE, SIDE)))]


def fsdp_model() -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    return fully_shard(Perceptron(), mesh=mesh)


def lightning_parts() -> dict[str, Any]:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = Perceptron()

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

        def training_step(self, batch: Any, index: int) -> Tensor:
            return cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    settings = {**TRAINER_SETTINGS, "enable_model_summary": False}
    return {"lightning": lightning, "lightning_module": Module(), "trainer_settings": settings, "loader": pairs()}


def transformers_parts() -> dict[str, Any]:
    transformers = pytest.importorskip("transformers")
    settings = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    arguments = transformers.TrainingArguments("out", num_train_epochs=1, **settings)
    samples = [{"images": image, "labels": label} for image, label in pairs().dataset]
    trainer = transformers.Trainer(WithLoss(), arguments, train_dataset=samples)
    return {"hf_trainer": trainer, "probe_loader": torch.utils.data.DataLoader(samples, 16)}


def accelerate_parts() -> dict[str, Any]:
    accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True)
    model = Perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {"accelerator": accelerator, "model": model, "optimizer": optimizer, "loader": pairs()}


def recorder() -> Any:
    """What takes scalars as a SummaryWriter and dicts as a run of wandb do."""
    kept: list[Any] = []
    log, add = lambda numbers, step: kept.append((numbers, step)), lambda name, value, step: kept.append((name, value))
    return SimpleNamespace(kept=kept, log=log, add_scalar=add)


NAMES: dict[str, Callable[[], Any]] = {
    "bert": bert,
    "dataset": lambda: nc.analyze(Perceptron(), batches()),
    "features": lambda: torch.randn(30, WIDTH),
    "fsdp_model": fsdp_model,
    "gpt": lambda: SmallGPT(VOCABULARY, LENGTH, width=WIDTH, depth=2, num_heads=2),
    "images": lambda: batches()[0][0],
    "labels": lambda: torch.arange(30) % 10,
    "loader": batches,
    "model": Perceptron,
    "nc": lambda: nc,
    "other_loader": lambda: batches(shift=3.0),
    "other_model": Perceptron,
    "probe_loader": batches,
    "tagged": lambda: sentences(tags=torch.randint(CLASSES, (SENTENCES, LENGTH))),
    "tagger": Tagger,
    "target_loader": batches,
    "test_loader": batches,
    "tokenized": lambda: sentences(labels=torch.arange(SENTENCES) % 2),
    "torch": lambda: torch,
    "train_one_epoch": lambda: lambda model: [parameter.data.mul_(0.9) for parameter in model.parameters()],
    "wandb_run": recorder,
    "writer": recorder,
}
"""Name in an answer → how it is made."""

TOGETHER: dict[str, Callable[[], dict[str, Any]]] = {
    "accelerator": accelerate_parts,
    "hf_trainer": transformers_parts,
    "lightning": lightning_parts,
    "resnet": lambda: dict(zip(("resnet", "loader"), resnet(), strict=True)),
    "segmenter": lambda: dict(zip(("segmenter", "scenes"), segmenter(), strict=True)),
}
"""Name in an answer → what it brings along, in place of what is in NAMES."""


def namespace(used: Iterable[str]) -> dict[str, Any]:
    """Everything that an answer needs, and nothing else."""
    found = {name: make for name, make in NAMES.items() if name in used}
    parts = {name: value for first in used if first in TOGETHER for name, value in TOGETHER[first]().items()}
    return {name: make() for name, make in found.items() if name not in parts} | parts


def write_files(folder: Path) -> None:
    """The files that lines of shell name: a module, weights, checkpoints, images."""
    (folder / "my_models.py").write_text(MODELS_FILE)
    block = nn.Sequential(nn.Linear(3 * SIDE * SIDE, WIDTH), nn.ReLU())
    network = nn.Sequential(nn.Flatten(), block, nn.Linear(WIDTH, CLASSES))
    (folder / "runs").mkdir()
    for path in ("weights.safetensors", "runs/step1.safetensors", "runs/step10.safetensors"):
        save_file(network.state_dict(), folder / path)
    generator = np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        (folder / "images" / name).mkdir(parents=True)
        for index in range(5):
            pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{index}.png")


def write_run(folder: Path) -> None:
    """A saved analysis."""
    run = nc.analyze(Perceptron(), batches(), layers=["leaves", "penultimate"], progress=False)
    nc.save(run, folder / "run.nc")


def write_language_model(folder: Path) -> None:
    """A small GPT-2 with a tokenizer of whole words, and a story."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = [f"word{number}" for number in range(60)]
    level = tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[-1])
    tokenizer = tokenizers.Tokenizer(level)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    sizes = {"vocab_size": len(words), "n_positions": 16, "n_embd": WIDTH, "n_layer": 2, "n_head": 2}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(bos_token_id=0, eos_token_id=0, **sizes))
    model.save_pretrained(folder / "my_gpt")
    tokenizer.save(str(folder / "my_gpt" / "tokenizer.json"))
    settings = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    (folder / "my_gpt" / "tokenizer_config.json").write_text(settings)
    (folder / "story.txt").write_text(" ".join(words * 4))

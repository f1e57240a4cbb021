"""BERT models for sentence pairs: from a local folder, or a small one pretrained on the spot."""

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurocollapse.experiments.adapters.packages import without_unusable_torchvision
from neurocollapse.experiments.adapters.sentences import CONCEPT_OF, graded_pairs, vocabulary
from neurocollapse.experiments.adapters.sts import Words
from neurocollapse.models import ModelError
from neurocollapse.support.progress import progress_bar
from neurocollapse.support.quiet import kept_random_state, seed_random_state
from neurocollapse.support.state import read_state, write_state
from neurocollapse.support.text import first_line

Encode = Callable[[Sequence[tuple[str, str]]], dict[str, Tensor]]
"""Sentence pairs → the model's inputs."""

FILE_KIND = "small bert"
WIDTH, NUM_LAYERS, NUM_HEADS = 64, 2, 4
LONGEST = 32
"""Words of the longest pair, with room; the grammar's pairs have 21."""
NUM_PRETRAINING_PAIRS, BATCH_SIZE, PEAK_RATE, WARM_UP = 8192, 32, 3e-3, 0.1
PRETRAINING_SEED = 1
"""Seed of the pretraining pairs, which are not those of the task."""
LONGEST_TEXT = 128
"""Tokens to which pairs are cut for a checkpoint from a folder, as in the source."""


def transformers() -> Any:
    """The package transformers, or an error that says how to install it.

    Raises
    ------
    ModelError
        If it is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ModelError("transformers is not installed; pip install 'neurocollapse[text]'")
    with without_unusable_torchvision():
        package = importlib.import_module("transformers")
        package.BertForSequenceClassification, package.AutoModelForSequenceClassification  # noqa: B018 - they load lazily
    return package


def pretrained_small_bert(
    num_steps: int, *, seed: int, file: Path | None = None, progress: bool = False
) -> dict[str, Tensor]:
    """Weights of the encoder of a small BERT that can compare sentences of the grammar.

    Pretrained on 8,192 pairs, none of the task's: it tells which of a sentence's four parts agree with the other
    sentence's, and marks every word that has a counterpart there. The graded score is not among its targets.

    Parameters
    ----------
    num_steps
        Batches of 32 pairs.
    seed
        Seed of the initial weights and the order of the pairs.
    file
        Read the weights from there, or keep them there.
    """
    if file is not None and file.exists():
        return read_state(file, FILE_KIND, error=ModelError)[1]
    with kept_random_state(torch.device("cpu")):
        seed_random_state(seed, torch.device("cpu"))
        weights = _pretrain(num_steps, progress)
    if file is not None:
        write_state(file, FILE_KIND, {}, weights, error=ModelError)
    return weights


def small_bert(weights: dict[str, Tensor], *, seed: int) -> nn.Module:
    """The small BERT with a head of its own for one score, drawn from the seed."""
    with kept_random_state(torch.device("cpu")):
        seed_random_state(seed, torch.device("cpu"))
        model = _new_bert(num_labels=1)
    model.bert.load_state_dict(weights)
    return model


def bert_from_folder(folder: Path, *, seed: int) -> nn.Module:
    """A checkpoint that `save_pretrained` wrote, with a new head for one score, drawn from the seed.

    Raises
    ------
    ModelError
        If the folder holds no such model. Nothing is downloaded, and no code in the folder is run.
    """
    _check_folder(folder)
    package = transformers()
    options = {"local_files_only": True, "trust_remote_code": False}
    with kept_random_state(torch.device("cpu")):
        seed_random_state(seed, torch.device("cpu"))
        try:
            model = package.AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=1, use_safetensors=True, ignore_mismatched_sizes=True, **options
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder} holds no model that can be read: {first_line(error)}") from error
    return model


def encoder_of_folder(folder: Path) -> Encode:
    """The tokenizer that lies beside a checkpoint.

    Raises
    ------
    ModelError
        If there is none.
    """
    _check_folder(folder)
    try:
        tokenizer = transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} holds no tokenizer that can be read: {first_line(error)}") from error

    def encode(sentences: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
        first, second = zip(*sentences, strict=True)
        options = {"padding": True, "truncation": True, "max_length": LONGEST_TEXT, "return_tensors": "pt"}
        return dict(tokenizer(list(first), list(second), **options))

    return encode


def small_encoder() -> Words:
    """The tokenizer of the small BERT."""
    return Words(vocabulary())


def _new_bert(num_labels: int) -> Any:
    """A small BERT with random weights; dropout as in BERT, active in training mode only.

    Weights have the standard deviation 1/√width, at which a narrow network passes on its input; BERT's own 0.02 is
    made for width 768. Keys start as queries do, so that a word first attends to itself in the other sentence: without
    that the comparison of two sentences is found only after a long plateau.
    """
    package = transformers()
    config = package.BertConfig(
        vocab_size=len(small_encoder()),
        hidden_size=WIDTH,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=LONGEST,
        initializer_range=1 / math.sqrt(WIDTH),
        num_labels=num_labels,
    )
    model = package.BertForSequenceClassification(config)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.self.key.weight.copy_(layer.attention.self.query.weight)
    return model


def _pretrain(num_steps: int, progress: bool) -> dict[str, Tensor]:
    """Train a new encoder on the grammar, without dropout."""
    pairs = graded_pairs(NUM_PRETRAINING_PAIRS, PRETRAINING_SEED)
    inputs = small_encoder()(pairs.sentences)
    agreement = torch.from_numpy(pairs.agreement).float()
    counterparts, counts = _counterparts(inputs)
    model = _new_bert(num_labels=agreement.shape[1])
    marks = nn.Linear(WIDTH, 1)
    parameters = [*model.parameters(), *marks.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=num_steps, pct_start=WARM_UP)
    model.eval()
    for _ in progress_bar(range(num_steps), desc="pretraining", shown=progress):
        chosen = torch.randint(len(agreement), (BATCH_SIZE,))
        found = model.bert(**{key: value[chosen] for key, value in inputs.items()})
        marked = marks(found.last_hidden_state)[..., 0][counts[chosen]]
        loss = functional.binary_cross_entropy_with_logits(marked, counterparts[chosen][counts[chosen]])
        agreed = model.classifier(found.pooler_output)
        loss = loss + functional.binary_cross_entropy_with_logits(agreed, agreement[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {name: value.detach().clone().contiguous() for name, value in model.bert.state_dict().items()}


def _counterparts(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Which words have one of the same concept in the other sentence, and which words name a concept at all."""
    encoder = small_encoder()
    numbers = {concept: number for number, concept in enumerate(dict.fromkeys(CONCEPT_OF.values()))}
    concepts = torch.full((len(encoder),), -1)
    for word, concept in CONCEPT_OF.items():
        concepts[encoder.ids[word]] = numbers[concept]
    named = concepts[inputs["input_ids"]]
    segments = inputs["token_type_ids"]
    same = (named[:, :, None] == named[:, None, :]) & (segments[:, :, None] != segments[:, None, :])
    counts = named >= 0
    return (same.any(dim=2) & counts).float(), counts


def _check_folder(folder: Path) -> None:
    """Raise unless a folder looks like a saved checkpoint."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"no config.json in {folder}; model_folder must be one that save_pretrained wrote")

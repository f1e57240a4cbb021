"""Token data on the command line: a text with the model's own tokenizer, archives of tokens, and every mistake."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.cli import main

pytestmark = pytest.mark.filterwarnings("default")  # the program prints warnings, one per line
transformers = pytest.importorskip("transformers", reason="transformers is an optional dependency")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["<pad>", "the", "a", "cat", "dog", "saw", "and", "ran", "home", "."]
LINES = [
    "the cat saw a dog and ran home .",
    "a dog saw the cat and the dog ran .",
    "the dog ran and the cat ran home .",
    "a cat ran .",
    "the dog saw the dog .",
]
ABSOLUTE = 1e-5  # float32 features; the sums of the naive count are float64
ROOM = 20
"""Positions of the model."""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two language models with their tokenizers, one of which has no pad token, and texts."""
    root = tmp_path_factory.mktemp("tokens")
    words = tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=".")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_positions=ROOM, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=9
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config)
    for name, special in {"gpt": {"pad_token": "<pad>"}, "padless": {}}.items():
        model.save_pretrained(root / name)
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(root / name)
    shutil.copytree(root / "gpt", root / "wide")
    wide = json.loads((root / "wide/tokenizer.json").read_text())
    wide["model"]["vocab"] |= {"more": 10}
    (root / "wide/tokenizer.json").write_text(json.dumps(wide))
    shutil.copytree(root / "gpt", root / "mute")
    (root / "mute/tokenizer.json").unlink()
    (root / "own.txt").write_text("\n".join(LINES))
    (root / "empty.txt").write_text("\n \n")
    (root / "latin.txt").write_bytes("the café".encode("latin-1"))
    ids, mask = padded(lines())
    tags = np.where(mask == 1, ids % 3, -100)
    np.savez(root / "tokens.npz", input_ids=ids, attention_mask=mask, tags=tags, kinds=ids % 3, labels=np.arange(5) % 2)
    np.savez(root / "negative.npz", input_ids=ids, labels=np.where(ids == 0, -1, ids % 3))
    np.savez(root / "short.npz", input_ids=ids, labels=ids[:, :4] % 3)
    np.savez(root / "beyond.npz", input_ids=ids + 5, labels=ids % 3)
    np.savez(root / "masked.npz", input_ids=ids, attention_mask=mask * [[1], [1], [0], [1], [1]], labels=ids[:, 0])
    np.savez(root / "far.npz", input_ids=ids, attention_mask=mask, labels=np.where(ids == 3, 999_999, ids))
    return root


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Analyze with the models and data of the folder."""
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as exit_:
            main(["analyze", *arguments])
        printed = capsys.readouterr()
        return Outcome(int(str(exit_.value.code)), printed.out, printed.err)

    return call


def lines() -> list[list[int]]:
    """The tokens of every line."""
    return [[WORDS.index(word) for word in line.split()] for line in LINES]


def padded(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask of sequences as one batch, filled up on the right."""
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows])
    return ids, np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def compression_by_hand(sequences: list[list[int]], labels: list[list[int]], block: int) -> float:
    """D of a block: every sequence runs alone, and every position that counts is a sample of its label."""
    model: Any = transformers.GPT2LMHeadModel.from_pretrained("gpt").eval()
    rows: dict[int, list[np.ndarray]] = {}
    for sequence, own in zip(sequences, labels, strict=True):
        with torch.no_grad(), nc.capture(model, f"transformer.h.{block}", pool="tokens") as features:
            model(input_ids=torch.tensor([sequence]))
        for row, label in zip(features[f"transformer.h.{block}"].double().numpy(), own, strict=True):
            if label >= 0:
                rows.setdefault(label, []).append(row)
    means = np.stack([np.mean(own, axis=0) for own in rows.values()])
    within = np.mean([((np.stack(own) - np.mean(own, axis=0)) ** 2).sum(axis=1).mean() for own in rows.values()])
    return float(within / ((means - means.mean(axis=0)) ** 2).sum(axis=1).mean())


def following(sequences: list[list[int]]) -> list[list[int]]:
    return [[*row[1:], -1] for row in sequences]


MODEL = ("--model", "hf:gpt", "--layers", "blocks", "--quantities", "compression,class_count")


@pytest.mark.parametrize("batch_size", ["2", "5"])
def test_a_text_is_measured_under_its_next_tokens_as_by_hand(
    run: Callable[..., Outcome], folder: Path, batch_size: str
) -> None:
    outcome = run(*MODEL, "--data", "text:own.txt", "--labels", "next-token", "--batch-size", batch_size)
    assert outcome.code == 0, outcome.err
    stream = [token for line in lines() for token in line]
    assert len(stream) > ROOM  # so that the text is cut where the model ends
    sequences = [stream[start : start + ROOM] for start in range(0, len(stream), ROOM)]
    dataset = nc.open(folder / "analysis.nc")
    for block in range(2):
        expected = compression_by_hand(sequences, following(sequences), block)
        assert dataset["compression"].values[block] == pytest.approx(expected, rel=ABSOLUTE)
    assert dataset["class_name"].values.tolist() == WORDS
    assert dataset["class_count"].values[0].sum() == len(stream) - len(sequences)
    assert dataset.attrs["num_samples"] == len(sequences)
    assert dataset.attrs["data"] == "own.txt"


def test_every_line_is_a_sequence_on_request_and_a_limit_takes_the_first(
    run: Callable[..., Outcome], folder: Path
) -> None:
    common = (*MODEL, "--data", "text:own.txt", "--labels", "next-token", "--lines", "--length", "12")
    for limit in (2, 5):
        outcome = run(*common, "--limit", str(limit))
        assert outcome.code == 0, outcome.err
        expected = compression_by_hand(lines()[:limit], following(lines()[:limit]), 1)
        found = nc.open(folder / "analysis.nc")
        assert found["compression"].values[1] == pytest.approx(expected, rel=ABSOLUTE)


def test_arrays_of_tokens_have_labels_of_sequences_or_positions(run: Callable[..., Outcome], folder: Path) -> None:
    rows = lines()
    for options, labels in {
        ("--labels", "tags"): [[token % 3 for token in row] for row in rows],
        ("--labels", "kinds", "--ignore-index", "0"): [[token % 3 or -1 for token in row] for row in rows],
        ("--labels", "next-token"): following(rows),
        ("--labels", "next-token", "--ignore-index", "1"): [
            [token if token != 1 else -1 for token in row] for row in following(rows)
        ],
        ("--labels", "next-token", "--classes", "3,4"): [
            [token if token in (3, 4) else -1 for token in row] for row in following(rows)
        ],
    }.items():
        outcome = run(*MODEL, "--data", "npz:tokens.npz", *options)
        assert outcome.code == 0, outcome.err
        expected = compression_by_hand(rows, labels, 1)
        assert nc.open(folder / "analysis.nc")["compression"].values[1] == pytest.approx(expected, rel=ABSOLUTE)
    outcome = run(*MODEL, "--data", "npz:tokens.npz")  # one label a sequence: the mean of its real tokens
    assert outcome.code == 0, outcome.err
    found = nc.open(folder / "analysis.nc")
    assert found["class_count"].values.tolist() == [[3, 2]] * 2
    assert set(found["pooling"].values) == {"mean"}


def test_the_most_frequent_classes_are_taken_by_number(run: Callable[..., Outcome], folder: Path) -> None:
    outcome = run(*MODEL, "--data", "text:own.txt", "--labels", "next-token", "--classes", "3")
    assert outcome.code == 0, outcome.err
    assert nc.open(folder / "analysis.nc")["class_name"].values.tolist() == ["the", "dog", "ran"]
    assert "samples of other classes were left out" in nc.open(folder / "analysis.nc").attrs["warnings"]


def test_without_a_pad_token_a_text_is_measured_but_for_its_rest(run: Callable[..., Outcome], folder: Path) -> None:
    outcome = run(*MODEL[2:], "--model", "hf:padless", "--data", "text:own.txt", "--labels", "next-token")
    assert outcome.code == 0, outcome.err
    assert re.search(r"warning: the last \d+ tokens of own.txt, shorter than a sequence, are left out", outcome.err)
    stream = [token for line in lines() for token in line][:ROOM]
    expected = compression_by_hand([stream], following([stream]), 0)
    assert nc.open(folder / "analysis.nc")["compression"].values[0] == pytest.approx(expected, rel=ABSOLUTE)


TEXT = ("--data", "text:own.txt", "--labels", "next-token")
WRONG = {
    "no pad token": ([*TEXT, "--lines", "--model", "hf:padless"], r"tokenizer has no pad token .*leave out --lines"),
    "no tokenizer": ([*TEXT, "--model", "hf:mute"], r"no tokenizer.json in mute, by which text becomes tokens"),
    "no folder": ([*TEXT, "--model", "hf:nowhere"], r"no config.json in nowhere"),
    "another model": ([*TEXT, "--model", "torch.nn:Identity"], r"needs the tokenizer .*give --model hf:FOLDER"),
    "wide tokenizer": ([*TEXT, "--model", "hf:wide"], r"the tokenizer has 11 tokens, but the model embeds 10"),
    "tokens beyond": (["--data", "npz:beyond.npz"], r"beyond.npz/train has tokens up to 14, but the model embeds 10"),
    "too long": ([*TEXT, "--length", "30"], r"cannot run on own.txt, of shape \(30,\).*give shorter sequences"),
    "empty": (["--data", "text:empty.txt"], r"empty.txt holds no text"),
    "not UTF-8": (["--data", "text:latin.txt"], r"latin.txt is not UTF-8 text: it has the byte 0xe9"),
    "no file": (["--data", "text:nothing.txt"], r"there is no file nothing.txt"),
    "no labels": (["--data", "text:own.txt"], r"own.txt has no labels; pass --labels next-token"),
    "no such labels": ([*TEXT[:2], "--labels", "tags"], r"own.txt has no 'tags'; pass --labels next-token"),
    "negative": (["--data", "npz:negative.npz"], r"non-negative or --ignore-index -100, got -1 at \(0, 9\)"),
    "wrong length": (["--data", "npz:short.npz"], r"'labels' must have shape \(5,\) or \(5, 10\), got \(5, 4\)"),
    "masked sample": (["--data", "npz:masked.npz"], r"`attention_mask` leaves nothing of sample 2 of the batch"),
    "a short sequence": ([*TEXT, "--length", "1"], r"--length"),
    "many classes": (["--data", "npz:far.npz", "--max-memory", "0.01"], r"1000000 classes need .* GiB"),
    "no classes": ([*TEXT, "--classes", "some"], r"--classes must be a number of classes, or labels with commas"),
    "one class": ([*TEXT, "--classes", "1"], r"--classes must be"),
    "too many classes": ([*TEXT, "--classes", "70"], r"asks for 70 classes, but only 9 occur"),
    "both numbers": ([*TEXT, "--classes", "3", "--num-classes", "5"], r"leave out --num-classes"),
    "images": ([*TEXT, "--image-size", "8"], r"--image-size is for folder:ROOT"),
    "labels of images": (["--data", "digits", "--labels", "next-token"], r"--labels is for sequences of tokens"),
    "ignored images": (["--data", "digits", "--ignore-index", "1"], r"--ignore-index is for sequences of tokens"),
    "lines of arrays": (["--data", "npz:tokens.npz", "--lines"], r"--lines cuts text:FILE into sequences"),
    "a test split": ([*TEXT, "--split", "test"], r"has no test split; name the file of that split"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_every_mistake_is_one_clear_line(run: Callable[..., Outcome], options: list[str], message: str) -> None:
    model = [] if "--model" in options else ["--model", "hf:gpt"]
    outcome = run(*model, *options, "--layers", "blocks")
    assert outcome.code == 2
    assert outcome.out == ""
    (line,) = [one for one in outcome.err.splitlines() if "warning" not in one]
    assert re.search(message, line), line
    assert len(line) <= 300


def test_models_without_an_embedding_of_their_own_are_not_asked(tmp_path: Path) -> None:
    from neurocollapse.cli.tokens import check_tokens
    from neurocollapse.data import TokenData

    samples = TokenData({"input_ids": torch.tensor([[99]])})
    check_tokens(nn.Embedding(3, 2), samples, None)  # torch itself says where it fails

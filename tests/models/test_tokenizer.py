"""The tokenizer of a folder: that of transformers, read as data, with every damage one clear line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neurocollapse.models import ModelError, read_tokenizer

transformers = pytest.importorskip("transformers", reason="transformers is an optional dependency")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["<pad>", "<unk>", "<s>", "the", "cat", "dog", "ran"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and a tokenizer of words that begins a sequence with <s>."""
    folder = tmp_path_factory.mktemp("tokenizer")
    words = tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    tokenizer.enable_truncation(2)  # as transformers leaves it in the file after a call with truncation
    tokenizer.enable_padding(length=9)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(folder)
    transformers.GPT2Config(n_positions=64).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the folder with the settings of its tokenizer changed, and code that must not run."""

    def copy(**settings: Any) -> Path:
        folder = Path(shutil.copytree(saved, tmp_path / "copy"))
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        return folder

    return copy


def test_text_becomes_what_transformers_makes_of_it(saved: Path) -> None:
    tokenizer, expected = read_tokenizer(saved), transformers.AutoTokenizer.from_pretrained(saved)
    text = "the cat ran , the dog ran\nthe"
    assert tokenizer.encode(text, special=True) == expected(text, truncation=False)["input_ids"]
    assert tokenizer.encode(text, special=False) == [3, 4, 6, 1, 3, 5, 6, 3]
    assert (tokenizer.pad, tokenizer.size, tokenizer.longest) == (0, 7, 64)
    assert (tokenizer.token(4), tokenizer.token(99)) == ("cat", "99")


def test_the_pad_token_is_the_one_that_the_folder_names(copied: Callable[..., Path]) -> None:
    folder = copied(pad_token={"content": "<unk>", "special": True})
    assert read_tokenizer(folder).pad == 1
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read_tokenizer(folder).pad == 0  # that of the padding in tokenizer.json
    contents = json.loads((folder / "tokenizer.json").read_text()) | {"padding": None}
    (folder / "tokenizer.json").write_text(json.dumps(contents))
    assert read_tokenizer(folder).pad is None


def test_code_in_the_folder_never_runs(copied: Callable[..., Path], tmp_path: Path) -> None:
    folder = copied(auto_map={"AutoTokenizer": ["own.Tokenizer", None]}, tokenizer_class="own.Tokenizer")
    assert read_tokenizer(folder).size == 7
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "contents", "message"),
    [
        ("config.json", None, r"no config.json in"),
        ("tokenizer.json", None, r"no tokenizer.json in .*; save the model's tokenizer there with tokenizer.save_pret"),
        ("tokenizer.json", b"", r"tokenizer.json is not a readable tokenizer"),
        ("tokenizer.json", b"{}", r"tokenizer.json is not a readable tokenizer"),
        ("tokenizer.json", b"\xff", r"tokenizer.json is not a readable tokenizer \(UnicodeDecodeError"),
        ("tokenizer_config.json", b"{", r"tokenizer_config.json is not readable JSON"),
        ("tokenizer_config.json", b"[]", r"tokenizer_config.json is not readable JSON"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(
    copied: Callable[..., Path], file: str, contents: bytes | None, message: str
) -> None:
    folder = copied()
    (folder / file).unlink() if contents is None else (folder / file).write_bytes(contents)
    with pytest.raises(ModelError, match=message) as caught:
        read_tokenizer(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300

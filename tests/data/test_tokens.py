"""Texts and archives as sequences of tokens: nothing lost, nothing twice, and every mistake one clear line."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurocollapse import data
from neurocollapse.data import DataError, TokenData, text
from neurocollapse.data.text import read_text
from neurocollapse.data.token_npz import holds_tokens, read_token_npz

IDS = np.arange(12).reshape(4, 3) % 7


class Letters:
    """A token for every byte, 1 for the start of a sequence, and 0 for padding."""

    def __init__(self, pad: int | None = 0) -> None:
        self.pad = pad

    def encode(self, text: str, *, special: bool) -> list[int]:
        return [1] * special + list(text.encode())


def written(folder: Path, contents: str | bytes) -> Path:
    path = folder / "own.txt"
    path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
    return path


def real(samples: TokenData) -> list[list[int]]:
    """The tokens of each sequence without padding."""
    parts = samples.parts
    return [ids[mask.bool()].tolist() for ids, mask in zip(parts["input_ids"], parts["attention_mask"], strict=True)]


@pytest.mark.parametrize("piece", [4, 7, 2**20])
def test_the_pieces_of_a_text_are_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(text, "PIECE", piece)
    contents = "one two\nthree, öne more\n\nand unbroken-beyond-any-piece x"
    samples, notes = read_text(written(tmp_path, contents), Letters(), length=8)
    found = real(samples)
    assert bytes(token for ids in found for token in ids).decode() == contents
    assert {len(ids) for ids in found[:-1]} == {8}
    assert notes == []
    assert samples.parts["input_ids"].shape == (-(-len(contents.encode()) // 8), 8)


def test_every_line_is_a_sequence_with_its_special_tokens_cut_where_it_is_longer(tmp_path: Path) -> None:
    samples, _ = read_text(written(tmp_path, "ab\n\n  \r\nabcdef\nc\n"), Letters(), length=4, lines=True)
    a, b, c, d, e, f = b"abcdef"
    assert real(samples) == [[1, a, b], [1, a, b, c], [d, e, f], [1, c]]
    assert samples.parts["input_ids"][0].tolist() == [1, a, b, 0]


def test_a_limit_reads_no_further_than_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PIECE", 8)
    path = written(tmp_path, b"abcd efg\nabcd\n" * 2000 + b"\xff\xff")
    for lines, expected in ((False, [list(b"abcd "), list(b"efg\na")]), (True, [list(b"\1abcd"), list(b" efg")])):
        samples, _ = read_text(path, Letters(), length=5, lines=lines, limit=2)
        assert real(samples) == expected
    with pytest.raises(DataError, match=r"is not UTF-8 text: it has the byte 0xff in a wrong place; conv"):
        read_text(path, Letters(), length=5)


def test_without_a_pad_token_the_rest_is_left_out_and_lines_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "abcdefg\nab")
    samples, notes = read_text(path, Letters(pad=None), length=4)
    assert real(samples) == [list(b"abcd"), list(b"efg\n")]
    assert notes == ["the last 2 tokens of own.txt, shorter than a sequence, are left out"]
    assert read_text(path, Letters(pad=None), length=5)[1] == []  # two whole sequences
    with pytest.raises(DataError, match=r"no pad token to fill them up; set one .* or leave out --lines"):
        read_text(path, Letters(pad=None), length=4, lines=True)
    assert real(read_text(written(tmp_path, "ab\ncd"), Letters(pad=None), length=4, lines=True)[0]) == [
        list(b"\1ab"),
        list(b"\1cd"),
    ]


@pytest.mark.parametrize("contents", ["", " \n\t\n", "\ufeff"])
@pytest.mark.parametrize("lines", [False, True])
def test_an_empty_text_is_refused(tmp_path: Path, contents: str, lines: bool) -> None:
    with pytest.raises(DataError, match=r"own.txt holds no text"):
        read_text(written(tmp_path, contents), Letters(), length=4, lines=lines)


def test_a_text_that_does_not_fit_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "TOKEN_BYTES", 2**40)
    with pytest.raises(DataError, match=r"the tokens of .* would take .* GiB .*read fewer sequences with --limit"):
        read_text(written(tmp_path, "abc"), Letters(), length=4)


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "tokens.npz"
    np.savez(path, **arrays)
    return path


def test_arrays_of_tokens_become_batches_by_name(tmp_path: Path) -> None:
    mask = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]], bool)
    path = saved(tmp_path, input_ids=IDS.astype(np.uint16), attention_mask=mask, labels=np.arange(4), extra=IDS / 2)
    assert holds_tokens(path)
    samples = data.open_tokens(f"npz:{path}")
    assert isinstance(samples, TokenData)
    batch = next(iter(samples.loader(3)))
    assert {name: (tuple(part.shape), part.dtype) for name, part in batch.items()} == {
        "input_ids": ((3, 3), torch.int64),
        "attention_mask": ((3, 3), torch.bool),
        "labels": ((3,), torch.int64),
        "extra": ((3, 3), torch.float32),
    }
    assert torch.equal(batch["input_ids"], torch.from_numpy(IDS[:3]))
    assert torch.equal(data.shard(samples, 1, 2).parts["labels"], torch.tensor([1, 3]))
    assert samples[2]["labels"] == 2
    assert repr(samples) == "TokenData('tokens.npz/train', 4 sequences of 3 tokens, 0 classes)"


def test_splits_of_one_file_are_told_by_their_names(tmp_path: Path) -> None:
    path = saved(tmp_path, train_input_ids=IDS, test_input_ids=IDS[:2], test_labels=[0, 1])
    assert len(read_token_npz(path, "train")) == 4
    assert set(read_token_npz(path, "test").parts) == {"input_ids", "labels"}
    with pytest.raises(DataError, match="holds no test split; add test_input_ids"):
        read_token_npz(saved(tmp_path, input_ids=IDS), "test")


def test_other_data_is_not_taken_for_tokens(tmp_path: Path) -> None:
    assert data.open_tokens("digits") is None
    assert data.open_tokens(f"npz:{saved(tmp_path, inputs=IDS, labels=np.arange(4))}") is None
    assert data.open_tokens("npz:nowhere") is None
    assert data.open_tokens("text:") is None
    for spec in (f"npz:{saved(tmp_path, input_ids=IDS)}", "text:own.txt"):
        with pytest.raises(DataError, match=r"holds sequences of tokens, which `neurocollapse analyze` measures"):
            data.open(spec)
    with pytest.raises(DataError, match=r"needs the tokenizer of a model; analyze it with --model hf:FOLDER"):
        data.open_tokens("text:own.txt")
    with pytest.raises(DataError, match="has no test split"):
        data.open_tokens("text:own.txt", split="test", tokenizer=Letters())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input_ids": IDS[0]}, r"must hold 'input_ids', integers of shape \(samples, positions\), got torch.int64 of"),
        ({"input_ids": IDS * 0.5}, r"must hold 'input_ids', integers .*got torch.float32 of shape \(4, 3\)"),
        ({"input_ids": -IDS}, r"must hold no negative tokens in 'input_ids', got -6; fill padding"),
        ({"input_ids": IDS, "labels": np.arange(3)}, r"holds 4 sequences, but 'labels' has shape \(3,\)"),
        ({"input_ids": IDS, "attention_mask": np.ones((4, 2))}, r"'attention_mask' of shape \(4, 2\) for 'input_ids' "),
        ({"input_ids": IDS, "attention_mask": np.ones((4, 1, 1, 3))}, r"of shape \(4, 1, 1, 3\)"),
        ({"input_ids": IDS, "labels": np.array(list("abcd"))}, r"must hold numbers in 'labels', got <U1; leave it out"),
        ({"input_ids": IDS, "labels": np.array([None] * 4)}, r"holds Python objects in 'labels', which are never read"),
    ],
)
def test_wrong_arrays_are_one_clear_line(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_token_npz(saved(tmp_path, **arrays), "train")
    assert "\n" not in str(caught.value)


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    class Marker:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "own.npz"
    path.write_bytes(pickle.dumps({"input_ids": 7}))
    assert not holds_tokens(path)
    np.savez(path, input_ids=np.array([Marker()], dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        read_token_npz(path, "train")
    assert not (tmp_path / "ran").exists()


def tokens(**parts: Any) -> TokenData:
    return TokenData({name: torch.as_tensor(part) for name, part in {"input_ids": IDS, **parts}.items()}, "own")


def test_labels_are_the_next_token_or_a_part_of_the_batch() -> None:
    following = tokens().labelled("next-token", names=lambda label: f"<{label}>")
    assert following.label_fn is not None
    assert following.label_fn(following.parts).values[0].tolist() == [1, 2, -100]
    assert following.classes == tuple(f"<{label}>" for label in range(6))  # the token 6 comes first, and next to none
    tagged = tokens(tags=[[0, 9, 1]] * 4, kinds=[1, 0, 1, 1]).labelled("tags", ignore_index=9)
    assert tagged.num_classes == 2
    assert tokens(labels=[1, 0, 1, 4]).labelled().num_classes == 5
    masked = tokens(labels=[[0, -7, 3]] * 4, attention_mask=[[1, 0, 1]] * 4).labelled()
    assert masked.num_classes == 4  # what padding is labelled does not matter


def test_a_limit_takes_the_same_share_of_each_class_of_sequences_and_the_first_ones_otherwise() -> None:
    kinds = tokens(labels=[0, 0, 1, 1]).labelled()
    assert kinds.limited(2).parts["labels"].tolist() == [0, 1]
    assert torch.equal(tokens().labelled("next-token").limited(2).parts["input_ids"], torch.from_numpy(IDS[:2]))
    assert kinds.limited(9) is kinds
    assert kinds.limited(None) is kinds


@pytest.mark.parametrize(
    ("parts", "labels", "message"),
    [
        ({}, None, r"own has no labels; pass --labels next-token$"),
        ({"tags": IDS}, None, r"own has no labels; pass --labels next-token, or one of tags"),
        ({"tags": IDS}, "tag", r"own has no 'tag'; pass --labels next-token, or one of tags"),
        ({"tags": IDS * 0.5}, "tags", r"own: 'tags' must be integers, got torch.float64"),
        ({"tags": IDS[:, :2]}, "tags", r"own: 'tags' must have shape \(4,\) or \(4, 3\), got \(4, 2\)"),
        ({"labels": [0, 1, -2, 0]}, None, r"must be non-negative or ignore_index=-100, got -2 at \(2,\)"),
        ({"labels": -1 - IDS}, None, r"got -1 at \(0, 0\); relabel it, or name it with --ignore-index"),
        ({"labels": np.full((4, 3), -100)}, None, r"own: no position has a label"),
        ({"labels": [0, 1, 2, 10**6]}, None, r"labels must lie below 1000000, got 1000000"),
        ({"input_ids": IDS[:, :1]}, "next-token", r"own: no position has a label; give longer sequences"),
    ],
)
def test_labels_that_cannot_be_read_are_one_clear_line(parts: dict[str, Any], labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tokens(**parts).labelled(labels)

"""Sentence pairs with similarity scores, in the tab-separated files of GLUE's STS-B."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from neurocollapse.data import DataError
from neurocollapse.experiments.adapters.sentences import LARGEST_SCORE, graded_pairs
from neurocollapse.support.atomic import write

SHIPPED = Path(__file__).with_name("sentence_pairs")
"""Folder of the small task that comes with the package, in the same format."""
SPLITS = {"train": "train.tsv", "dev": "dev.tsv"}
COLUMNS = ("sentence1", "sentence2", "score")
HEADER = ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"]
SHIPPED_SPLITS = {"train": (512, 101), "dev": (400, 102)}
"""Pairs and seed of each split of the shipped task."""


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """Pairs of sentences and how similar they are.

    Attributes
    ----------
    sentences : list of pairs of str
    scores : Tensor of shape (pairs,)
        In [0, 5], float32; 5 means the same.
    """

    sentences: list[tuple[str, str]]
    scores: Tensor

    def __len__(self) -> int:
        return len(self.sentences)

    def subset(self, num_pairs: int, seed: int) -> "ScoredPairs":
        """Some of the pairs, drawn without replacement.

        Raises
        ------
        DataError
            If there are not that many.
        """
        if not 1 <= num_pairs <= len(self):
            raise DataError(f"`num_pairs` must be 1 to {len(self)}, the number of training pairs, got {num_pairs}")
        drawn = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:num_pairs]
        return ScoredPairs([self.sentences[index] for index in drawn.tolist()], self.scores[drawn])


def read_pairs(folder: str | PathLike[str], split: str) -> ScoredPairs:
    """Read `train.tsv` or `dev.tsv` of a folder as GLUE distributes STS-B.

    The first line names the columns, of which sentence1, sentence2 and score count; fields are separated by tabs and
    never quoted.

    Raises
    ------
    DataError
        If the file is missing, lacks a column, or a line has too few fields or no score in [0, 5]; the message names
        the line.
    """
    path = Path(folder).expanduser() / SPLITS[split]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; name a folder with train.tsv and dev.tsv of STS-B") from error
    names = lines[0].split("\t") if lines else []
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise DataError(f"{path} must name the columns {', '.join(COLUMNS)} in its first line; {missing[0]} is missing")
    positions = [names.index(name) for name in COLUMNS]
    rows = [_fields(line, positions, f"{path}, line {number}") for number, line in enumerate(lines[1:], start=2)]
    if not rows:
        raise DataError(f"{path} holds no pairs")
    return ScoredPairs([(first, second) for first, second, _ in rows], torch.tensor([score for *_, score in rows]))


def write_shipped_task(folder: str | PathLike[str] = SHIPPED) -> None:
    """Write the small task that comes with the package, from the grammar of `graded_pairs`."""
    for split, (num_pairs, seed) in SHIPPED_SPLITS.items():
        pairs = graded_pairs(num_pairs, seed)
        rows = [
            (str(index), "grammar", split, "none", str(index), "none", "none", first, second, f"{score:.2f}")
            for index, ((first, second), score) in enumerate(zip(pairs.sentences, pairs.scores, strict=True))
        ]
        text = "".join("\t".join(row) + "\n" for row in [tuple(HEADER), *rows])
        write(Path(folder) / SPLITS[split], text)


class Words:
    """A tokenizer of whole words: [CLS] first sentence [SEP] second sentence [SEP].

    Parameters
    ----------
    words
        The vocabulary.

    Examples
    --------
    >>> Words(["a", "cat"])([("a cat", "a dog")])["input_ids"].tolist()
    [[2, 4, 5, 3, 4, 1, 3]]
    """

    SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

    def __init__(self, words: Iterable[str]) -> None:
        self.ids = {word: number for number, word in enumerate([*self.SPECIAL, *words])}

    def __len__(self) -> int:
        return len(self.ids)

    def __call__(self, sentences: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
        """input_ids, token_type_ids and attention_mask, each of shape (pairs, longest)."""
        halves = [(self._ids(f"[CLS] {first} [SEP]"), self._ids(f"{second} [SEP]")) for first, second in sentences]
        longest = max(len(first) + len(second) for first, second in halves)
        shape = (len(halves), longest)
        encoded = {
            key: torch.zeros(shape, dtype=torch.long) for key in ("input_ids", "token_type_ids", "attention_mask")
        }
        for row, (first, second) in enumerate(halves):
            length = len(first) + len(second)
            encoded["input_ids"][row, :length] = torch.tensor(first + second)
            encoded["token_type_ids"][row, len(first) : length] = 1
            encoded["attention_mask"][row, :length] = 1
        return encoded

    def _ids(self, text: str) -> list[int]:
        """Numbers of the words of a text."""
        unknown = self.ids["[UNK]"]
        return [self.ids.get(word, unknown) for word in text.split()]


def _fields(line: str, positions: Sequence[int], place: str) -> tuple[str, str, float]:
    """Both sentences and the score of a line."""
    fields = line.split("\t")
    if len(fields) <= max(positions):
        raise DataError(f"{place}: expected at least {max(positions) + 1} fields separated by tabs, got {len(fields)}")
    first, second, text = (fields[position] for position in positions)
    try:
        score = float(text)
    except ValueError:
        score = float("nan")
    if not 0 <= score <= LARGEST_SCORE:
        raise DataError(f"{place}: the score must be a number in [0, 5], got {text!r}")
    return first, second, score

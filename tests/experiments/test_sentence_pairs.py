"""The shipped task is what the grammar makes, reads like STS-B, and wrong files are named by line."""

from pathlib import Path

import pytest
import torch

from neurocollapse.data import DataError
from neurocollapse.experiments.adapters.sentences import CONCEPT_OF, WEIGHTS, graded_pairs, vocabulary
from neurocollapse.experiments.adapters.sts import SHIPPED, SPLITS, Words, read_pairs, write_shipped_task

HEADER = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"


def test_the_shipped_files_are_those_of_the_grammar(tmp_path: Path) -> None:
    write_shipped_task(tmp_path)
    for name in SPLITS.values():
        assert (SHIPPED / name).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8")
        assert (SHIPPED / name).read_text(encoding="utf-8").splitlines()[0] == HEADER


def test_scores_count_the_concepts_that_agree() -> None:
    for split in SPLITS:
        pairs = read_pairs(SHIPPED, split)
        assert pairs.scores.dtype == torch.float32
        for (first, second), score in zip(pairs.sentences, pairs.scores.tolist(), strict=True):
            concepts = [{CONCEPT_OF[word] for word in text.split() if word in CONCEPT_OF} for text in (first, second)]
            assert [len(found) for found in concepts] == [4, 4]
            expected = 5 * sum(WEIGHTS[part] for part, _ in concepts[0] & concepts[1])
            assert score == pytest.approx(expected, abs=0.006)  # written with two decimals


def test_train_and_dev_share_few_pairs_and_every_word_is_known() -> None:
    train, dev = (read_pairs(SHIPPED, split) for split in SPLITS)
    assert not set(train.sentences) & set(dev.sentences)
    words = Words(vocabulary())
    assert not (words(train.sentences)["input_ids"] == words.ids["[UNK]"]).any()
    assert len(set(vocabulary())) == len(vocabulary())


def test_pairs_depend_on_the_seed_alone() -> None:
    assert graded_pairs(5, 3).sentences == graded_pairs(5, 3).sentences != graded_pairs(5, 4).sentences
    assert graded_pairs(2000, 0).scores.std() > 1.5


def test_subsets_are_drawn_without_replacement() -> None:
    pairs = read_pairs(SHIPPED, "train")
    some = pairs.subset(64, 1)
    assert len(set(some.sentences)) == len(some) == 64
    assert some.sentences == pairs.subset(64, 1).sentences != pairs.subset(64, 2).sentences
    with pytest.raises(DataError, match="must be 1 to 512, the number of training pairs, got 513"):
        pairs.subset(513, 0)


def test_sentences_are_told_apart_and_padded() -> None:
    encoded = Words(["a", "cat", "dog"])([("a cat", "a dog"), ("cat", "bird")])
    assert encoded["input_ids"].tolist() == [[2, 4, 5, 3, 4, 6, 3], [2, 5, 3, 1, 3, 0, 0]]
    assert encoded["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0]]
    assert encoded["attention_mask"].sum(dim=1).tolist() == [7, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name the columns sentence1, sentence2, score"),
        ("sentence1\tsentence2\nx\ty\n", "score is missing"),
        ("sentence1\tsentence2\tscore\n", "holds no pairs"),
        ("sentence1\tsentence2\tscore\nx\ty\n", "line 2: expected at least 3 fields separated by tabs, got 2"),
        (
            "sentence1\tsentence2\tscore\nx\ty\t1\nx\ty\tfive\n",
            r"line 3: the score must be a number in \[0, 5\], got 'five'",
        ),
        ("sentence1\tsentence2\tscore\nx\ty\t5.5\n", r"line 2: the score must be a number in \[0, 5\], got '5.5'"),
        ("sentence1\tsentence2\tscore\nx\ty\tnan\n", "line 2: the score must be"),
    ],
)
def test_a_wrong_line_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_pairs(tmp_path, "train")


def test_quotes_are_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text('score\tsentence2\tsentence1\n2.5\t"a\tb"\n')
    pairs = read_pairs(tmp_path, "dev")
    assert pairs.sentences == [('b"', '"a')]
    assert pairs.scores.tolist() == [2.5]

"""The text that a small language model is trained on: one drawn from a small world, or a file's words."""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from neurocollapse.data import DataError
from neurocollapse.experiments.language.small_world import Text

UNKNOWN = "<unknown>"
"""What stands for the rarer words of a file."""
_WORD = re.compile(r"\w+|[^\w\s]")


def words_of_file(path: Path, most: int) -> Text:
    """The words and punctuation marks of a UTF-8 file in lower case, the `most` most frequent of them told apart.

    Raises
    ------
    DataError
        If the file cannot be read as text, or holds no word.
    """
    try:
        found = _WORD.findall(path.read_text(encoding="utf-8").lower())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({type(error).__name__}); name another file") from error
    if not found:
        raise DataError(f"{path} holds no words; name another file")
    frequent = sorted(Counter(found).items(), key=lambda item: (-item[1], item[0]))[:most]
    words = (UNKNOWN, *(word for word, _ in frequent))
    numbers = {word: number for number, word in enumerate(words)}
    return Text(words, np.array([numbers.get(word, 0) for word in found], np.int64))

"""Text files as sequences of tokens: one stream cut into equal pieces, or a sequence for every line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

import torch
from torch import Tensor

from neurocollapse.data.labelled import DataError
from neurocollapse.data.limit import check_size
from neurocollapse.data.tokens import TOKENS, TokenData
from neurocollapse.hooks.masks import NAME as MASK

PIECE = 2**20
"""Characters that are read and tokenised together."""
TOKEN_BYTES = 8 * 4
"""What a token takes while sequences are made: its number, its mask, and a copy of both."""


class Tokenizer(Protocol):
    """What turns text into tokens.

    Attributes
    ----------
    pad : int or None
        The token of padding; None where there is none.
    """

    @property
    def pad(self) -> int | None: ...

    def encode(self, text: str, *, special: bool) -> list[int]:
        """The tokens of a text, `special` with those that stand around a sequence."""
        ...


def read_text(
    path: Path, tokenizer: Tokenizer, *, length: int, lines: bool = False, limit: int | None = None
) -> tuple[TokenData, list[str]]:
    """Read a UTF-8 text file as sequences of tokens.

    Parameters
    ----------
    path
        Read no further than `limit` needs.
    tokenizer
        That of the model.
    length : int
        Tokens of a sequence at most.
    lines : bool, default False
        A sequence for every line that is not empty, with the special tokens of the tokenizer, and cut where it is
        longer. Default: the whole text, without special tokens, is cut every `length` tokens.
    limit : int, optional
        So many sequences, the first ones.

    Returns
    -------
    TokenData
        Shorter sequences are padded on the right, with `attention_mask`.
    list of str
        What is left out: the end of the text, shorter than a sequence, where the tokenizer has no pad token.

    Raises
    ------
    DataError
        If the file is missing, not UTF-8, empty, too large for the memory, or padding is needed and there is no token
        for it.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    sequences = _lines(path, tokenizer, length, limit) if lines else _blocks(path, tokenizer, length, limit)
    if not sequences:
        raise DataError(f"{path} holds no text; give a file that has some")
    notes: list[str] = []
    if tokenizer.pad is None and len({len(one) for one in sequences}) > 1:
        if lines:
            raise DataError(
                f"the lines of {path} have different numbers of tokens, and the tokenizer has no pad token to fill "
                "them up; set one (tokenizer.pad_token = tokenizer.eos_token) and save it, or leave out --lines"
            )
        notes.append(f"the last {len(sequences.pop())} tokens of {path.name}, shorter than a sequence, are left out")
    return TokenData(_padded(sequences, tokenizer.pad), path.name), notes


def _blocks(path: Path, tokenizer: Tokenizer, length: int, limit: int | None) -> list[Tensor]:
    """The text as one stream of tokens, cut every `length`."""
    pieces: list[Tensor] = []
    count = 0
    for piece in _pieces(path):
        pieces.append(torch.tensor(tokenizer.encode(piece, special=False), dtype=torch.int64, device="cpu"))
        count = _counted(count + len(pieces[-1]), path)
        if limit is not None and count >= limit * length:
            break
    tokens = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int64, device="cpu")
    return list(tokens[: None if limit is None else limit * length].split(length)) if len(tokens) else []


def _lines(path: Path, tokenizer: Tokenizer, length: int, limit: int | None) -> list[Tensor]:
    """A sequence for every line, or several where it is longer."""
    sequences: list[Tensor] = []
    count = 0
    with _opened(path) as file:
        for line in file:
            tokens = tokenizer.encode(line.rstrip("\n"), special=True) if line.strip() else []
            if tokens:
                sequences += torch.tensor(tokens, dtype=torch.int64, device="cpu").split(length)
                count = _counted(count + length, path)
            if limit is not None and len(sequences) >= limit:
                break
    return sequences[:limit]


def _counted(count: int, path: Path) -> int:
    """The number of tokens, if they fit in memory."""
    check_size(count * TOKEN_BYTES, f"the tokens of {path}", "read fewer sequences with --limit, or split the file")
    return count


def _pieces(path: Path) -> Iterator[str]:
    """The text in pieces of about a million characters that end where a line ends, or where a word does."""
    rest, begun = "", False
    with _opened(path) as file:
        while read := file.read(PIECE):
            rest += read
            begun = begun or not rest.isspace()
            end = max(rest.rfind("\n") + 1, 0) or max(rest.rfind(" "), 0) or len(rest)
            if begun:
                yield rest[:end]
                rest = rest[end:]
    if begun and rest:
        yield rest


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The file as text; raise where it is none."""
    with path.open(encoding="utf-8-sig") as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is not UTF-8 text: it has the byte 0x{error.object[error.start]:02x} in a wrong place; "
                "convert it, for example with iconv"
            ) from error


def _padded(sequences: list[Tensor], pad: int | None) -> dict[str, Tensor]:
    """Sequences in one matrix, filled up on the right, and which tokens are real."""
    lengths = torch.tensor([len(one) for one in sequences], device="cpu")
    tokens = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=0 if pad is None else pad)
    return {TOKENS: tokens, MASK: (torch.arange(tokens.shape[1], device="cpu") < lengths[:, None]).long()}

"""The tokenizer in the folder of a Hugging Face model, from data alone: tokenizer.json, which holds no code."""

import importlib
import json
from pathlib import Path
from typing import Any

from neurocollapse.models.errors import ModelError, one_line
from neurocollapse.models.hugging_face import read_config
from neurocollapse.support.text import visible

_FILE = "tokenizer.json"
_MAX_BYTES = 200 * 2**20
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
_POSITIONS = ("max_position_embeddings", "n_positions")


class LocalTokenizer:
    """A tokenizer as the tokenizer.json of a folder describes it.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Read from the folder's tokenizer.json.

    Attributes
    ----------
    pad : int or None
        The token of padding; None where the folder names none.
    longest : int or None
        Positions that the model of the folder has, where its configuration says so.
    size : int
        One more than the greatest token.
    """

    def __init__(self, tokenizer: Any, pad: int | None, longest: int | None) -> None:
        self._tokenizer, self.pad, self.longest = tokenizer, pad, longest
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str, *, special: bool) -> list[int]:
        """The tokens of a text.

        Parameters
        ----------
        text : str
            Any text.
        special : bool
            Whether to add the tokens that mark the begin and end of a sequence.
        """
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return found

    def token(self, number: int) -> str:
        """The text of a token, control characters written out.

        Parameters
        ----------
        number : int
            Number of the token.
        """
        return visible(self._tokenizer.id_to_token(number) or number)


def read_tokenizer(folder: Path) -> LocalTokenizer:
    """Read the tokenizer of a folder that `save_pretrained` wrote; nothing is downloaded, and no code is run.

    Parameters
    ----------
    folder : pathlib.Path
        It must hold a tokenizer.json.

    Raises
    ------
    ModelError
        If the folder holds no configuration or no tokenizer.json, it is damaged, or the package `tokenizers` is
        missing.
    """
    config = read_config(folder)
    path = folder / _FILE
    if not path.is_file():
        raise ModelError(
            f"no {_FILE} in {folder}, by which text becomes tokens; save the model's tokenizer there with "
            "tokenizer.save_pretrained (code and other formats are never read)"
        )
    try:
        package = importlib.import_module("tokenizers")
    except ModuleNotFoundError as error:
        raise ModelError("tokenizers is not installed; pip install 'neurocollapse[text]'") from error
    try:
        tokenizer = package.Tokenizer.from_str(_contents(path))
    except Exception as error:  # the package raises Exception itself
        raise ModelError(f"{path} is not a readable tokenizer ({one_line(error)})") from error
    padding = tokenizer.padding
    tokenizer.no_truncation()
    tokenizer.no_padding()
    longest = next((value for name in _POSITIONS if isinstance(value := config.get(name), int) and value > 0), None)
    return LocalTokenizer(tokenizer, _pad(folder, tokenizer, padding), longest)


def _pad(folder: Path, tokenizer: Any, padding: dict[str, Any] | None) -> int | None:
    """The token of padding that the folder names."""
    for name in _SETTINGS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            named = json.loads(_contents(path)).get("pad_token")
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise ModelError(f"{path} is not readable JSON ({one_line(error)})") from error
        content = named.get("content") if isinstance(named, dict) else named
        if isinstance(content, str):
            number: int | None = tokenizer.token_to_id(content)
            return number
    return None if padding is None else int(padding["pad_id"])


def _contents(path: Path) -> str:
    """The text of a file that is no larger than any of its kind."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError("it is larger than any tokenizer")
    return path.read_text(encoding="utf-8")

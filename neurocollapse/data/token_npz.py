"""NumPy archives of tokens: arrays by the names under which a model takes them, and labels beside them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from neurocollapse.data.labelled import DataError
from neurocollapse.data.limit import check_size
from neurocollapse.data.npz import array_header, array_names, opened_npz, read_array
from neurocollapse.data.tokens import TOKENS, TokenData

_KEPT: dict[str, DTypeLike] = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float32}
"""Kinds of numbers, and the types in which they are kept."""
_ITEM_BYTES = 16
"""What an entry takes while it is read: the stored one, and the int64 that is kept."""


def holds_tokens(path: Path) -> bool:
    """Whether a file is an archive with `input_ids`, of one split or of several."""
    try:
        with opened_npz(path) as archive:
            return any(name == TOKENS or name.endswith(f"_{TOKENS}") for name in array_names(archive))
    except DataError:
        return False


def read_token_npz(path: Path, split: str) -> TokenData:
    """Read token sequences from an .npz file, without pickle.

    The arrays are `input_ids`, of shape (sequences, positions), and whatever else the model takes or labels them, such
    as `attention_mask` and `labels`, of shape (sequences, …). For two splits in one file their names begin with
    `train_` and `test_`; without that they are the training split.

    Raises
    ------
    DataError
        If arrays are missing, of another type or shape, hold objects, or would not fit in memory.
    """
    with opened_npz(path) as archive:
        names = array_names(archive)
        prefix = f"{split}_" if f"{split}_{TOKENS}" in names else ""
        if not prefix and (split != "train" or TOKENS not in names):
            raise DataError(f"{path} holds no {split} split; add {split}_{TOKENS}, or ask for the other one")
        parts: dict[str, Tensor] = {}
        for name in sorted(names):
            if not name.startswith(prefix):
                continue
            header = array_header(archive, name, path)
            check_size(math.prod(header.shape) * _ITEM_BYTES, f"{name!r} in {path}")
            if header.dtype.kind not in _KEPT:
                raise DataError(f"{path} must hold numbers in {name!r}, got {header.dtype}; leave it out")
            array = read_array(archive, name, path)
            part: NDArray[Any] = np.ascontiguousarray(array, dtype=_KEPT[header.dtype.kind])
            parts[name.removeprefix(prefix)] = torch.from_numpy(part)
    return TokenData(parts, f"{path.name}/{split}")

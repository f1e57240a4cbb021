"""Sequences of different lengths, padded on either side, and models that begin with the same weights."""

from typing import Any

import torch
from torch import Tensor, nn

LENGTHS = (5, 9, 3, 7)
LONGEST = max(LENGTHS)
VOCABULARY = 40


def built(make: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def sequences(seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in LENGTHS]


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Tokens and mask of one batch; zeros stand for nothing."""
    ids, mask = torch.zeros(len(rows), LONGEST, dtype=torch.int64), torch.zeros(len(rows), LONGEST, dtype=torch.int64)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(LONGEST - len(row), LONGEST)
        ids[index, place], mask[index, place] = row, 1
    return ids, mask

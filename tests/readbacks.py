"""What a device without numbers would answer."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor


class Answer:
    """Stands for numbers read back from a device that has none: zeros."""

    is_there = True

    def __init__(self, values: Tensor) -> None:
        self.shape = values.shape

    def numbers(self) -> Tensor:
        return torch.zeros(self.shape, dtype=torch.int64)


class Kept(Answer):
    """Says that every class has a sample that was not left out."""

    def numbers(self) -> Tensor:
        return torch.ones(self.shape, dtype=torch.float64)


class Patient(Answer):
    """Numbers that are looked at one batch late: says which batch was sent last, whenever any is looked at."""

    is_there = False
    sent: list[int]
    looked_at: list[tuple[int, int]]

    def __init__(self, values: Tensor) -> None:
        super().__init__(values)
        self.batch = self.sent[-1]

    def numbers(self) -> Tensor:
        self.looked_at.append((self.batch, self.sent[-1]))
        return super().numbers()


def asked_patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was sent or looked at yet."""
    for name in ("sent", "looked_at"):
        monkeypatch.setattr(Patient, name, [], raising=False)


def numbered(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches, each of which says its number."""
    for index, batch in enumerate(batches):
        Patient.sent.append(index)
        yield batch

"""What the labels alone decide: counts, first samples, flushes and checks of references, once for all layers."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from neurocollapse.statistics.class_batch import ClassBatch

FLUSH_COUNT = 64
"""Samples of one class that float32 sums may gather before they go to the float64 total."""
FEW = 4
"""Samples of a class at which its reference is first checked: it may have turned out to be an outlier."""


class Step(NamedTuple):
    """What one batch asks of every layer that comes with the same ledger.

    Attributes
    ----------
    ledger : Ledger
        The ledger behind the batch.
    new : Tensor of shape (new classes,), int64, or None
        Places in `batch.present` of the classes that have no sample yet; None where there is none.
    flush : bool
        Whether float32 sums have to go to the float64 totals before the batch, or some would gather too many samples.
    due : Tensor of shape (classes to look at,), int64, or None
        Classes whose reference is looked at behind the batch; None where there is none.
    """

    ledger: "Ledger"
    new: Tensor | None
    flush: bool
    due: Tensor | None


@dataclass(frozen=True, eq=False)
class Ledger:
    """Counts of the samples that a layer has seen: a value, which a batch turns into the next one.

    Layers that have seen the same labels have equal ledgers. The batch remembers what it made of each, so that the
    second of them gets the first one's next ledger, the same object, without any arithmetic.

    Attributes
    ----------
    num_batches : int
    count : Tensor of shape (classes,), int64
        Samples of each class.
    pending : Tensor of shape (classes,), int64
        Those of them whose float32 sums have not gone to the float64 totals.
    looked : Tensor of shape (classes,), int64
        What `count` was when the reference was last looked at.
    flush_count : int, optional
        Samples of a class that float32 sums may gather; None where there are no such sums, and nothing is pending.
    most_between_looks : int, optional
        Samples of a class after which its reference is looked at again, at the latest.
    calm : int
        Samples of any one class that may come before there is anything to decide but the counts.

    Examples
    --------
    >>> batch = ClassBatch(torch.tensor([0, 2, 2]), 3)
    >>> first, second = Ledger.empty(3).step(batch), Ledger.empty(3).step(batch)
    >>> first.ledger.count.tolist(), second is first
    ([1, 0, 2], True)
    """

    num_batches: int
    count: Tensor
    pending: Tensor
    looked: Tensor
    flush_count: int | None = field(default=FLUSH_COUNT, kw_only=True)
    most_between_looks: int | None = field(default=None, kw_only=True)
    calm: int = field(default=0, kw_only=True)

    @classmethod
    def empty(
        cls, num_classes: int, *, flush_count: int | None = FLUSH_COUNT, most_between_looks: int | None = None
    ) -> "Ledger":
        """Nothing seen yet."""
        zeros = (torch.zeros(num_classes, dtype=torch.int64, device="cpu") for _ in range(3))
        return cls(0, *zeros, flush_count=flush_count, most_between_looks=most_between_looks)

    def grown(self, num_classes: int) -> "Ledger":
        """The same with room for more classes."""
        zeros = self.count.new_zeros(num_classes - len(self.count))
        count, pending, looked = (torch.cat([part, zeros]) for part in self._parts)
        return replace(self, count=count, pending=pending, looked=looked, calm=0)

    def step(self, batch: ClassBatch) -> Step:
        """What a batch asks for, and the ledger behind it; computed once for all equal ledgers."""
        found = batch.steps.get(self)
        if found is None:
            found = batch.steps[self] = self._step(batch)
        return found

    def _step(self, batch: ClassBatch) -> Step:
        """The same, computed.

        Once any class has four times as many samples as when its reference was looked at, all that have twice as many
        are looked at: in most streams nearly all classes come together.
        """
        count, flush = self.count + batch.counts, False
        pending = self.pending if self.flush_count is None else self.pending + batch.counts
        calm = self.calm - batch.largest
        ledger = replace(self, num_batches=self.num_batches + 1, count=count, pending=pending, calm=calm)
        if calm >= 0:  # which it is for most batches, and then all of this costs little
            return Step(ledger, None, False, None)
        if self.flush_count is not None:
            flush = bool((pending > self.flush_count).any())
            if flush:  # a batch with too many of one class is flushed part by part, until nothing of it is pending
                pending = batch.counts if batch.largest <= self.flush_count else torch.zeros_like(pending)
        due, looked = None, self.looked
        if bool((count >= self._next_looks).any()):
            due = (count >= self._looks_after(2).clamp_(min=FEW)).nonzero().flatten()
            looked, pending = looked.index_copy(0, due, count[due]), pending.index_fill(0, due, 0)
        new = (self.count[batch.present] == 0).nonzero().flatten()
        ledger = replace(ledger, pending=pending, looked=looked)
        return Step(replace(ledger, calm=ledger._calm()), new if len(new) else None, flush, due)

    def _calm(self) -> int:
        """What `calm` is."""
        if not len(self.count) or int(self.count.min()) == 0:
            return 0  # a class without a reference may still come
        until = int((self._next_looks - self.count).min()) - 1
        return until if self.flush_count is None else min(until, self.flush_count - int(self.pending.max()))

    @property
    def _next_looks(self) -> Tensor:
        """Samples of a class, with any one of which references are looked at."""
        return self._looks_after(4).clamp_(min=2 * FEW)

    def _looks_after(self, factor: int) -> Tensor:
        """The sample count of each class at which to look next: a multiple of the last, within the limit."""
        grown = factor * self.looked
        return grown if self.most_between_looks is None else torch.minimum(grown, self.looked + self.most_between_looks)

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.count, self.pending, self.looked

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ledger):
            return NotImplemented
        same = zip(self._parts, other._parts, strict=True)
        plain = all(getattr(self, name) == getattr(other, name) for name in _PLAIN)
        return self is other or (plain and all(torch.equal(a, b) for a, b in same))

    def __hash__(self) -> int:
        return self.num_batches


_PLAIN = ("num_batches", "flush_count", "most_between_looks")

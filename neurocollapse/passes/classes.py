"""A choice of classes: which are meant, and what becomes of the labels of the others."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neurocollapse.data.batches import split_batch
from neurocollapse.passes.loaders import checked_labels
from neurocollapse.passes.options import PassOptions
from neurocollapse.passes.positions import LabelMap, label_map_of, masks_of
from neurocollapse.support.checks import integer
from neurocollapse.support.transfer import sent

OTHER = -1
"""What stands for the labels of classes that are not meant."""


class ChosenClasses:
    """The classes that are measured, by their labels, in the order in which they become classes 0, 1, 2, ….

    Parameters
    ----------
    labels : sequence of int
    """

    def __init__(self, labels: Sequence[int]) -> None:
        self.labels = tuple(labels)
        self._outputs = torch.tensor(self.labels, device="cpu")
        self._index = torch.tensor(sorted(self.labels), device="cpu")
        self._place = torch.tensor([self.labels.index(label) for label in self._index.tolist()], device="cpu")

    def __len__(self) -> int:
        return len(self.labels)

    def applied(self, labels: Tensor, counts: Tensor | None = None) -> tuple[LabelMap, int]:
        """Labels as places among the classes, those of others not counting, and how many those are."""
        at = torch.searchsorted(self._index, labels).clamp(max=len(self._index) - 1)
        meant = self._index[at] == labels
        own = torch.where(meant, self._place[at], OTHER)
        counted = torch.ones_like(meant) if counts is None else counts
        return LabelMap(own, counted & meant), int((counted & ~meant).sum())

    def of_logits(self, logits: Tensor | None) -> Tensor | None:
        """The outputs of these classes, in their order; all of them where there are too few to be told apart."""
        if logits is None or logits.shape[1] <= max(self.labels):
            return logits
        return logits.index_select(1, sent(self._outputs, logits.device))


def chosen_classes(model: nn.Module, loader: Iterable[Any], options: PassOptions) -> ChosenClasses | None:
    """The classes that `classes=` means; the most frequent ones from a pass over the labels alone.

    Raises
    ------
    TypeError, ValueError
        If it is neither a number of classes nor a list of different labels, or the loader gives its batches once.
    """
    wanted = options.classes
    if wanted is None:
        return None
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        labels = [integer("classes", label, least=0) for label in wanted]
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise ValueError(f"`classes` must hold at least two different labels, got {labels[:6]}")
        return ChosenClasses(labels)
    number = integer("classes", wanted, least=2)
    if isinstance(loader, Iterator):
        raise TypeError("`classes` as a number counts the labels of `loader` first; pass a DataLoader or a list")
    if options.distributed:
        raise ValueError("`classes` as a number counts the labels of one process; pass a list with distributed=True")
    counted: Counter[int] = Counter()
    for batch in loader:
        parts = split_batch(batch, model, label_fn=options.label_fn)
        found = label_map_of(parts, masks_of(batch, parts, model, options), options, None)
        counted.update((checked_labels(parts, None) if found is None else found.labels[found.counts]).tolist())
    if len(counted) < number:
        raise ValueError(f"`classes` asks for {number} classes, but only {len(counted)} occur; pass a smaller number")
    frequent = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:number]
    return ChosenClasses(sorted(label for label, _ in frequent))

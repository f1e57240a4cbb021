"""Sequences of tokens as a value: what a model is given by name, and the labels of sequences or positions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from neurocollapse.data.batch_labels import LABEL_NAMES
from neurocollapse.data.labelled import DataError, Samples, index_tensor
from neurocollapse.data.labels import IGNORED, PositionLabels, field, next_token, of_samples, part_of_labels
from neurocollapse.data.limit import stratified
from neurocollapse.hooks.masks import NAME as MASK
from neurocollapse.support.checks import MAX_CLASSES
from neurocollapse.support.text import listed

TOKENS, LABELS = "input_ids", "labels"
"""What models of Hugging Face call tokens and labels."""
NEXT_TOKEN = "next-token"
"""The name of the labels that are the tokens themselves, one position later."""


@dataclass(frozen=True, eq=False, repr=False)
class TokenData(Samples):
    """Sequences of tokens held in memory; the batches of a loader are dicts.

    Parameters
    ----------
    parts : dict of str to Tensor of shape (samples, …)
        Among them `input_ids`, of shape (samples, positions). Where `attention_mask` is there it says which are real.
    name : str, default "tokens"
        What is shown in reports.
    label_fn : callable, optional
        Labels of a batch: what `neurocollapse.analyze` takes. None until `labelled` has chosen them.
    classes : tuple of str, default none
        The class names, in label order.

    Raises
    ------
    DataError
        If there are no tokens, or a part has another length.

    Examples
    --------
    >>> tokens = TokenData({"input_ids": torch.tensor([[5, 3, 7], [5, 5, 5]])}, "two").labelled("next-token")
    >>> tokens, tokens.label_fn(tokens.parts).values.tolist()
    (TokenData('two', 2 sequences of 3 tokens, 8 classes), [[3, 7, -100], [5, 5, -100]])
    """

    parts: dict[str, Tensor]
    name: str = "tokens"
    label_fn: Callable[[Any], Any] | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        tokens = self.parts.get(TOKENS)
        if tokens is None or tokens.dim() != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool:
            found = "nothing" if tokens is None else f"{tokens.dtype} of shape {tuple(tokens.shape)}"
            raise DataError(f"{self.name} must hold {TOKENS!r}, integers of shape (samples, positions), got {found}")
        if tokens.numel() and int(tokens.min()) < 0:
            raise DataError(
                f"{self.name} must hold no negative tokens in {TOKENS!r}, got {int(tokens.min())}; fill padding with "
                f"any token, and say in {MASK!r} what is real"
            )
        for name, part in self.parts.items():
            if part.dim() == 0 or len(part) != len(tokens):
                raise DataError(
                    f"{self.name} holds {len(tokens)} sequences, but {name!r} has shape {tuple(part.shape)}; give all "
                    "parts one entry for each sequence"
                )
        mask = self.parts.get(MASK)
        if mask is not None and mask.shape != tokens.shape:
            raise DataError(
                f"{self.name} has {MASK!r} of shape {tuple(mask.shape)} for {TOKENS!r} of shape {tuple(tokens.shape)}; "
                "give both the same"
            )

    def labelled(
        self, labels: str | None = None, *, ignore_index: int = IGNORED, names: Callable[[int], str] = str
    ) -> Self:
        """The same sequences with the labels chosen, and without other parts that are named as labels are.

        Parameters
        ----------
        labels : str, optional
            "next-token", or the part that holds the labels, one for each sequence or for each position. Default: the
            part "labels", where there is one.
        ignore_index : int, default -100
            The label of positions that do not count.
        names : callable, default str
            The name of the class of a label.

        Raises
        ------
        DataError
            If there are no such labels, they have another shape than one for each sequence or position, or one that
            counts is negative.
        """
        label_fn = self._label_fn(labels)
        found = label_fn(self.parts)
        values = found.values if isinstance(found, PositionLabels) else found
        counts = self._checked(values, "next-token labels" if labels == NEXT_TOKEN else repr(labels or LABELS))
        if isinstance(found, PositionLabels):
            counts = counts & (values != ignore_index)
        if isinstance(found, PositionLabels) and found.counts is not None:
            counts = counts & found.counts
        if bool((counts & (values < 0)).any()):
            place = tuple((counts & (values < 0)).nonzero()[0].tolist())
            raise DataError(
                f"{self.name}: labels must be non-negative or ignore_index={ignore_index}, got {int(values[place])} at "
                f"{place}; relabel it, or name it with --ignore-index"
            )
        if not bool(counts.any()):
            raise DataError(f"{self.name}: no position has a label; give longer sequences, or labels that count")
        greatest = int(values[counts].max())
        if greatest >= MAX_CLASSES:
            raise DataError(f"{self.name}: labels must lie below {MAX_CLASSES}, got {greatest}; renumber the classes")
        chosen = part_of_labels(label_fn)
        parts = {name: part for name, part in self.parts.items() if name not in LABEL_NAMES or name == chosen}
        classes = tuple(names(label) for label in range(greatest + 1))
        return replace(self, parts=parts, label_fn=label_fn, classes=classes)

    def limited(self, limit: int | None) -> Self:
        """The same data, cut to the first sequences, or to equal shares of each class if each has one label.

        Parameters
        ----------
        limit : int or None
            The most sequences to keep; None keeps all.
        """
        if limit is None or limit >= len(self):
            return self
        values = None if self.label_fn is None else self.label_fn(self.parts)
        return self.subset(stratified(values, limit) if isinstance(values, Tensor) else range(limit))

    def _label_fn(self, labels: str | None) -> Callable[[Any], Any]:
        """The labels of a batch: the tokens that come next, or a part, for positions where it has an axis of them."""
        if labels == NEXT_TOKEN:
            return next_token()
        name = LABELS if labels is None else labels
        if name not in self.parts:
            wanted = f"no {name!r}" if labels is not None else "no labels"
            others = [one for one in self.parts if one not in (TOKENS, MASK)]
            fields = f", or one of {listed(others)}" if others else ""
            raise DataError(f"{self.name} has {wanted}; pass --labels {NEXT_TOKEN}{fields}")
        return field(name) if self.parts[name].dim() > 1 else of_samples(name)

    def _checked(self, values: Tensor, what: str) -> Tensor:
        """Which labels may count; raise unless they are integers, one for each sequence or position."""
        shape = self.parts[TOKENS].shape
        if values.is_floating_point() or values.dtype == torch.bool:
            raise DataError(f"{self.name}: {what} must be integers, got {values.dtype}")
        if values.dim() > 1 and values.shape != shape:
            raise DataError(
                f"{self.name}: {what} must have shape ({shape[0]},) or {tuple(shape)}, got {tuple(values.shape)}"
            )
        mask = self.parts.get(MASK) if values.dim() > 1 else None
        return torch.ones_like(values, dtype=torch.bool) if mask is None else mask.bool()

    def __len__(self) -> int:
        return len(self.parts[TOKENS])

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        return {name: part[index] for name, part in self.parts.items()}

    def __getitems__(self, indices: list[int]) -> list[Mapping[str, Tensor]]:
        """Return many sequences at once: torch's loaders ask for a batch this way."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        columns = {name: part[chosen].unbind() for name, part in self.parts.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def subset(self, indices: Iterable[int] | Tensor) -> Self:
        chosen = index_tensor(indices, len(self))
        return replace(self, parts={name: part[chosen] for name, part in self.parts.items()})

    def __repr__(self) -> str:
        count, length = self.parts[TOKENS].shape
        return f"TokenData({self.name!r}, {count} sequences of {length} tokens, {len(self.classes)} classes)"

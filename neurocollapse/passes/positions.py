"""Labels of every position of a batch, or of every sample, brought to the rows of a layer."""

from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurocollapse.data.batches import Batch, part_called
from neurocollapse.data.labels import PositionLabels, label_map
from neurocollapse.hooks import CaptureError, Positions
from neurocollapse.hooks.masks import NAME as MASK
from neurocollapse.hooks.masks import Masks, as_mask, check_labelled, find_masks
from neurocollapse.hooks.pool import ROWS
from neurocollapse.passes.options import PassOptions
from neurocollapse.statistics import ClassBatch, LabelError
from neurocollapse.support.transfer import on_cpu


class LabelMap:
    """One label for every position of every sample of a batch, or one for every sample, of which some count.

    Parameters
    ----------
    labels : Tensor of shape (samples, *positions), int64, on the CPU
    counts : Tensor of the same shape, bool
        Which of them count.

    Attributes
    ----------
    base : ClassBatch
        The labels that count, in one batch that all layers share.
    """

    base: ClassBatch

    def __init__(self, labels: Tensor, counts: Tensor) -> None:
        self.labels, self.counts = labels, counts
        self._rows: dict[tuple[tuple[int, ...], int], tuple[ClassBatch, Tensor, Tensor | None]] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Positions of one sample."""
        return tuple(self.labels.shape[1:])

    def rows(self, positions: Positions) -> tuple[ClassBatch, Tensor]:
        """The labels of a layer's rows that count, and the places of these rows among all of its rows."""
        key = positions.shape, id(positions.mask)
        if key not in self._rows:
            if self.shape:
                check_labelled(positions.shape, self.shape)
            counts = _brought(self.counts, positions.shape)
            mask = positions.mask
            if mask is not None:
                counts = counts & mask
            chosen = counts.flatten() if mask is None else counts[mask]
            places = _brought(self.counts.flatten().cumsum(0).view_as(self.counts) - 1, positions.shape)
            own = _brought(self.labels, positions.shape)[counts]
            batch = self.base
            if positions.shape != self.shape or len(own) != len(batch.labels):
                batch = ClassBatch(own, batch.num_classes, places[counts])
            self._rows[key] = batch, chosen.nonzero().flatten(), positions.mask
        return self._rows[key][:2]


def masks_of(batch: Any, parts: Batch, model: nn.Module, options: PassOptions) -> Masks:
    """Which positions of a batch are real: as the options say, else by its mask, if only of what the model is given.

    Raises
    ------
    MaskError
        If what they name is no mask, or not there.
    """
    if options.mask is False:
        return Masks()
    num_samples = len(parts.labels) if isinstance(parts.labels, Sized) else None
    if options.mask_fn is not None:
        return Masks(as_mask(options.mask_fn(batch), num_samples, "what `mask_fn` returns"))
    if options.mask is not None and (given := part_called(options.mask, batch)) is not None:
        return Masks(as_mask(given, num_samples, f"`mask` ({options.mask!r})"))
    own = part_called(MASK, batch)
    is_of_inputs = own is not None and any(tensor.shape[:2] == _shape(own) for tensor in parts.tensors)
    given = {MASK: own, **parts.kwargs} if is_of_inputs else parts.kwargs
    return find_masks(model, parts.args, given, num_samples, options.mask, strict=True)


def label_map_of(parts: Batch, masks: Masks, options: PassOptions, num_classes: int | None) -> LabelMap | None:
    """Labels of every position, or None where a batch has one label a sample.

    They are meant where `label_fn` says so, where the pooling keeps every position, and where integers have the shape
    of the mask.

    Raises
    ------
    LabelError
        If a label is negative and not `ignore_index`, or too large, the mask has another shape, or the labels are the
        tokens themselves, as language models take them, which shift them on their own.
    CaptureError
        If the pooling leaves one row per sample.
    """
    marked, pool = isinstance(parts.labels, PositionLabels), options.pool
    values = parts.labels.values if isinstance(parts.labels, PositionLabels) else parts.labels
    mask = masks.decoder if masks.two else masks.first
    shape, keeps = () if marked else _shape(values), isinstance(pool, str) and pool in ROWS
    if not marked and not (len(shape) > 1 and (keeps or len(shape) > 2 or (mask is not None and mask.shape == shape))):
        return None
    if isinstance(pool, str) and pool not in (*ROWS, "auto"):
        raise CaptureError(
            f'labels are given for every position, but `pool` = {pool!r} leaves one row per sample; pass pool="tokens" '
            'for sequences, "positions" for maps, or leave it out'
        )
    labels = label_map(values)
    if parts.lengths and len(labels) not in parts.lengths:
        raise LabelError(
            f"labels per position must have one row for each of the {parts.lengths[0]} samples, got "
            f"{tuple(labels.shape)}; check the loader, or pass label_fn to say where the labels are"
        )
    counts = labels != options.ignore_index
    if isinstance(parts.labels, PositionLabels) and parts.labels.counts is not None:
        counts &= on_cpu(parts.labels.counts)
    if mask is not None:
        if mask.shape != labels.shape:
            raise LabelError(
                f"labels per position have shape {tuple(labels.shape)}, but the mask has {tuple(mask.shape)}; give "
                "both the same positions"
            )
        counts &= mask
    _check_range(labels, counts, num_classes, options.ignore_index)
    if not marked and _are_tokens(labels, counts, parts.kwargs.get("input_ids")):
        raise LabelError(
            "the labels are the tokens of the input themselves; pass label_fn=nc.labels.next_token() to take the ones "
            "that come next"
        )
    return LabelMap(labels, counts)


def _are_tokens(labels: Tensor, counts: Tensor, tokens: Any) -> bool:
    """Whether every label that counts is the token at its own position."""
    if not isinstance(tokens, Tensor) or tokens.shape != labels.shape or not bool(counts.any()):
        return False
    return bool((on_cpu(tokens) == labels)[counts].all())


def _shape(values: Any) -> tuple[int, ...]:
    """The shape of labels; () where rows have different lengths."""
    try:
        return tuple(np.shape(values))
    except ValueError:
        return ()


def _check_range(labels: Tensor, counts: Tensor, num_classes: int | None, ignore_index: int) -> None:
    """Raise for the first label that counts and is none of the classes."""
    wrong = counts & (labels < 0) if num_classes is None else counts & ((labels < 0) | (labels >= num_classes))
    if bool(wrong.any()):
        place = tuple(wrong.nonzero()[0].tolist())
        limit = "non-negative" if num_classes is None else f"in [0, {num_classes})"
        raise LabelError(
            f"labels per position must be {limit} or ignore_index={ignore_index}, got {int(labels[place])} at {place}"
        )


def _brought(table: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A table (samples, *positions) at other positions: the nearest of a finer one, or each of a coarser one often."""
    if table.dim() == 1:
        return table.view(-1, *[1] * len(shape)).expand(-1, *shape)
    for axis, size in enumerate(shape, 1):
        have = table.shape[axis]
        if have > size:
            table = table.index_select(axis, torch.arange(size, device="cpu") * (have // size))
        elif have < size:
            table = table.repeat_interleave(size // have, dim=axis)
    return table

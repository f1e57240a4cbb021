"""The linear tail of a network on a loader: one pass, and no sample is kept."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from neurocollapse.data.batches import split_batch
from neurocollapse.statistics import ClassMoments
from neurocollapse.support.checks import shown
from neurocollapse.theory.checks import check_batch_labels, check_inputs, check_two_classes
from neurocollapse.theory.folding import Affine, fits
from neurocollapse.theory.problem import LinearProblem
from neurocollapse.theory.tail import LinearTail, linear_tail
from neurocollapse.theory.watching import Call, Watch


def streamed_tail(
    model: nn.Module, loader: Iterable[Any], *, output_scale: float = 1.0
) -> tuple[LinearProblem | None, LinearTail]:
    """Find the affine maps that a network ends with on the first batch, then stream the moments of what enters them.

    The d₀ × d₀ within-class scatter and the class means of the tail's input are all that theorems about tails need.
    Every batch is checked to pass through the maps that were found.

    Returns
    -------
    (LinearProblem or None, LinearTail)
        No problem if there is no tail.

    Raises
    ------
    TypeError
        If it is no loader.
    ValueError
        If the loader can be gone through only once, is empty, or its batches are not pairs (inputs, labels); or if a
        later batch does not pass through the tail of the first.
    """
    if not isinstance(loader, Iterable):
        raise TypeError(f"`inputs` must be a Tensor or a loader of pairs (inputs, labels), got {shown(loader)}")
    if iter(loader) is loader:
        raise ValueError("`inputs` is an iterator, which can be read only once; pass the loader itself")
    first = next(_pairs(model, loader), None)
    if first is None:
        raise ValueError("`inputs` must be a loader that gives at least one batch, got none")
    tail = linear_tail(model, *first)
    watch, moments = Watch(model), None
    with watch.recording():
        for index, (inputs, labels) in enumerate(_pairs(model, loader)):
            watch.run(inputs, labels)
            if tail.weights:
                entering = _checked(tail, watch, index)
                num_classes = len(tail.weights[-1])
                check_batch_labels(labels, len(inputs), num_classes)
                found = ClassMoments.from_features(entering.double(), labels.cpu(), num_classes, covariance=True)
                moments = found if moments is None else moments.merge(found)
            watch.forget()
    tail = replace(tail, moments=watch.moments)
    if moments is None:
        return None, tail
    check_two_classes(len(moments.present))
    return LinearProblem.of_moments(tail.weights, moments, biases=tail.biases, output_scale=output_scale), tail


def _pairs(model: nn.Module, loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels of every batch."""
    for batch in loader:
        parts = split_batch(batch, model)
        if len(parts.args) != 1 or not isinstance(parts.args[0], Tensor) or parts.kwargs:
            raise ValueError(
                "`inputs` must be a loader of pairs (inputs, labels); pass inputs and labels of other batches"
            )
        inputs, labels = parts.args[0], parts.labels
        if not isinstance(labels, Tensor):
            labels = torch.as_tensor(labels, device="cpu")
        check_inputs(inputs)
        check_batch_labels(labels, len(inputs))
        yield inputs, labels


def _checked(tail: LinearTail, watch: Watch, index: int) -> Tensor:
    """What enters the tail in the batch that has just run, once it has been followed to the output."""
    calls = watch.named_calls()
    images = watch.outputs[-1]
    for name, weight, bias in zip(reversed(tail.names), reversed(tail.weights), reversed(tail.biases), strict=True):
        features = _features(calls.get(name), len(images))
        if features is None or not fits(Affine(weight, bias), features, images, calls[name].unit):
            raise ValueError(
                f"batch {index} does not pass layer {name!r} by the affine map of the first batch; pass `inputs` and "
                "`labels` as tensors, whose tail is what all of them pass"
            )
        images = features
    return images


def _features(call: Call | None, num_samples: int) -> Tensor | None:
    """What entered a layer in one batch; None if it did not run once, on one row per sample."""
    if call is None or len(call.features) != 1 or len(call.features[0]) != num_samples:
        return None
    return call.features[0]

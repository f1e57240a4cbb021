"""The linear tail of a network on a loader: one pass, and no sample is kept."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from neurocollapse.data.batches import split_batch
from neurocollapse.passes.collect import collect
from neurocollapse.theory.problem import LinearProblem
from neurocollapse.theory.tail import LinearTail, linear_tail

INPUT = "@in"


def streamed_tail(
    model: nn.Module, loader: Iterable[Any], *, output_scale: float = 1.0
) -> tuple[LinearProblem | None, LinearTail]:
    """Find the affine maps that a network ends with on the first batch, then stream the moments of what enters them.

    The d₀ × d₀ within-class scatter and the class means of the tail's input are all that theorems about tails need.

    Returns
    -------
    (LinearProblem or None, LinearTail)
        No problem if there is no tail.

    Raises
    ------
    ValueError
        If the loader can be gone through only once, is empty, or its batches are not pairs (inputs, labels).
    """
    if iter(loader) is loader:
        raise ValueError("`inputs` is an iterator, which can be gone through only once; pass the loader itself")
    inputs, labels = _first_batch(model, loader)
    tail = linear_tail(model, inputs, labels)
    if not tail.weights:
        return None, tail
    num_classes = len(tail.weights[-1])
    options = {"num_classes": num_classes, "covariance": True, "precision": "double", "progress": False}
    path, _, call = tail.names[0].partition("#")
    moments = collect(model, loader, layers=[path + INPUT], **options)  # type: ignore[arg-type]
    chosen = [name for name in moments if not call or name.endswith(f"#{call}")]
    problem = LinearProblem.of_moments(tail.weights, moments[chosen[0]], biases=tail.biases, output_scale=output_scale)
    # The batches' own moments of the layers before would be those of one batch only.
    return problem, replace(tail, moments={})


def _first_batch(model: nn.Module, loader: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """Inputs and labels of the first batch."""
    for batch in loader:
        parts = split_batch(batch, model)
        if len(parts.args) == 1 and isinstance(parts.args[0], Tensor) and not parts.kwargs:
            return parts.args[0], torch.as_tensor(parts.labels)
        raise ValueError("`inputs` must be a loader of pairs (inputs, labels); pass inputs and labels of other batches")
    raise ValueError("`inputs` must be a loader that gives at least one batch, got none")

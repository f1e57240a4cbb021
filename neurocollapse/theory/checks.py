"""What inputs, labels and weights of a verification must be."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def check_inputs(inputs: Tensor) -> None:
    """Raise unless there are samples, each with features, all of them finite."""
    if inputs.ndim < 2 or len(inputs) == 0:
        raise ValueError(f"`inputs` must have shape (samples, features), got {tuple(inputs.shape)}")
    finite = torch.isfinite(inputs).flatten(1).all(1)
    if not bool(finite.all()):
        place = int((~finite).nonzero()[0])
        raise ValueError(f"`inputs` must be finite, got NaN or infinity in sample {place}; leave such samples out")


def check_labels(labels: Tensor, num_samples: int, num_classes: int | None = None) -> None:
    """Raise unless there is one class index per sample, of at least two classes; None if the outputs are unknown."""
    check_batch_labels(labels, num_samples, num_classes)
    check_two_classes(1 + int(labels.max() > labels.min()))


def check_batch_labels(labels: Tensor, num_samples: int, num_classes: int | None = None) -> None:
    """Raise unless there is one class index per sample."""
    if labels.ndim != 1 or len(labels) != num_samples or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"`labels` must hold one integer per sample ({num_samples}), "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    expected = "≥ 0" if num_classes is None else f"in [0, {num_classes}), one per output of the network"
    wrong = ((labels < 0) | (labels >= (math.inf if num_classes is None else num_classes))).nonzero()
    if wrong.numel():
        place = int(wrong[0])
        raise ValueError(f"`labels` must hold integers {expected}, got {int(labels[place])} at position {place}")


def check_two_classes(count: int) -> None:
    """Raise unless at least two classes have samples."""
    if count < 2:
        raise ValueError(
            "`labels` must hold at least two classes, got one; D_l and S_l compare classes with each other"
        )


def check_weights(weights: Sequence[Tensor], num_features: int) -> None:
    """Raise unless the weights are finite float matrices that chain from the inputs on."""
    width = num_features
    for layer, weight in enumerate(weights, start=1):
        if weight.ndim != 2 or not weight.is_floating_point():
            raise ValueError(
                f"weight {layer} must be a real matrix of shape (out, in), got {weight.dtype} of shape "
                f"{tuple(weight.shape)}; convolutions have no place in a deep linear network"
            )
        if weight.shape[1] != width:
            before = "`inputs` have" if layer == 1 else f"weight {layer - 1} gives"
            raise ValueError(
                f"weight {layer} takes {weight.shape[1]} features but {before} {width}; weights are (out, in)"
            )
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(f"weight {layer} holds NaN or infinite entries; verify a network whose training converged")
        width = weight.shape[0]


def check_biases(biases: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    """Raise unless there is one finite vector per weight, one entry per output."""
    if len(biases) != len(weights):
        raise ValueError(f"`biases` must hold one vector per weight ({len(weights)}), got {len(biases)}")
    for layer, (bias, weight) in enumerate(zip(biases, weights, strict=True), start=1):
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias {layer} must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
        if not bool(torch.isfinite(bias).all()):
            raise ValueError(f"bias {layer} holds NaN or infinite entries; verify a network whose training converged")

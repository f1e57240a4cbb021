"""A deep linear network on labelled data, in float64, and the numbers of it that theorems speak about."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from neurocollapse.statistics import ClassMoments


class SVD(NamedTuple):
    """Full singular value decomposition: weight = left · diag(values) · rightᵀ, both bases square."""

    left: Tensor
    values: Tensor
    right: Tensor


@dataclass(frozen=True, eq=False)
class LinearProblem:
    """A deep linear network and its data; everything float64 on the CPU.

    Attributes
    ----------
    weights : tuple of L Tensors, the l-th of shape (d_l, d_{l−1})
    inputs : Tensor of shape (samples, d₀)
    labels : Tensor of shape (samples,)
    output_scale
        α: the network's output is α W_{L:1} x.
    dtype
        What the weights came in.
    """

    weights: tuple[Tensor, ...]
    inputs: Tensor
    labels: Tensor
    output_scale: float = 1.0
    dtype: torch.dtype = torch.float64

    @classmethod
    def of(
        cls, weights: Sequence[Tensor], inputs: Tensor, labels: Tensor, *, output_scale: float = 1.0
    ) -> "LinearProblem":
        """Check shapes and convert.

        Raises
        ------
        ValueError
            If weights do not chain, do not fit the inputs, labels exceed the number of outputs, or a number is not
            finite.
        """
        weights = [torch.as_tensor(weight).detach() for weight in weights]
        if not weights:
            raise ValueError("`model` must hold at least one weight matrix, got none")
        inputs, labels = torch.as_tensor(inputs).detach(), torch.as_tensor(labels).detach()
        check_inputs(inputs)
        inputs = inputs.flatten(1)
        _check_weights(weights, inputs.shape[1])
        check_labels(labels, len(inputs), weights[-1].shape[0])
        if not (math.isfinite(output_scale) and output_scale > 0):
            raise ValueError(f"`output_scale` must be a positive number, got {output_scale!r}")
        doubles = tuple(weight.cpu().double() for weight in weights)
        dtype = min((weight.dtype for weight in weights), key=lambda kind: -torch.finfo(kind).eps)
        return cls(doubles, inputs.cpu().double(), labels.cpu().long(), float(output_scale), dtype)

    @property
    def depth(self) -> int:
        """L, the number of weight matrices."""
        return len(self.weights)

    @property
    def num_classes(self) -> int:
        """K, the number of outputs."""
        return int(self.weights[-1].shape[0])

    @property
    def widths(self) -> tuple[int, ...]:
        """(d₀, …, d_{L−1}), the features the theorems speak about."""
        return tuple(int(weight.shape[1]) for weight in self.weights)

    @cached_property
    def counts(self) -> Tensor:
        """Samples of each class, shape (classes,)."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    @property
    def samples_per_class(self) -> float:
        """n, or NaN when the classes differ in size."""
        return float(self.counts[0]) if bool((self.counts == self.counts[0]).all()) else math.nan

    @cached_property
    def targets(self) -> Tensor:
        """Y/α of shape (classes, samples): what W_{L:1}X has to be."""
        return torch.nn.functional.one_hot(self.labels, self.num_classes).double().T / self.output_scale

    @cached_property
    def features(self) -> tuple[Tensor, ...]:
        """(Z⁰, …, Z^{L−1}), each of shape (d_l, samples)."""
        features = [self.inputs.T]
        for weight in self.weights[:-1]:
            features.append(weight @ features[-1])
        return tuple(features)

    @cached_property
    def moments(self) -> tuple[ClassMoments, ...]:
        """Class moments of every feature layer."""
        return tuple(ClassMoments.from_features(Z.T, self.labels, self.num_classes) for Z in self.features)

    @cached_property
    def class_means(self) -> Tensor:
        """Means of the inputs of the classes present, shape (d₀, classes present)."""
        assignment = torch.nn.functional.one_hot(self.labels, self.num_classes).double()[:, self.counts > 0]
        return self.inputs.T @ assignment / assignment.sum(0)

    @property
    def centred_means(self) -> Tensor:
        """Class means less their mean, each class with equal weight: M."""
        return self.class_means - self.class_means.mean(1, keepdim=True)

    @cached_property
    def residuals(self) -> Tensor:
        """Inputs less the mean of their class, shape (d₀, samples): R."""
        present = (self.counts > 0).long().cumsum(0) - 1
        return self.inputs.T - self.class_means[:, present[self.labels]]

    @cached_property
    def spreads(self) -> tuple[Tensor, ...]:
        """Within-class residuals of every feature layer, W_{l:1}R for l = 0 … L−1."""
        spreads = [self.residuals]
        for weight in self.weights[:-1]:
            spreads.append(weight @ spreads[-1])
        return tuple(spreads)

    @cached_property
    def decompositions(self) -> tuple[SVD, ...]:
        """Full SVDs of W_1, …, W_{L−1}."""
        return tuple(full_svd(weight) for weight in self.weights[:-1])

    @cached_property
    def reachable_weights(self) -> tuple[Tensor, ...]:
        """The weights restricted to what the layers before can reach: W̃_l = Q_lᵀ W_l Q_{l−1}.

        Q_l is an orthonormal basis of the range of W_l Q_{l−1} where layer l has more features than that, else the
        identity. Features are only turned, Z^l = Q_l Z̃^l, so D_l and S_l stay; square networks stay as they are.
        """
        reachable, basis = [], None
        for weight in self.weights[:-1]:
            reached = weight if basis is None else weight @ basis
            if reached.shape[0] > reached.shape[1]:
                basis, reached = torch.linalg.qr(reached)
            else:
                basis = None
            reachable.append(reached)
        last = self.weights[-1]
        return (*reachable, last if basis is None else last @ basis)

    @cached_property
    def resolution(self) -> Tensor:
        """Part of the within-class spread of layer l that rounding alone may make up, shape (L,).

        Rounding a weight to relative accuracy u moves ‖W_{l:1}R‖ by up to about l u ‖W_l‖ ⋯ ‖W_1‖ ‖R‖.
        """
        unit = torch.finfo(self.dtype).eps
        reach, parts = float(self.residuals.norm()), [0.0]
        for layer, svd in enumerate(self.decompositions, start=1):
            reach *= float(svd.values[0])
            size = float(self.spreads[layer].norm())
            parts.append(layer * unit * reach / size if size > 0 else math.inf)
        return torch.tensor(parts, dtype=torch.float64)


def full_svd(weight: Tensor) -> SVD:
    """Decompose a matrix with both bases complete."""
    left, values, right = torch.linalg.svd(weight, full_matrices=True)
    return SVD(left, values, right.T)


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
    if int(labels.max()) == int(labels.min()):
        raise ValueError(
            "`labels` must hold at least two classes, got one; D_l and S_l compare classes with each other"
        )


def _check_weights(weights: Sequence[Tensor], num_features: int) -> None:
    """Raise unless the weights are finite float matrices that chain from the inputs on."""
    width = num_features
    for layer, weight in enumerate(weights, start=1):
        if weight.ndim != 2 or not weight.is_floating_point():
            raise ValueError(
                f"weight {layer} must be a real matrix of shape (out, in), got {weight.dtype} of shape "
                f"{tuple(weight.shape)}; convolutions and biases have no place in a deep linear network"
            )
        if weight.shape[1] != width:
            before = "`inputs` have" if layer == 1 else f"weight {layer - 1} gives"
            raise ValueError(
                f"weight {layer} takes {weight.shape[1]} features but {before} {width}; weights are (out, in)"
            )
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(f"weight {layer} holds NaN or infinite entries; verify a network whose training converged")
        width = weight.shape[0]

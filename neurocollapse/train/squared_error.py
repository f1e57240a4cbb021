"""Gradients of the squared error: closed form for chains of matrices, autograd for any module."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from neurocollapse.support.checks import positive_number
from neurocollapse.support.choices import check_choice
from neurocollapse.train.settings import TrainingError

REDUCTIONS = ("half_sum", "half_mean", "sum_over_samples")


@dataclass(frozen=True)
class Objective:
    """A multiple of ‖α f(X) − Y‖²: "half_sum" ½ Σ, "half_mean" ½ Σ/(NK), "sum_over_samples" Σ/N."""

    reduction: str
    output_scale: float
    factor: float

    @classmethod
    def of(cls, reduction: str, output_scale: float, targets: Tensor) -> "Objective":
        """Return the objective for targets of shape (samples, outputs)."""
        check_choice("reduction", reduction, REDUCTIONS)
        output_scale = positive_number("output_scale", output_scale)
        factor = {"half_sum": 0.5, "half_mean": 0.5 / targets.numel(), "sum_over_samples": 1 / targets.shape[0]}
        return cls(reduction, output_scale, factor[reduction])


class Engine(Protocol):
    """What gradient descent needs: the loss at the current weights, and one update of them."""

    parameters: list[Tensor]

    def loss(self) -> float:
        """Return the objective at the current weights and remember what its gradient needs."""

    def update(self, learning_rate: float, weight_decay: float) -> None:
        """Take W ← (1 − ηλ) W − η ∇, all gradients at the weights `loss` has seen."""


class LinearEngine:
    """A deep linear network's own gradient, ∇W_l = (W_L ⋯ W_{l+1})ᵀ (W_{L:1}X − Y) (W_{l−1:1}X)ᵀ, without a graph.

    The features W_{l:1}X of the forward pass and the errors pulled back through the layers are each formed once:
    3L − 1 products a step, the update fused into the last of them. With N > d samples, X = X'Q with Q orthonormal
    rows; ‖WX − Y‖² = ‖WX' − YQᵀ‖² + const, so the products have min(N, d) columns.
    """

    def __init__(self, weights: Sequence[Tensor], inputs: Tensor, targets: Tensor, objective: Objective) -> None:
        self.parameters = list(weights)
        self.objective = objective
        self.features, self.targets, self.unreachable = _compressed(inputs, targets)
        columns = self.features.shape[1]
        self.forward = [self.features, *(weight.new_empty(weight.shape[0], columns) for weight in weights)]
        self.pulled = [weight.new_empty(weight.shape[1], columns) for weight in weights]
        self.error = self.forward[-1].new_empty(self.forward[-1].shape)

    def loss(self) -> float:
        """Run the forward pass into the buffers."""
        for layer, weight in enumerate(self.parameters):
            torch.mm(weight, self.forward[layer], out=self.forward[layer + 1])
        torch.mul(self.forward[-1], self.objective.output_scale, out=self.error).sub_(self.targets)
        flat = self.error.view(-1)
        return self.objective.factor * (float(flat @ flat) + self.unreachable)

    def update(self, learning_rate: float, weight_decay: float) -> None:
        """Pull the error back layer by layer, each weight used before it changes."""
        rate = -2 * self.objective.factor * self.objective.output_scale * learning_rate
        keep = 1 - learning_rate * weight_decay
        error = self.error
        for layer in reversed(range(len(self.parameters))):
            weight = self.parameters[layer]
            if layer:
                torch.mm(weight.T, error, out=self.pulled[layer])
            weight.addmm_(error, self.forward[layer].T, beta=keep, alpha=rate)
            error = self.pulled[layer]


class ModuleEngine:
    """Any module's gradient through autograd, in the dtype of its parameters; they are updated in place."""

    def __init__(self, module: nn.Module, inputs: Tensor, targets: Tensor, objective: Objective) -> None:
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not trainable:
            raise TrainingError(
                f"`model` has nothing to train: no parameter of {type(module).__name__} needs a gradient"
            )
        self.parameters: list[Tensor] = list(trainable)
        self.module = module
        self.objective = objective
        self.inputs = inputs.to(trainable[0])
        self.targets = targets.to(trainable[0])
        self.value: Tensor | None = None

    def loss(self) -> float:
        """Run the module and keep the graph until the update."""
        with torch.enable_grad():
            outputs = self.module(self.inputs)
            if not isinstance(outputs, Tensor) or outputs.shape != self.targets.shape:
                came = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
                raise TrainingError(
                    f"`model` must return outputs of `targets`' shape {tuple(self.targets.shape)}, got {came}"
                )
            residual = self.objective.output_scale * outputs - self.targets
            self.value = self.objective.factor * residual.square().sum()
        return float(self.value.detach())

    def update(self, learning_rate: float, weight_decay: float) -> None:
        """Differentiate once, then update every parameter."""
        if self.value is None:
            raise TrainingError("`update` needs the gradient at the current weights; call `loss` first")
        gradients = torch.autograd.grad(self.value, self.parameters)
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.mul_(1 - learning_rate * weight_decay).sub_(gradient, alpha=learning_rate)
        self.value = None


def _compressed(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return X' (d × min(N, d)), Y' and the part of ‖Y‖² no linear map of the inputs reaches."""
    if inputs.shape[0] <= inputs.shape[1]:
        return inputs.T.contiguous(), targets.T.contiguous(), 0.0
    frame, triangle = torch.linalg.qr(inputs)
    reached = targets.T @ frame
    return triangle.T.contiguous(), reached, float((targets.T - reached @ frame.T).square().sum())

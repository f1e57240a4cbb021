"""Full-batch gradient descent of many small networks of one shape at once: linear ones, or with ReLU between layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neurocollapse.support.progress import progress_bar
from neurocollapse.train import TrainingError


@dataclass(frozen=True, eq=False)
class Stack:
    """Networks after training.

    Attributes
    ----------
    weights : tuple of L Tensors of shape (networks, out, in)
    losses : Tensor of shape (records, networks)
        ½ mean over all output entries at steps 0, every, 2·every, …; NaN once a network has stopped.
    final_loss : Tensor of shape (networks,)
    steps : Tensor of shape (networks,), int64
        Updates taken.
    converged : Tensor of shape (networks,), bool
        Whether the loss fell to the tolerance.
    """

    weights: tuple[Tensor, ...]
    losses: Tensor
    final_loss: Tensor
    steps: Tensor
    converged: Tensor


def descend_stack(
    weights: Sequence[Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    learning_rate: float,
    num_steps: int,
    tolerance: float,
    relu: bool = False,
    every: int = 1,
    progress: bool = False,
) -> Stack:
    r"""Minimise ½ mean (f(X) − Y)² of every network by gradient descent; each stops at the tolerance on its own.

    Parameters
    ----------
    weights
        W_1, …, W_L, each of shape (networks, out, in), float64; copied.
    inputs : Tensor of shape (networks, features, samples)
    targets : Tensor of shape (outputs, samples)
    relu
        Put max(·, 0) after every layer but the last.
    every
        Keep the loss of every so many steps.

    Raises
    ------
    TrainingError
        If a loss stops being finite.

    Examples
    --------
    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> stack = descend_stack([torch.stack([eye, 2 * eye])], eye[None].expand(2, 2, 2), 3 * eye,
    ...                       learning_rate=4.0, num_steps=1, tolerance=1e-9)
    >>> stack.weights[0][:, 0, 0].tolist(), stack.converged.tolist()
    ([3.0, 3.0], [True, True])
    """
    run = _Run([weight.clone() for weight in weights], inputs, targets, relu)
    final = tuple(weight.clone() for weight in weights)
    num_networks = len(inputs)
    losses = inputs.new_full((num_steps // every + 1, num_networks), math.nan)
    final_loss, steps = inputs.new_empty(num_networks), torch.zeros(num_networks, dtype=torch.int64)
    converged, active = torch.zeros(num_networks, dtype=torch.bool), torch.arange(num_networks)
    for step in progress_bar(range(num_steps + 1), shown=progress, leave=False, desc="descent"):
        loss = run.forward()
        if not bool(loss.isfinite().all()):
            raise TrainingError(f"a loss is not finite at step {step}; use a smaller learning rate")
        if step % every == 0:
            losses[step // every, active] = loss
        reached = loss <= tolerance
        stopped = torch.ones_like(reached) if step == num_steps else reached
        if bool(stopped.any()):
            those = active[stopped]
            for kept, weight in zip(final, run.weights, strict=True):
                kept[those] = weight[stopped]
            final_loss[those], steps[those], converged[those] = loss[stopped], step, reached[stopped]
            active = active[~stopped]
            run.keep(~stopped)
            if not len(active):
                break
        run.update(learning_rate)
    return Stack(final, losses[: step // every + 1], final_loss, steps, converged)


def features(weights: Sequence[Tensor], inputs: Tensor, *, relu: bool = False) -> list[Tensor]:
    """Z⁰ = X, Z¹, …, Z^L of shape (networks, width, samples): after the ReLU, where there is one.

    Examples
    --------
    >>> one = torch.ones(1, 1, 1)
    >>> [float(value) for value in features([-one, one], 2 * one, relu=True)]
    [2.0, 0.0, 0.0]
    """
    found: list[Tensor] = [inputs]
    for layer, weight in enumerate(weights, start=1):
        values = torch.bmm(weight, found[-1])
        found.append(values.clamp_min_(0) if relu and layer < len(weights) else values)
    return found


def stacked(networks: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The l-th weights of all networks as one tensor, for every l: layers of shape (networks, out, in)."""
    return [torch.stack(layer) for layer in zip(*networks, strict=True)]


@dataclass
class _Run:
    """The networks that are still being trained."""

    weights: list[Tensor]
    inputs: Tensor
    targets: Tensor
    relu: bool
    found: list[Tensor] = field(default_factory=list)
    error: Tensor = field(default_factory=lambda: torch.empty(0))

    def forward(self) -> Tensor:
        """Losses of shape (networks,); features and errors stay for the update."""
        self.found = features(self.weights, self.inputs, relu=self.relu)
        self.error = self.found[-1] - self.targets
        return self.error.square().mean((1, 2)) / 2

    def keep(self, those: Tensor) -> None:
        """Drop the other networks."""
        self.weights = [weight[those] for weight in self.weights]
        self.inputs, self.error = self.inputs[those], self.error[those]
        self.found = [values[those] for values in self.found]

    def update(self, learning_rate: float) -> None:
        """Pull the error back layer by layer, each weight used before it changes."""
        error = self.error / self.targets.numel()
        for layer in reversed(range(len(self.weights))):
            below = self.found[layer]
            pulled = torch.bmm(self.weights[layer].mT, error) if layer else error
            self.weights[layer].baddbmm_(error, below.mT, alpha=-learning_rate)
            error = pulled.mul_(below > 0) if self.relu and layer else pulled

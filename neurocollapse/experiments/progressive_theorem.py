"""Experiment 13: a deep linear network trained on noisy orthonormal data, and the theorem about it."""

from dataclasses import dataclass

from torch import Tensor

from neurocollapse.data.synthetic import balanced_labels, noisy_orthonormal, one_hot
from neurocollapse.models.linear import linear_weights
from neurocollapse.theory import Verification, verify
from neurocollapse.train.descent import cosine, descend


@dataclass(frozen=True)
class ProgressiveTheorem:
    """Setting of the experiment, as the source prints it.

    Attributes
    ----------
    num_classes, samples_per_class : int
    width, depth : int
        Features of the data and of every hidden layer; number of weight matrices.
    noise : float
        Frobenius norm of what is added to orthonormal samples.
    init_scale : float
        ε of the orthogonal initialisation.
    output_scale : float
        α: the network's output is α W_{L:1} x.
    learning_rate : float
        Of the loss Σ‖α W_{L:1} x_i − y_i‖² / N; falls to a tenth along a cosine.
    num_steps : int
    tolerance : float
        Loss at which training stops.
    """

    num_classes: int = 3
    samples_per_class: int = 10
    width: int = 50
    depth: int = 6
    noise: float = 1.0
    init_scale: float = 0.3
    output_scale: float = 100.0
    learning_rate: float = 0.1
    num_steps: int = 2000
    tolerance: float = 1e-11


def progressive_theorem(setting: ProgressiveTheorem | None = None, *, seed: int = 0) -> Verification:
    """Train the network and verify progressive compression and separation on it. Takes a few seconds.

    Parameters
    ----------
    setting : ProgressiveTheorem, optional
        Default: the printed one.
    seed : int
        Of data and initial weights.

    References
    ----------
    Qu, slides of 7 September 2023; Wang et al., JMLR 26(220), 2025.
    """
    setting = setting or ProgressiveTheorem()
    weights, inputs, labels = train_linear_network(setting, seed=seed)
    return verify(weights, inputs, labels, output_scale=setting.output_scale)


def train_linear_network(setting: ProgressiveTheorem, *, seed: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Weights after training, and the data: inputs (samples, features), labels (samples,)."""
    num_samples = setting.num_classes * setting.samples_per_class
    inputs = noisy_orthonormal(num_samples, setting.width, noise=setting.noise, seed=seed)
    labels = balanced_labels(setting.num_classes, setting.samples_per_class)
    widths = [setting.width] * setting.depth + [setting.num_classes]
    result = descend(
        linear_weights(widths, "orth", setting.init_scale, seed=seed),
        inputs,
        one_hot(labels),
        learning_rate=cosine(setting.learning_rate, setting.learning_rate / 10, setting.num_steps),
        num_steps=setting.num_steps,
        tolerance=setting.tolerance,
        reduction="sum_over_samples",
        output_scale=setting.output_scale,
    )
    return list(result.weights), inputs, labels

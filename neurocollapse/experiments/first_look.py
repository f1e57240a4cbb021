"""The main job: two networks trained on digits, what each of their layers does, and what theory says of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from neurocollapse import data, plots
from neurocollapse.data import Labelled
from neurocollapse.experiments.collapse.progressive_theorem import ProgressiveTheorem, progressive_theorem
from neurocollapse.hooks import capture
from neurocollapse.models import HybridMLP, init_weights
from neurocollapse.passes.analyze import analyze
from neurocollapse.support.progress import announce
from neurocollapse.support.quiet import one_thread
from neurocollapse.theory import Verification, verify
from neurocollapse.train import evaluate, fit

NETWORKS = {"MLP": (7, 0), "hybrid": (3, 4)}
"""Nonlinear and linear hidden layers of each network."""
WIDTH = 256
INIT_SCALE = 0.45
TRAINING: dict[str, Any] = {
    "epochs": 60,
    "batch_size": 128,
    "optimizer": "adam",
    "learning_rate": 5e-4,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "loss": "mse",
}
"""As in the source's experiment, but narrower, with Adam, and at an initial scale at which digits are learnt."""
UNSCALED = ProgressiveTheorem(output_scale=1.0, learning_rate=0.3, num_steps=20_000)
"""The source's deep linear network without its output scale of 100, at which it would not find the least norm."""
PICTURED = ("input", "layers.0", "layers.2", "layers.6")
PICTURED_SAMPLES = 500
PICTURES = {"MLP": {"pca": "principal components"}, "hybrid": {"pca": "principal components", "tsne": "t-SNE"}}


@dataclass(frozen=True)
class FirstLook:
    """The results of `first_look`.

    Attributes
    ----------
    analyses : mapping of network name to xarray.Dataset
        One row a hidden layer, with the input as layer 0; accuracies and settings in the attributes.
    verifications : mapping of title to Verification
        Verifications of the hybrid's linear layers, and of deep linear networks on nearly orthonormal data.
    figures : mapping of caption to matplotlib Figure
        Features of some layers in two dimensions.
    """

    analyses: Mapping[str, xr.Dataset]
    verifications: Mapping[str, Verification]
    figures: Mapping[str, Any]


def first_look(*, seed: int = 0, progress: bool = True, epochs: int | None = None) -> FirstLook:
    """Train a perceptron of seven nonlinear layers and a hybrid on scikit-learn's digits, and measure every layer.

    Shallow layers make the classes separable; deep layers compress them by a constant factor each, which shows most
    clearly where they are linear. The theorem about linear layers is then checked where its assumptions can hold (a
    deep linear network on nearly orthonormal data) and where they do not (the hybrid). Takes about half a minute.

    Parameters
    ----------
    seed : int, default 0
        Seed of initial weights and of the order of samples.
    progress : bool, default True
        Show progress bars and what each step does on a terminal.
    epochs : int, optional
        Train for fewer epochs than the job needs, to see it run.

    References
    ----------
    Wang et al., JMLR 26(220), 2025, Section 4; He and Su, PNAS 120(36), 2023.
    """
    training = TRAINING if epochs is None else {**TRAINING, "epochs": epochs}
    train, test = data.open("digits"), data.open("digits", split="test")
    analyses, figures, verifications = {}, {}, {}
    with one_thread(), torch.random.fork_rng(devices=[]):
        for name, (num_nonlinear, num_linear) in NETWORKS.items():
            title = f"{name}: {num_nonlinear} nonlinear and {num_linear} linear hidden layers of width {WIDTH}"
            announce(title, shown=progress)
            model = HybridMLP(64, WIDTH, 10, num_nonlinear=num_nonlinear, num_linear=num_linear)
            init_weights(model, "orth", INIT_SCALE, seed=seed)
            fit(model, train, seed=seed, progress=progress, **training)
            loader = train.loader(512)
            dataset = analyze(model, loader, layers="layers.*", include_input=True, probes=True, progress=progress)
            analyses[name] = dataset.assign_attrs(
                title=title,
                data=train.name,
                train_accuracy=evaluate(model, train).accuracy,
                test_accuracy=evaluate(model, test).accuracy,
                training=", ".join(f"{key}={value}" for key, value in training.items()),
                initialisation=f"orthogonal, scale {INIT_SCALE}",
                seed=seed,
            )
            if num_linear:
                announce(f"verifying the linear layers of the {name}", shown=progress)
                verifications[f"{name}, its linear layers"] = verify(model, *_tensors(train))
            shown, labels = _features(model, train)
            for method, drawing in PICTURES[name].items():
                announce(f"drawing its features in two dimensions: {drawing}", shown=progress)
                drawn = plots.features(shown, labels, method=method, layers=PICTURED, classes=train.classes, seed=seed)
                figures[f"{name}: features of four layers ({drawing})"] = drawn
        announce("verifying deep linear networks", shown=progress)
        verifications["deep linear network, as printed"] = progressive_theorem(seed=seed)
        verifications["deep linear network, output scale 1"] = progressive_theorem(UNSCALED, seed=seed)
    return FirstLook(analyses, verifications, figures)


def _tensors(samples: Labelled) -> tuple[Tensor, Tensor]:
    """All inputs and labels."""
    inputs, labels = next(iter(samples.loader(len(samples))))
    return inputs, labels


def _features(model: HybridMLP, samples: Labelled) -> tuple[dict[str, Tensor], Tensor]:
    """Input and hidden features of some samples."""
    inputs, labels = next(iter(samples.loader(PICTURED_SAMPLES, shuffle=True)))
    model.eval()
    with torch.no_grad(), capture(model, "layers.*") as features:
        model(inputs)
    return {"input": inputs.flatten(1), **features}, labels
